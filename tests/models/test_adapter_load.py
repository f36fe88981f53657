"""LoRA adapters merged into their base: of runs, of PEFT under old names and new, and in LLaVA's own layout."""

import copy
import json
import re
import shutil
from pathlib import Path
from typing import Any

import original_folder as tiny
import pytest
import torch
from launching import QUICK, Ended, launch, succeed
from peft import IA3Config, LoraConfig, PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from mmsafe.experiment.exporting import export
from mmsafe.models.model_source import PretrainedLlava
from mmsafe.models.vlm import VLM

RUN = (*(word for word in QUICK if word != "model=random"), "objective=dpo", "peft.rank=4", "peft.alpha=8")
SHORT = ("data.batch_size=16", "optimizer.lr=5e-3", "optimizer.warmup_steps=0", "trainer.max_steps=2", "evaluate=false")


@torch.no_grad()
def answer(llava: Any) -> Tensor:
    image = llava.processor.image_token_id
    model = llava.model
    size = model.config.vision_config.image_size
    pixels = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([[1, *[image] * model.config.image_seq_length, 260, 261, 262]])
    return model.eval()(input_ids=ids, pixel_values=pixels).logits  # type: ignore[no-any-return]


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor], atol: float = 1e-6) -> None:
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, atol=atol, rtol=1e-5, msg=name)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, llava: VLM) -> Path:
    """A folder with `base`, and a run that started from it."""
    folder = tmp_path_factory.mktemp("adapters")
    llava.save(folder / "base")
    words = (*RUN, *SHORT, "model=llava_hf", "model.path=base", "peft=lora", "hydra.run.dir=lora")
    succeed("train", *words, cwd=folder)
    return folder


def run_export(place: Path, *words: str) -> Ended:
    return launch("export", *words, cwd=place)


def refused(place: Path, said: str, *words: str) -> None:
    ended = run_export(place, *words, "out=refused")
    assert ended.status == 2, ended.err
    assert said in ended.err
    assert len(ended.err.splitlines()) == 1
    assert not (place / "refused").exists()


def test_a_run_folder_without_its_model_stands_for_its_adapter(place: Path, tmp_path: Path):
    shutil.copytree(place / "lora", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "model")
    export(str(tmp_path / "run"), str(tmp_path / "out"), "hf")
    assert_close(weights(tmp_path / "out"), weights(place / "lora" / "model"))


def test_a_base_that_moved_can_be_named(place: Path, tmp_path: Path):
    shutil.copytree(place / "base", tmp_path / "moved")
    shutil.copytree(place / "lora" / "adapter", tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_config.json"
    about = json.loads(path.read_text())
    assert about["base_model_name_or_path"] == str(place / "base")
    path.write_text(json.dumps(about | {"base_model_name_or_path": str(tmp_path / "gone")}))
    refused(tmp_path, "checkpoint=adapter: its base ", "checkpoint=adapter")
    refused(tmp_path, "no such folder; base names another", "checkpoint=adapter")
    path.write_text(json.dumps(about | {"base_model_name_or_path": None}))
    refused(tmp_path, "does not say what it was trained on; name that by base", "checkpoint=adapter")
    assert run_export(tmp_path, "checkpoint=adapter", "base=moved", "out=out").status == 0
    assert_close(weights(tmp_path / "out"), weights(place / "lora" / "model"))


def test_an_adapter_is_evaluated_and_trained_on_as_a_model(place: Path):
    words = [word for word in QUICK if word.startswith(("data", "evaluation", "benchmark"))]
    found = []
    for name in ("adapter", "model"):
        succeed("evaluate", f"checkpoint=lora/{name}", *words, f"hydra.run.dir=of-{name}", cwd=place)
        found.append((place / f"of-{name}" / "generations.jsonl").read_text())
    assert found[0] == found[1]
    path = "model.path=lora/adapter"
    succeed("train", *RUN, *SHORT, "model=llava_hf", path, "hydra.run.dir=on", cwd=place)


def old_names(name: str) -> str:
    """As `transformers` named the parts of LLaVA before 4.52."""
    name = re.sub(r"^(base_model\.model\.)model\.language_model\.", r"\1language_model.model.", name)
    name = re.sub(r"^(base_model\.model\.)model\.vision_tower\.", r"\1vision_tower.vision_model.", name)
    return re.sub(r"^(base_model\.model\.)model\.(multi_modal_projector)\.", r"\1\2.", name)


@pytest.mark.parametrize("names", ["new", "old"])
def test_an_adapter_of_others_that_reaches_into_the_tower_is_merged_there_too(
    llava: VLM, place: Path, tmp_path: Path, names: str
):
    """A bare `q_proj` adapts CLIP as well: what was trained is what is merged."""
    other = copy.deepcopy(llava)
    config = LoraConfig(
        r=4,
        lora_alpha=6,
        target_modules=["q_proj", "v_proj"],
        modules_to_save=["multi_modal_projector"],
        use_rslora=True,
    )
    model = PeftModel(other.model, config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    expected = answer(other)
    model.save_pretrained(tmp_path / "theirs")
    saved = load_file(tmp_path / "theirs" / "adapter_model.safetensors")
    assert any("vision_tower" in name for name in saved)
    if names == "old":
        saved = {old_names(name): weight for name, weight in saved.items()}
        save_file(saved, tmp_path / "theirs" / "adapter_model.safetensors")
    found = PretrainedLlava(path=str(tmp_path / "theirs"), base=str(place / "base")).load()
    assert found.adapter is None
    assert (answer(llava) - expected).abs().max() > 0.1
    torch.testing.assert_close(answer(found), expected, atol=1e-4, rtol=1e-4)
    trained = {name.split(".")[1] for name, p in found.model.named_parameters() if p.requires_grad}
    assert trained == {"language_model", "multi_modal_projector", "weight"}, "as model.train says"


RANK, ALPHA = 2, 6


def write_llava_lora(folder: Path, base: Path) -> dict[str, Tensor]:
    """LLaVA's `finetune_lora.sh` output beside its base; returns the merged weights, W + α/r · B A."""
    generator = torch.Generator().manual_seed(2)
    merged, adapter = tiny.weights(torch.float32), {}
    for name in [name for name in merged if re.fullmatch(r"model\.layers\..*_proj\.weight", name)]:
        rows, columns = merged[name].shape
        down, up = torch.randn(RANK, columns, generator=generator), torch.randn(rows, RANK, generator=generator)
        module = f"base_model.model.{name.removesuffix('.weight')}"
        adapter |= {f"{module}.lora_A.weight": down, f"{module}.lora_B.weight": up}
        merged[name] = merged[name] + ALPHA / RANK * up @ down
    whole = {}
    for name in [name for name in merged if "mm_projector" in name]:
        merged[name] = torch.randn(merged[name].shape, generator=generator)
        whole[f"base_model.model.{name}"] = merged[name]
    folder.mkdir(parents=True)
    torch.save(adapter, folder / "adapter_model.bin")
    torch.save(whole, folder / "non_lora_trainables.bin")
    tiny.write_json(folder / "config.json", tiny.config(model_type="llava_llama"))
    names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    about = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "lora_dropout": 0.05, "bias": "none"}
    about |= {"target_modules": names, "task_type": "CAUSAL_LM", "base_model_name_or_path": str(base)}
    tiny.write_json(folder / "adapter_config.json", about)
    return merged


@pytest.fixture
def theirs(tmp_path: Path) -> tuple[Path, dict[str, Tensor]]:
    base = tiny.write_original(tmp_path / "base", tiny.weights(torch.float32))
    return tmp_path / "theirs", write_llava_lora(tmp_path / "theirs", base)


@pytest.mark.parametrize("form", ["original", "hf"])
def test_llavas_own_lora_layout(theirs: tuple[Path, dict[str, Tensor]], form: str):
    folder, merged = theirs
    place = folder.parent
    refused(place, "its weights are pickled (adapter_model.bin)", "checkpoint=theirs")
    ended = run_export(place, "checkpoint=theirs", "allow_pickle=true", "out=out", f"format={form}")
    assert ended.status == 0, ended.err
    if form == "hf":
        assert run_export(place, "checkpoint=out", "out=back", "format=original").status == 0
    assert_close(weights(place / ("back" if form == "hf" else "out")), merged, atol=1e-5)
    assert (place / "out" / "tokenizer.model").read_bytes() == tiny.sentencepiece_model()


def changed(folder: Path, **entries: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def keep(folder: Path, change: Any) -> None:
    """The adapter's weights as `change` makes them, by their names."""
    path = folder / "adapter_model.safetensors"
    save_file(change(load_file(path)), path)


REFUSED = {
    "half": (
        lambda folder: keep(
            folder, lambda state: dict(sorted(state.items(), key=lambda item: "lora_B" in item[0])[:-1])
        ),
        "checkpoint=half: is incomplete: 1 weights",
    ),
    "alien": (
        lambda folder: keep(folder, lambda state: {n.replace("layers.2.", "layers.20."): w for n, w in state.items()}),
        "does not fit its base: it adapts model.language_model.layers.20.",
    ),
    "wide": (lambda folder: changed(folder, r=8), "checkpoint=wide: does not fit its base: "),
    "nothing": (
        lambda folder: (folder / "adapter_model.safetensors").unlink(),
        "checkpoint=nothing: holds no weights (adapter_model.safetensors)",
    ),
    "type": (
        lambda folder: changed(folder, peft_type=IA3Config().peft_type.value),
        "checkpoint=type: holds an adapter of type IA3; only LORA can be merged",
    ),
    "stacked": (lambda folder: changed(folder, base_model_name_or_path=str(folder)), "is a LoRA adapter too"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_merged_is_refused_in_one_line(place: Path, tmp_path: Path, name: str):
    damage, said = REFUSED[name]
    damage(Path(shutil.copytree(place / "lora" / "adapter", tmp_path / name)))
    refused(tmp_path, said, f"checkpoint={name}")


def test_a_base_beside_a_whole_model_is_refused(place: Path, tmp_path: Path):
    refused(
        tmp_path,
        "is a whole model; base is for LoRA adapters",
        f"checkpoint={place / 'base'}",
        f"base={place / 'base'}",
    )
