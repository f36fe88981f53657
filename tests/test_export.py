"""`mmsafe.export`: from either format to either format and back, bit by bit."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import original_folder as tiny
import pytest
import torch
from hub_server import hub_server
from huggingface_hub import ModelCard
from launching import QUICK, Ended, launch, succeed
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoProcessor, LlavaForConditionalGeneration

from mmsafe.core.settings import Generation
from mmsafe.data.example import Example, Turn
from mmsafe.experiment.exporting import export
from mmsafe.generation.generate import Prompt, generate
from mmsafe.microworld.tiny import TinyModel
from mmsafe.microworld.tiny_options import Architecture
from mmsafe.models.checkpoints import CheckpointError
from mmsafe.models.model_source import PretrainedLlava
from mmsafe.models.original.save import save_original

SIZES = Architecture(
    image_size=16, patch_size=8, vision_width=16, vision_layers=1, width=32, layers=1, heads=2, vocabulary=512
)


def run(place: Path, *overrides: str) -> Ended:
    return launch("export", *overrides, cwd=place)


def refused(place: Path, said: str, *overrides: str) -> None:
    """One line on stderr, status 2, and nothing written."""
    ended = run(place, *overrides)
    assert ended.status == 2, ended.err
    assert said in ended.err
    assert ended.err.count("\n") == 1
    assert not [path for path in place.iterdir() if "out" in path.name and path.name != "outputs"]


def tensors(folder: Path) -> dict[str, Tensor]:
    """All weights of a folder by the names in its files."""
    return {name: weight for file in folder.glob("*.safetensors") for name, weight in load_file(file).items()}


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(found[name].dtype == weight.dtype for name, weight in expected.items())
    assert not [name for name, weight in expected.items() if not torch.equal(found[name], weight)]


class Drawn:
    """An image at hand."""

    key = name = "drawn"

    def load(self) -> Image.Image:
        x, y = np.meshgrid(np.linspace(0, 255, 40), np.linspace(0, 255, 24))
        return Image.fromarray(np.stack([x, y, 255 - x], -1).astype(np.uint8))


def says(folder: Path, **options: Any) -> list[str]:
    """Greedy answers with and without image, in several turns."""
    again = (Turn("user", "What?"), Turn("assistant", "yes"), Turn("user", "Why?"))
    examples = [
        Example("a", (Turn("user", "What?", images=(0,)),), (Drawn(),), {}),
        Example("b", (Turn("user", "Why?"),), (), {}),
        Example("c", again, (), {}),
    ]
    settings = Generation(max_new_tokens=16, temperature=0, image_view="real")
    prompts = [Prompt(example) for example in examples]
    llava = PretrainedLlava(path=str(folder), **options).load()
    answers = dict(answer for batch in generate(llava, prompts, settings) for answer in batch)
    return [answers[number].text for number in range(len(prompts))]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_original(tmp_path_factory.mktemp("original") / "llava")


@pytest.fixture(scope="module")
def hf(original: Path) -> Path:
    return export(str(original), str(original.parent / "hf"), "hf")


def test_the_command_writes_what_its_options_say(original: Path, tmp_path: Path):
    ended = run(tmp_path, f"checkpoint={original}", "format=original", "out=new/folder")
    assert ended.status == 0, ended.err
    assert_equal(tensors(tmp_path / "new" / "folder"), tiny.weights())
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["folder"], "nothing unfinished is left"


@pytest.mark.parametrize(
    ("form", "shards", "dtype"),
    [("safetensors", 1, torch.float16), ("safetensors", 3, torch.bfloat16), ("bin", 3, torch.float32)],
)
def test_original_to_hf_to_original_is_exact(form: str, shards: int, dtype: torch.dtype, tmp_path: Path):
    tiny.write_original(tmp_path / "a", tiny.weights(dtype), form=form, shards=shards)
    export(str(tmp_path / "a"), str(tmp_path / "b"), "hf", allow_pickle=form == "bin")
    export(str(tmp_path / "b"), str(tmp_path / "c"), "original")
    assert_equal(tensors(tmp_path / "c"), tiny.weights(dtype))
    assert (tmp_path / "c" / "tokenizer.model").read_bytes() == tiny.sentencepiece_model()
    written = json.loads((tmp_path / "c" / "config.json").read_text())
    changed = {"mm_vision_tower": "vision_tower", "unfreeze_mm_vision_tower": True}
    assert written == tiny.config(**changed, torch_dtype=str(dtype).removeprefix("torch."))


def test_hf_to_original_to_hf_is_exact(hf: Path, tmp_path: Path):
    """The rows behind the vocabulary are made anew, from the same rows."""
    export(str(hf), str(tmp_path / "original"), "original")
    export(str(tmp_path / "original"), str(tmp_path / "hf"), "hf")
    assert_equal(tensors(tmp_path / "hf"), tensors(hf))


def test_rows_behind_the_vocabulary_are_cut_off_even_after_training(hf: Path, tmp_path: Path):
    llava = PretrainedLlava(path=str(hf), dtype="float32").load()
    with torch.no_grad():
        for weight in llava.model.parameters():
            weight += 1e-3
    llava.save(tmp_path / "run" / "model")
    assert not (tmp_path / "run" / "model" / "tokenizer.model").exists()
    export(str(tmp_path / "run"), str(tmp_path / "original"), "original")
    expected = {name: weight.float() + 1e-3 for name, weight in tiny.weights().items()}
    assert_equal(tensors(tmp_path / "original"), expected)
    assert says(tmp_path / "original") == says(tmp_path / "run")


def test_a_checkpoint_that_was_never_in_the_original_format_has_a_config_made_for_it(hf: Path, tmp_path: Path):
    shutil.copytree(hf, tmp_path / "hf")
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    (tmp_path / "hf" / "config.json").write_text(json.dumps(config | {"original_config": None}))
    (tmp_path / "hf" / "tokenizer.model").unlink()
    export(str(tmp_path / "hf"), str(tmp_path / "original"), "original")
    written = json.loads((tmp_path / "original" / "config.json").read_text())
    assert written["model_type"] == "llava_llama"
    known = tiny.config(unfreeze_mm_vision_tower=True, mm_vision_tower="vision_tower")
    unknown = {"_name_or_path", "freeze_mm_mlp_adapter", "model_type", "pretraining_tp", "transformers_version"}
    assert {name: written[name] for name in known.keys() - unknown} == {
        name: value for name, value in known.items() if name not in unknown
    }
    assert_equal(tensors(tmp_path / "original"), tiny.weights())
    assert says(tmp_path / "original") == says(tmp_path / "hf")


def test_greedy_answers_are_the_same_in_every_format(original: Path, hf: Path, tmp_path: Path):
    export(str(hf), str(tmp_path / "back"), "original")
    expected = says(original)
    assert all(expected)
    assert len(set(expected)) > 1
    assert says(hf) == expected
    assert says(tmp_path / "back") == expected


def test_another_chat_template_travels_along(hf: Path, tmp_path: Path):
    llava = PretrainedLlava(path=str(hf), dtype="float16", chat_template="llava_hf").load()
    llava.save(tmp_path / "hf")
    export(str(tmp_path / "hf"), str(tmp_path / "original"), "original")
    back = PretrainedLlava(path=str(tmp_path / "original")).load()
    assert back.processor.chat_template == llava.processor.chat_template
    assert says(tmp_path / "original") == says(tmp_path / "hf")


def test_plain_transformers_loads_the_hf_folder(hf: Path):
    model = LlavaForConditionalGeneration.from_pretrained(hf)
    processor = AutoProcessor.from_pretrained(hf)
    assert {weight.dtype for weight in model.parameters()} == {torch.float16}
    assert processor.image_processor.do_pad
    assert processor.tokenizer.convert_tokens_to_ids(["<image>", "<pad>"]) == [479, 480]
    assert model.config.image_token_index == 479
    inputs = processor(text="USER: <image> \nWhat? ASSISTANT:", images=Drawn().load(), return_tensors="pt")
    assert inputs["input_ids"][0].tolist().count(479) == 4
    with torch.no_grad():
        assert model.float()(**inputs).logits.isfinite().all()


def test_shards_are_written_with_their_index(hf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("mmsafe.models.original.save.SHARD", "20KB")
    export(str(hf), str(tmp_path / "original"), "original")
    assert len(list((tmp_path / "original").glob("model-*-of-*.safetensors"))) > 2
    assert (tmp_path / "original" / "model.safetensors.index.json").exists()
    assert_equal(tensors(tmp_path / "original"), tiny.weights())
    PretrainedLlava(path=str(tmp_path / "original")).load()


def test_a_tower_of_the_hub_keeps_its_name(tmp_path: Path):
    """Whoever loads it has the tower in the checkpoint, so nothing is written beside."""
    tiny.write_original(tmp_path / "a", mm_vision_tower=str(tmp_path / "a" / "clip"))
    export(str(tmp_path / "a"), str(tmp_path / "b"), "original")
    assert json.loads((tmp_path / "b" / "config.json").read_text())["mm_vision_tower"] == str(tmp_path / "a" / "clip")
    assert not (tmp_path / "b" / "vision_tower").exists()


@pytest.mark.parametrize("aspect", ["pad", "square"])
def test_preprocessing_is_kept(tmp_path: Path, aspect: str):
    tiny.write_original(tmp_path / "a", image_aspect_ratio=aspect)
    export(str(tmp_path / "a"), str(tmp_path / "b"), "hf")
    export(str(tmp_path / "b"), str(tmp_path / "c"), "original")
    assert AutoProcessor.from_pretrained(tmp_path / "b").image_processor.do_pad is (aspect == "pad")
    assert json.loads((tmp_path / "c" / "config.json").read_text())["image_aspect_ratio"] == aspect


@pytest.mark.parametrize("legacy", [False, True])
def test_whether_what_follows_a_special_token_gets_a_space_is_kept(tmp_path: Path, legacy: bool):
    tiny.write_original(tmp_path / "a")
    path = tmp_path / "a" / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"legacy": legacy}))
    export(str(tmp_path / "a"), str(tmp_path / "b"), "hf")
    (tmp_path / "b" / "tokenizer.model").unlink()
    export(str(tmp_path / "b"), str(tmp_path / "c"), "original")
    for folder in "abc":
        tokenizer = PretrainedLlava(path=str(tmp_path / folder)).load().processor.tokenizer
        expected = [2, 279 if legacy else 283]  # `▁USER` or `USER`
        assert tokenizer("</s>USER", add_special_tokens=False)["input_ids"] == expected, folder


def test_a_model_without_llama_tokenizer_is_refused_in_the_original_format(tmp_path: Path):
    TinyModel(architecture=SIZES, pretraining=None).load().save(tmp_path / "tiny")
    said = "checkpoint=tiny: the original format needs a Llama tokenizer (sentencepiece), and this model has another"
    refused(tmp_path, said, "checkpoint=tiny", "format=original", "out=out")
    assert run(tmp_path, "checkpoint=tiny", "format=hf", "out=out").status == 0
    assert_equal(tensors(tmp_path / "out"), tensors(tmp_path / "tiny"))


@pytest.mark.parametrize("change", [{"vision_feature_layer": [-2, -3]}, {"multimodal_projector_bias": False}])
def test_a_model_that_the_original_format_cannot_hold_is_refused(hf: Path, tmp_path: Path, change: dict[str, Any]):
    llava = PretrainedLlava(path=str(hf)).load()
    for name, value in change.items():
        setattr(llava.model.config, name, value)
    with pytest.raises(CheckpointError, match=r"needs LLaVA-1\.5's projector"):
        save_original(llava, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_holds_something_is_left_alone(original: Path, tmp_path: Path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    refused(tmp_path, "out=full: is there already and not empty", f"checkpoint={original}", "out=full")
    refused(tmp_path, "out=full/notes.txt: is there already", f"checkpoint={original}", "out=full/notes.txt")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["notes.txt"]
    (tmp_path / "empty").mkdir()
    assert run(tmp_path, f"checkpoint={original}", "out=empty").status == 0


@pytest.mark.parametrize("form", ["hf", "original"])
def test_an_export_that_breaks_off_leaves_nothing(hf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: Any):
    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mmsafe.models.original.save.write_json", full)
    monkeypatch.setattr("mmsafe.experiment.exporting.shutil.copyfile", full)
    refused(tmp_path, "out=out: cannot be written: No space left", f"checkpoint={hf}", f"format={form}", "out=out")


def test_bad_input_is_one_line_in_the_words_of_this_command(original: Path, tmp_path: Path):
    refused(tmp_path, "mmsafe.export: checkpoint=nowhere: no such folder", "checkpoint=nowhere", "out=out")
    refused(tmp_path, "out: Missing mandatory value: out", f"checkpoint={original}")
    refused(tmp_path, 'format="orginal": must be one of hf, original', "format=orginal", "checkpoint=a", "out=out")
    tiny.write_original(tmp_path / "pickled", form="bin")
    refused(tmp_path, "checkpoint=pickled: its weights are pickled", "checkpoint=pickled", "out=out")
    refused(tmp_path, "add allow_pickle=true", "checkpoint=pickled", "out=out")
    assert run(tmp_path, "checkpoint=pickled", "allow_pickle=true", "out=out").status == 0


def test_an_adapter_beside_the_weights_is_not_left_out_in_silence(hf: Path, tmp_path: Path):
    shutil.copytree(hf, tmp_path / "tuned")
    tiny.write_json(tmp_path / "tuned" / "adapter" / "adapter_config.json", {})
    refused(
        tmp_path, "checkpoint=tuned: holds a LoRA adapter in adapter/ beside its weights", "checkpoint=tuned", "out=out"
    )


TOKEN = "hf_right-token"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with an evaluation, whose command names a place and a secret."""
    place = tmp_path_factory.mktemp("trained")
    words = (*QUICK, "objective=dpo", f"name={place}/secret-name", "hydra.run.dir=run")
    succeed("train", *words, cwd=place)
    return place / "run"


def test_a_card_says_what_the_run_recorded_and_no_place(trained: Path, tmp_path: Path):
    assert run(tmp_path, f"checkpoint={trained}", "out=mine").status == 0
    card = ModelCard.load(tmp_path / "mine" / "README.md")
    metrics = json.loads((trained / "metrics.json").read_text())
    about = json.loads((trained / "run.json").read_text())
    results = {result.metric_type: result.metric_value for result in card.data.eval_results or []}
    assert results["safety_rate"] == metrics["eval/safety_rate"]
    assert results["pairwise_accuracy"] == metrics["eval/pairwise_accuracy"]
    low, high = (metrics[f"eval/safety_rate_{end}"] for end in ("low", "high"))
    assert f"| safety rate | {metrics['eval/safety_rate']:.3f} | {low:.3f} to {high:.3f} | 16 |" in card.text
    for said in (
        "judge: rules (exact)",
        "| objective._target_ | mmsafe.objectives.dpo.DPO |",
        f"| data.fingerprint | {about['data']} |",
        f"| model.fingerprint | {about['model']} |",
        f"| versions.torch | {torch.__version__} |",
        "data.size=16",
        "name=(a path)",
        "## Limits",
    ):
        assert said in card.text
    assert not [word for word in ("secret", str(tmp_path), str(trained), os.getcwd(), "/") if word in card.text]
    assert card.data.to_dict()["library_name"] == "transformers"


def test_a_card_is_inert_whatever_a_run_recorded(trained: Path, tmp_path: Path):
    shutil.copytree(trained, tmp_path / "run")
    about = json.loads((tmp_path / "run" / "run.json").read_text())
    about["examples"] = (
        "16 |\n---\nlicense: evil\n---\n<script>alert(1)</script> ![x](https://evil.example) `{{ 7 * 7 }}`"
    )
    about["config"]["objective"]["~"] = "C:\\Users\\me"
    (tmp_path / "run" / "run.json").write_text(json.dumps(about))
    assert run(tmp_path, "checkpoint=run", "out=mine").status == 0
    card = ModelCard.load(tmp_path / "mine" / "README.md")
    assert "license" not in card.data.to_dict()
    assert not [word for word in ("<script", "![", "evil.example", "{{", "Users") if word in card.text]


def test_a_model_without_a_record_says_so(original: Path, tmp_path: Path):
    assert run(tmp_path, f"checkpoint={original}", "format=original", "out=mine").status == 0
    text = (tmp_path / "mine" / "README.md").read_text()
    assert "without a record of its training, of which this card can say nothing" in text
    assert str(original) not in text
    PretrainedLlava(path=str(tmp_path / "mine")).load()


def test_what_would_be_uploaded_is_listed(original: Path, tmp_path: Path):
    ended = run(tmp_path, f"checkpoint={original}", "out=mine", "push=me/it", "push_dry_run=true")
    listed = {line.removeprefix("would upload ") for line in ended.out.splitlines() if line.startswith("would")}
    assert listed == {path.name for path in (tmp_path / "mine").iterdir()}
    assert "README.md" in listed


def test_an_upload_that_cannot_be_is_refused_before_work(
    original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    words = (f"checkpoint={original}", "out=out")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    refused(tmp_path, "push=me/it: there is no token; set HF_TOKEN", *words, "push=me/it")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    refused(tmp_path, "offline mode is enabled", *words, "push=me/it")
    refused(tmp_path, 'push="it": ', *words, "push=it")


@pytest.mark.parametrize("fault", ["", "token", "commit"])
def test_an_upload(fault: str, original: Path, tmp_path: Path, command: Any, monkeypatch: pytest.MonkeyPatch):
    """In a process of its own: the hub's library reads its address when it is imported."""
    with hub_server() as hub:
        hub.refuses_commits = fault == "commit"
        hub.token = "another" if fault == "token" else TOKEN
        for name, value in {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_TOKEN": TOKEN}.items():
            monkeypatch.setenv(name, value)
        words = (f"checkpoint={original}", f"out={tmp_path / 'out'}", "push=me/it", f"hydra.run.dir={tmp_path / 'run'}")
        ended: subprocess.CompletedProcess[str] = command("export", *words)
    written = {path.name: path.read_bytes() for path in tmp_path.glob("out/*")}
    lines = [line for line in ended.stderr.splitlines() if line.startswith("mmsafe.export: ")]
    assert TOKEN not in ended.stdout + ended.stderr
    if fault:
        assert ended.returncode == 2, ended.stderr
        assert len(lines) == 1
        assert {"token": "401", "commit": "403"}[fault] in lines[0]
        assert hub.files == {}
        assert bool(written) == ("hf upload me/it" in lines[0]) == (fault == "commit")
    else:
        assert (ended.returncode, lines) == (0, [])
        assert hub.repositories == {"me/it": {"name": "it", "organization": "me", "visibility": "private"}}
        assert hub.files == written
