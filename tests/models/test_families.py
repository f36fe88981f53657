"""Each model family against `transformers` itself, on tiny models with random weights."""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText

from mmsafe.core.errors import UserError
from mmsafe.core.settings import Generation
from mmsafe.data.corruption import Crop
from mmsafe.data.example import Example, Turn
from mmsafe.generation.generate import Prompt, generate, left_padded
from mmsafe.models.encoding import Encoder
from mmsafe.models.family import Family, ImageBatch, families, family_of
from mmsafe.objectives.bpo import BPO
from mmsafe.objectives.dpo import DPO
from mmsafe.objectives.mdpo import MDPO
from mmsafe.scoring.collate import Item
from mmsafe.scoring.features import MemoryFeatures
from mmsafe.scoring.ways import Padded, SharedPrefix


def picture(height: int, width: int) -> Image.Image:
    pixels = np.random.default_rng(height * width).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


PICTURES = [picture(40, 60), picture(90, 50)]


@pytest.fixture(params=families(), ids=lambda family: family.name)
def family(request: pytest.FixtureRequest) -> Family:
    return request.param


def test_every_weight_is_in_one_part(family: Family):
    config, _ = family.tiny()
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    parts = {family.parts.of(name) for name, _ in model.named_parameters()}
    assert parts == {"vision", "connector", "language"}
    with pytest.raises(KeyError):
        family.parts.of("model.something.weight")


@pytest.mark.parametrize("count", [1, 2])
def test_images_of_a_prompt_are_those_of_the_whole_processor(family: Family, count: int):
    _, processor = family.tiny()
    pictures = PICTURES[:count]
    whole = processor(
        text=["See " + " and ".join([processor.image_token] * count)], images=[pictures], return_tensors="pt"
    )
    made = family.image_inputs(processor, pictures)
    text = "See " + " and ".join(image.text for image in made)
    assert processor.tokenizer(text)["input_ids"] == whole["input_ids"][0].tolist()
    batch = ImageBatch.of(made).tensors
    tiles = batch["pixel_values"]
    if whole["pixel_values"].dim() == 5:  # images padded to as many tiles
        whole["pixel_values"] = whole["pixel_values"].flatten(0, 1)
        kept = whole["pixel_values"].abs().flatten(1).amax(1) > 0
        whole["pixel_values"] = whole["pixel_values"][kept][: len(tiles)]
    assert torch.equal(tiles, whole["pixel_values"])


def test_positions_are_those_of_the_model(family: Family):
    config, processor = family.tiny()
    made = family.image_inputs(processor, PICTURES)
    token = family.image_token(processor)
    ids = processor.tokenizer("A " + " and ".join(image.text for image in made) + " or")["input_ids"]
    found = family.positions(ids, token, made)
    if family.token_types != "mm_token_type_ids":
        assert found == [list(range(len(ids)))]
        return
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    batch = ImageBatch.of(made).tensors
    row = torch.tensor([ids])
    expected, _ = model.model.get_rope_index(
        row, mm_token_type_ids=(row == token).int(), image_grid_thw=batch["image_grid_thw"]
    )
    assert found == expected[:, 0].tolist()


@dataclasses.dataclass(frozen=True)
class Picture:
    """An image of a size of its own."""

    height: int
    width: int

    @property
    def key(self) -> str:
        return f"{self.height} x {self.width}"

    name = key

    @property
    def shape(self) -> tuple[int, int]:
        return self.height, self.width

    def load(self) -> Image.Image:
        return picture(self.height, self.width)


def examples() -> list[Example]:
    texts = [("What is this?", Picture(40, 60)), ("And in which colour?", Picture(90, 50)), ("Hello there", None)]
    said = {"chosen": "It is a very red thing.", "rejected": "No.", "blind": "I see none"}
    return [Example(text, (Turn("user", text, image=image is not None),), image, said) for text, image in texts]


def tiny(family: Family, attention: str = "sdpa", window: int | None = None) -> tuple[Any, Encoder]:
    config, processor = family.tiny()
    processor.chat_template = processor.tokenizer.chat_template
    text = config.get_text_config()
    if window and hasattr(text, "sliding_window"):
        text.sliding_window, text.use_sliding_window = window, True
        if getattr(text, "layer_types", None):
            text.layer_types = ["sliding_attention", "full_attention", "sliding_attention"]
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config, attn_implementation=attention).eval()
    with torch.no_grad():  # what begins at zero would hide a mistake
        for weight in model.parameters():
            if not weight.any():
                weight.normal_(0, 0.3)
    return model, Encoder(processor)


@dataclasses.dataclass
class Loaded:
    """What generation asks of a loaded model."""

    model: Any
    made: Encoder

    def encoder(self) -> Encoder:
        return self.made


@pytest.mark.parametrize(
    ("objective", "options"),
    [
        (DPO(), {}),
        (BPO(), {}),
        (MDPO(), {}),
        (BPO(), {"attention": "eager"}),
        (BPO(), {"window": 3}),  # shorter than an image
        (BPO(), {"attention": "eager", "window": 3}),
    ],
    ids=["dpo", "bpo", "mdpo", "eager", "window", "eager, window"],
)
def test_packed_lines_give_the_log_probs_and_gradients_of_the_model_s_own_forward(
    family: Family, objective: Any, options: dict[str, Any]
):
    model, encoder = tiny(family, **options)
    found = []
    for scoring in (Padded(), SharedPrefix()):
        collator = scoring.collator(encoder, objective.groups, corruption=Crop())
        batch = scoring.with_features(model, collator([Item(example) for example in examples()]))
        rows = scoring.log_probs(model, batch)
        model.zero_grad()
        sum(row.log_probs.sum() for row in rows.values()).backward()
        gradients = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
        found.append(({name: row.log_probs.sum(1) for name, row in rows.items()}, gradients))
    (plain, expected), (packed, gradients) = found
    for name, sums in plain.items():
        torch.testing.assert_close(packed[name], sums, atol=1e-4, rtol=1e-5)
    assert gradients.keys() == expected.keys()
    for name, gradient in expected.items():
        assert (gradients[name] - gradient).norm() <= 1e-5 * gradient.norm() + 1e-4, name


def test_flex_attention_is_refused_for_windows_and_blocks(family: Family):
    model, encoder = tiny(family, window=3)
    slides = hasattr(model.config.get_text_config(), "sliding_window")
    batch = SharedPrefix().collator(encoder, DPO().groups)([Item(example) for example in examples()])
    with pytest.raises(UserError, match="flex_attention: not for masks of this model") if slides else nullcontext():
        batch.mask_for(model, "flex_attention")


def test_kept_features_score_the_same(family: Family):
    model, encoder = tiny(family)
    for name, weight in model.named_parameters():
        weight.requires_grad_(family.parts.of(name) == "language")
    cache, scoring = MemoryFeatures(1 << 30), SharedPrefix()
    collator = scoring.collator(encoder, DPO().groups, features=cache)
    sums = []
    for kept in (0, 2):
        batch = collator([Item(example) for example in examples()])
        assert batch.images is not None
        assert len(batch.images.kept) == kept
        with torch.no_grad():
            rows = scoring.log_probs(model, scoring.with_features(model, batch, cache))
        sums.append(rows["chosen"].log_probs.sum(1))
    assert torch.equal(*sums)


def test_an_image_is_decoded_once_a_batch_and_never_with_kept_features(family: Family, monkeypatch: Any):
    model, encoder = tiny(family)
    model.requires_grad_(False)
    decoded: list[str] = []
    monkeypatch.setattr(Picture, "load", lambda image: decoded.append(image.key) or picture(image.height, image.width))
    cache = MemoryFeatures(1 << 30)
    collator = SharedPrefix().collator(encoder, MDPO().groups, corruption=Crop(), features=cache)
    for expected in (["40 x 60", "40 x 60", "90 x 50", "90 x 50"], []):  # whole, and for its crop
        batch = collator([Item(example) for example in [*examples(), *examples()]])
        assert sorted(decoded) == expected
        SharedPrefix().with_features(model, batch, cache)
        decoded.clear()


def test_greedy_answers_are_those_of_generate(family: Family):
    model, encoder = tiny(family)
    processor, prompts = encoder.processor, examples()
    expected = []
    for prompt in prompts:
        text = [encoder.prompt_text(prompt)]
        images = {"images": [[prompt.image.load()]]} if prompt.image else {}
        whole = dict(processor(text=text, **images, return_tensors="pt"))
        whole.pop("num_crops", None)
        if whole["input_ids"][0, 0] != processor.tokenizer.bos_token_id:
            for name, first in (("input_ids", processor.tokenizer.bos_token_id), ("attention_mask", 1)):
                whole[name] = torch.nn.functional.pad(whole[name], (1, 0), value=first)
            for name in ("token_type_ids", "mm_token_type_ids"):
                if name in whole:
                    whole[name] = torch.nn.functional.pad(whole[name], (1, 0))
        ids = model.generate(**whole, max_new_tokens=6, do_sample=False)[0, whole["input_ids"].shape[1] :].tolist()
        expected.append(ids)
    inputs = left_padded(encoder, prompts, model.config)
    ids = model.generate(**inputs, max_new_tokens=6, do_sample=False)[:, inputs["input_ids"].shape[1] :].tolist()
    assert ids == expected


def test_an_unknown_family_is_told_with_those_that_are_known():
    with pytest.raises(UserError, match=r"model_type fuyu: .*gemma3, idefics3, internvl, llava, "):
        family_of("fuyu")


def test_samples_that_share_a_prompt_are_those_of_passes_of_their_own(family: Family):
    model, encoder = tiny(family)
    settings = Generation(max_new_tokens=8, batch_size=7)
    prompts = [Prompt(example, draw) for example in examples() for draw in range(2)] + [Prompt(examples()[0], 2)]
    passes: list[torch.Size] = []
    model.register_forward_pre_hook(
        lambda module, args, kwargs: passes.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    shared = dict(next(iter(generate(Loaded(model, encoder), prompts, settings))))
    assert [shape[0] for shape in passes] == [3, *[7] * (len(passes) - 1)]
    alone = {
        number: response
        for number, prompt in enumerate(prompts)
        for _, response in next(iter(generate(Loaded(model, encoder), [prompt], settings)))
    }
    assert shared == alone
