"""Teaches the tiny vision tower to see: the micro-world's stand-in for CLIP's own pre-training."""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from mmsafe.core.progress import progress
from mmsafe.microworld.icons import IconImage
from mmsafe.microworld.things import COLOURS, THINGS
from mmsafe.microworld.tiny_options import PretrainingStage
from mmsafe.microworld.world import image_seed
from mmsafe.models.encoding import Encoder


def pretrain_tower(tower: Any, encoder: Encoder, image_size: int, stage: PretrainingStage, seed: int) -> float:
    """Train `tower` to tell thing and colour from its mean patch; returns the last epoch's share of things told."""
    from transformers import get_cosine_schedule_with_warmup  # brings PEFT along, which loads for seconds

    rng = random.Random(f"microworld tower {seed}")
    icons = [
        IconImage(THINGS[i % len(THINGS)], image_seed("captions", seed, i), rng.choice(COLOURS), image_size)
        for i in range(stage.examples)
    ]
    torch.manual_seed(seed)
    heads = nn.Linear(tower.config.hidden_size, len(THINGS) + len(COLOURS))
    things = torch.tensor([THINGS.index(icon.thing) for icon in icons])
    colours = torch.tensor([COLOURS.index(icon.colour) for icon in icons])
    weights = [*tower.requires_grad_(True).parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=stage.lr, weight_decay=0.05)
    steps = stage.epochs * -(-len(icons) // stage.batch_size)
    schedule = get_cosine_schedule_with_warmup(optimizer, int(0.15 * steps), steps)
    with progress("drawing icons", len(icons)) as advance:
        drawn = []
        for icon in icons:
            drawn.append(encoder.pixels(icon).half())  # half the memory, and far below the nuisance variation
            advance(1)
    pixels = torch.stack(drawn)
    right = 0
    with progress("vision tower", steps) as advance:
        for _ in range(stage.epochs):
            right = 0
            for index in torch.randperm(len(icons)).split(stage.batch_size):
                patches = tower(pixels[index].float()).last_hidden_state[:, 1:]
                logits = heads(patches.mean(1))
                told, coloured = logits[:, : len(THINGS)], logits[:, len(THINGS) :]
                loss = cross_entropy(told, things[index]) + 0.5 * cross_entropy(coloured, colours[index])
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(weights, 1.0)
                optimizer.step()
                schedule.step()
                right += int((told.argmax(-1) == things[index]).sum())
                advance(1)
    return right / len(icons)
