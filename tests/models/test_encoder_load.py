"""A model's encoder without its weights: the same tokens as with them, from folders that hold none."""

import json
from pathlib import Path
from typing import Any

import original_folder as tiny
import pytest

from mmsafe.core.errors import UserError
from mmsafe.data.example import Example, Turn
from mmsafe.microworld.icons import IconImage
from mmsafe.microworld.tiny import TinyModel
from mmsafe.models.loading import checkpoint_source
from mmsafe.models.model_source import PretrainedLlava
from mmsafe.models.vlm import VLM

TURNS = (Turn("user", "What is a chat?"), Turn("assistant", "The answers."), Turn("user", "Why?", images=(0,)))
EXAMPLE = Example("1", TURNS, (IconImage("knife", 1, "red"),), {"chosen": "To the user's questions."})
WEIGHTS = ("*.safetensors", "*.safetensors.index.json")


def ids(encoder: Any) -> tuple[list[int], list[int]]:
    return encoder.prompt_ids(EXAMPLE), encoder.response_ids(EXAMPLE.responses["chosen"])


def without_weights(folder: Path) -> Path:
    for path in [path for pattern in WEIGHTS for path in folder.rglob(pattern)]:
        path.unlink()
    return folder


def test_hugging_face_s_format(tmp_path: Path, llava: VLM) -> None:
    llava.save(tmp_path)
    source = PretrainedLlava(path=str(tmp_path), append_eos=False)
    with_weights = ids(source.load().encoder())
    without_weights(tmp_path)
    assert ids(source.encoder()) == with_weights
    assert source.encoder().image_tokens == 16


def test_the_original_format(tmp_path: Path) -> None:
    folder = tiny.write_original(tmp_path / "model")
    source = PretrainedLlava(path=str(folder))
    with_weights = ids(source.load().encoder())
    without_weights(folder)
    assert ids(source.encoder()) == with_weights


def test_an_adapter_has_that_of_its_base(tmp_path: Path, llava: VLM) -> None:
    llava.save(tmp_path / "base")
    without_weights(tmp_path / "base")
    (tmp_path / "adapter").mkdir()
    about = {"peft_type": "LORA", "base_model_name_or_path": str(tmp_path / "base")}
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(about))
    assert ids(PretrainedLlava(path=str(tmp_path / "adapter")).encoder()) == ids(llava.encoder())


def test_the_tiny_model_is_not_trained_for_it(llava: VLM, own_cache: Path) -> None:
    assert ids(TinyModel().encoder()) == ids(llava.encoder())
    assert not any(own_cache.iterdir())


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (None, "has no config.json"),
        ({"model_type": "llama"}, "config.json says model_type llama: no family"),
        ({"model_type": "llava", "text_config": {}, "vision_config": {}}, "model.path="),
    ],
)
def test_what_is_missing_is_one_line(tmp_path: Path, config: dict[str, Any] | None, reason: str) -> None:
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=reason) as error:
        PretrainedLlava(path=str(tmp_path)).encoder()
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(f"model.path={tmp_path}: ")


@pytest.mark.parametrize("name", ["bpo_v1", "vicuna_v1"])
def test_a_chosen_template_comes_back_from_the_folder_of_a_run_and_changes_the_fingerprint(
    tmp_path: Path, llava: VLM, name: Any
) -> None:
    source = TinyModel(pretraining=None, chat_template=name)
    chosen = source.load()
    assert chosen.fingerprint() != TinyModel(pretraining=None).load().fingerprint()
    chosen.save(tmp_path / "model")
    (tmp_path / "run.json").write_text(json.dumps({"config": {"model": {"chat_template": name}}}))
    again = checkpoint_source(str(tmp_path), "checkpoint", TinyModel())
    assert again.chat_template is None, "it is in the folder, whatever happened to the file that was named"
    assert ids(again.encoder()) == ids(chosen.encoder()) != ids(llava.encoder())
    (tmp_path / "model").rename(tmp_path / "adapter")
    (tmp_path / "adapter" / "config.json").unlink()
    assert checkpoint_source(str(tmp_path), "checkpoint", TinyModel()).chat_template == name, "an adapter has none"
