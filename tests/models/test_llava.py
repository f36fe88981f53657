"""Loading checkpoints: one line on what is wrong, and pixels as LLaVA-1.5 was trained on them."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import LlavaForConditionalGeneration

from mmsafe.core.errors import UserError
from mmsafe.data.example import Example, Turn
from mmsafe.microworld.tiny import TinyModel
from mmsafe.microworld.tiny_options import Architecture
from mmsafe.models.model_options import Trained
from mmsafe.models.model_source import PretrainedLlava
from mmsafe.models.vlm import VLM, processor_hash, weights_hash

SIZES = Architecture(
    image_size=16, patch_size=8, vision_width=16, vision_layers=1, width=32, layers=1, heads=2, vocabulary=512
)


@pytest.fixture(scope="module")
def original() -> VLM:
    return TinyModel(architecture=SIZES, pretraining=None).load()


@pytest.fixture(scope="module")
def saved(original: VLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "model"
    original.save(folder)
    return folder


@pytest.fixture
def broken(saved: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(saved, tmp_path / "broken"))


def refused(path: Path | str | None, match: str) -> None:
    """Loading fails with one short line."""
    with pytest.raises(UserError, match=match) as error:
        PretrainedLlava(path=None if path is None else str(path)).load()
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600


def same(one: VLM, other: VLM) -> bool:
    return weights_hash(one.model) == weights_hash(other.model) and processor_hash(one.processor) == processor_hash(
        other.processor
    )


def edited(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        (None, "model.path is not set: name a folder"),
        *((path, f"^model.path={path}: no such folder$") for path in ("./nowhere", "/no/folder", "nowhere", "a/b/c")),
        (str(Path("~/none").expanduser()), "none: no such folder$"),
        ("llava-hf/llava-1.5-7b-hf", r"hf download llava-hf/llava-1\.5-7b-hf --local-dir DIR.*model\.path=DIR"),
    ],
)
def test_a_model_that_is_not_there_is_one_line(path: str | None, reason: str):
    refused(path, reason)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_missing_file_is_one_line(broken: Path, name: str):
    (broken / name).unlink()
    refused(broken, f"^model.path={broken}: ")


def test_a_checkpoint_without_chat_template_needs_one(broken: Path, tmp_path: Path, original: VLM):
    (broken / "chat_template.jinja").unlink()
    refused(broken, "has no chat template; set model.chat_template to a Jinja file")
    template = tmp_path / "mine.jinja"
    template.write_text(original.processor.chat_template)
    loaded = PretrainedLlava(path=str(broken), chat_template=template).load()
    assert same(loaded, original)


def test_a_missing_template_file_is_one_line(saved: Path, tmp_path: Path):
    with pytest.raises(UserError, match=r"mine\.jinja"):
        PretrainedLlava(path=str(saved), chat_template=tmp_path / "mine.jinja").load()


def test_a_run_folder_stands_for_the_model_in_it(saved: Path, original: VLM):
    assert saved.name == "model"
    assert same(PretrainedLlava(path=str(saved.parent)).load(), original)


def test_weights_that_are_not_in_the_checkpoint_are_not_made_up(saved: Path, broken: Path):
    model = LlavaForConditionalGeneration.from_pretrained(saved)
    state = {name: weight for name, weight in model.state_dict().items() if "multi_modal_projector" not in name}
    model.save_pretrained(broken, state_dict=state)
    refused(broken, "multi_modal_projector")


def test_options_are_applied(saved: Path):
    source = PretrainedLlava(
        path=str(saved),
        dtype="bfloat16",
        attention="eager",
        gradient_checkpointing=True,
        append_eos=False,
        train=Trained(projector=False),
    )
    llava = source.load()
    assert {parameter.dtype for parameter in llava.model.parameters()} == {torch.bfloat16}
    assert llava.model.config._attn_implementation == "eager"
    assert llava.model.is_gradient_checkpointing
    assert not any(p.requires_grad for p in llava.model.model.multi_modal_projector.parameters())
    assert llava.encoder().append_eos is False
    assert llava.source is source


def test_image_tokens_agree_with_the_vision_tower_whatever_the_checkpoint_says(broken: Path, original: VLM):
    """Older checkpoints leave `num_additional_image_tokens` out and count one token too few."""
    edited(broken / "processor_config.json", num_additional_image_tokens=0, patch_size=None)
    llava = PretrainedLlava(path=str(broken)).load()
    assert llava.encoder().image_tokens == original.encoder().image_tokens == 4
    example = Example("x", (Turn("user", "?", images=(0,)),), (Drawn(Image.new("RGB", (16, 16))),), {})
    ids = torch.tensor([llava.encoder().prompt_ids(example)])
    with torch.no_grad():
        llava.model(input_ids=ids, pixel_values=llava.encoder().pixels(example.images[0])[None])


class Drawn:
    """An image at hand."""

    key = name = "drawn"

    def __init__(self, image: Image.Image) -> None:
        self.image = image

    def load(self) -> Image.Image:
        return self.image


def test_padding_shows_the_whole_image_and_cropping_its_centre():
    wide = Image.new("RGB", (48, 16), "black")
    wide.paste("white", (0, 0, 8, 16))  # a bar at the left edge
    by_aspect = {}
    for aspect in ("pad", "crop"):
        llava = TinyModel(architecture=SIZES, pretraining=None, image_aspect_ratio=aspect).load()
        by_aspect[aspect] = llava.encoder().pixels(Drawn(wide))
    assert by_aspect["pad"].max() > 1.9
    assert by_aspect["pad"][:, 0].abs().max() < 0.02, "the border has the mean colour, zero after normalisation"
    assert by_aspect["crop"].max() < -1.4, "the bar is cut off"
