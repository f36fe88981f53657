"""Each model family against `transformers` itself, on tiny models with random weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText

from mmsafe.core.errors import UserError
from mmsafe.models.family import Family, ImageBatch, families, family_of

pytest.importorskip("num2words", reason="SmolVLM's processor wants num2words")


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
    batch = ImageBatch.of(made, [1] * count).tensors
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
    batch = ImageBatch.of(made, [1, 1]).tensors
    row = torch.tensor([ids])
    expected, _ = model.model.get_rope_index(
        row, mm_token_type_ids=(row == token).int(), image_grid_thw=batch["image_grid_thw"]
    )
    assert found == expected[:, 0].tolist()


def test_an_unknown_family_is_told_with_those_that_are_known():
    with pytest.raises(UserError, match=r"model_type fuyu: .*gemma3, idefics3, internvl, llava, "):
        family_of("fuyu")
