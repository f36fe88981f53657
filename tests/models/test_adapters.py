"""LoRA: only the language model is adapted, the projector is trained and kept with it, the merged folder is plain."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from launching import QUICK, launch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import LlavaForConditionalGeneration

from mmsafe.core.settings import Peft
from mmsafe.models.adapters import add_lora, merge
from mmsafe.models.llava import Llava, set_trained
from mmsafe.models.model_options import Trained
from mmsafe.models.model_source import PretrainedLlava

LN2 = 0.6931472
LORA = Peft(method="lora", rank=4, alpha=8)
LEARNING = ("data.batch_size=16", "optimizer.lr=5e-3", "optimizer.warmup_steps=0", "trainer.max_steps=4")
WORDS = (*QUICK, "objective=dpo", "peft=lora", "peft.rank=4", "peft.alpha=8", *LEARNING)


def copied(llava: Llava) -> Llava:
    return dataclasses.replace(llava, model=copy.deepcopy(llava.model))


def moved(llava: Llava) -> Llava:
    with torch.no_grad():
        for parameter in llava.model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05)
    return llava


@torch.no_grad()
def answer(model: Any, processor: Any) -> torch.Tensor:
    ids = torch.tensor([[1, *[processor.image_token_id] * 16, 300, 301, 302]])
    pixels = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    return model.eval()(input_ids=ids, pixel_values=pixels).logits  # type: ignore[no-any-return]


def test_only_adapters_of_the_language_model_and_the_projector_are_trained(llava: Llava):
    adapted = copied(llava)
    add_lora(adapted, LORA)
    names = [name for name, p in adapted.model.named_parameters() if p.requires_grad]
    layers, projections = 3, 7
    assert sum("lora_" in name for name in names) == 2 * layers * projections
    assert all("language_model" in name for name in names if "lora_" in name)
    assert {name for name in names if "lora_" not in name} == {
        f"model.multi_modal_projector.modules_to_save.default.linear_{i}.{part}"
        for i in (1, 2)
        for part in ("weight", "bias")
    }


def test_a_frozen_projector_stays_frozen(llava: Llava):
    source = dataclasses.replace(llava.source, train=Trained(projector=False))
    adapted = dataclasses.replace(copied(llava), source=source)
    add_lora(adapted, LORA)
    assert all("lora_" in name for name, p in adapted.model.named_parameters() if p.requires_grad)


def test_a_fresh_adapter_changes_nothing_and_its_seed_decides_it(llava: Llava):
    weights = []
    for seed in (0, 0, 1):
        adapted = copied(llava)
        state = torch.get_rng_state()
        add_lora(adapted, dataclasses.replace(LORA, seed=seed))
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.equal(answer(adapted.model, llava.processor), answer(llava.model, llava.processor))
        weights.append(torch.cat([p.flatten() for n, p in adapted.model.named_parameters() if "lora_A" in n]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_switched_off_it_gives_back_the_base_model_projector_included(llava: Llava):
    adapted = copied(llava)
    add_lora(adapted, LORA)
    moved(adapted)
    assert not torch.allclose(answer(adapted.model, llava.processor), answer(llava.model, llava.processor), atol=0.1)
    with adapted.adapter.disable_adapter():
        assert torch.equal(answer(adapted.model, llava.processor), answer(llava.model, llava.processor))


def test_merged_it_says_the_same_and_has_the_names_of_a_plain_model(llava: Llava, tmp_path: Path):
    adapted = copied(llava)
    add_lora(adapted, LORA)
    moved(adapted)
    expected = answer(adapted.model, llava.processor)
    merge(adapted)
    assert adapted.adapter is None
    assert set(adapted.model.state_dict()) == set(llava.model.state_dict())
    torch.testing.assert_close(answer(adapted.model, llava.processor), expected, atol=1e-4, rtol=1e-4)
    adapted.save(tmp_path)
    plain = LlavaForConditionalGeneration.from_pretrained(tmp_path)
    assert torch.equal(answer(plain, llava.processor), answer(adapted.model, llava.processor))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lora")
    ended = launch("train", *WORDS, "hydra.run.dir=run", cwd=folder, cache=folder / "cache")
    assert ended.status == 0, ended.err
    return folder


def rows(path: Path) -> list[dict[str, float]]:
    import csv

    with path.open() as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]


def test_a_run_leaves_the_adapter_with_its_projector_and_the_merged_model(place: Path, llava: Llava):
    run = place / "run"
    names = set(load_file(run / "adapter" / "adapter_model.safetensors"))
    assert sum("lora_" in name for name in names) == 42
    assert sum("multi_modal_projector" in name for name in names) == 4
    base = copied(llava)
    adapted = PeftModel.from_pretrained(base.model, run / "adapter")
    merged = LlavaForConditionalGeneration.from_pretrained(run / "model")
    torch.testing.assert_close(answer(adapted, llava.processor), answer(merged, llava.processor), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(answer(merged, llava.processor), answer(llava.model, llava.processor), atol=1e-3)
    metrics = json.loads((run / "metrics.json").read_text())
    assert "eval/pairwise_accuracy_reward" in metrics


def test_it_starts_at_ln_2_and_trains(place: Path):
    found = rows(place / "run" / "metrics.csv")
    assert found[0]["train/loss"] == pytest.approx(LN2, abs=1e-5)
    assert found[3]["train/loss"] < found[0]["train/loss"]


@pytest.mark.parametrize("reference", ["adapter_off", "frozen"])
def test_every_reference_gives_the_same_losses(place: Path, reference: str):
    words = (*WORDS, f"reference={reference}", f"hydra.run.dir={reference}")
    ended = launch("train", *words, cwd=place, cache=place / "cache")
    assert ended.status == 0, ended.err
    cached, other = (rows(place / name / "metrics.csv")[:4] for name in ("run", reference))
    assert [row["train/loss"] for row in other] == pytest.approx([row["train/loss"] for row in cached], abs=1e-4)
    found, expected = (json.loads((place / n / "metrics.json").read_text()) for n in (reference, "run"))
    assert found["eval/pairwise_accuracy_reward"] == expected["eval/pairwise_accuracy_reward"]


def test_the_reference_of_a_second_run_is_base_plus_the_first_adapter(place: Path):
    first = PretrainedLlava(path=str(place / "run")).load()
    for reference in ("cached", "adapter_off"):
        words = [word for word in WORDS if word != "model=random"]
        words += ["model=llava_hf", "model.path=run", f"reference={reference}", f"hydra.run.dir=second-{reference}"]
        ended = launch("train", *words, cwd=place, cache=place / "cache")
        assert ended.status == 0, ended.err
        assert rows(place / f"second-{reference}" / "metrics.csv")[0]["train/loss"] == pytest.approx(LN2, abs=1e-5)
    about = json.loads((place / "second-cached" / "run.json").read_text())
    assert about["model"] == first.fingerprint()


def test_a_killed_lora_run_goes_on(place: Path, tmp_path: Path):
    from mmsafe.core.metrics_csv import read_metrics

    words = (*WORDS, "evaluate=false", "checkpoint.every_n_steps=1", "checkpoint.keep=true", "hydra.run.dir=kept")
    ended = launch("train", *words, cwd=tmp_path, cache=place / "cache")
    assert ended.status == 0, ended.err
    (path,) = {path.resolve() for path in (tmp_path / "kept" / "checkpoints").glob("*.ckpt")}
    last = torch.load(path, weights_only=False)
    assert all("lora_" in name or "modules_to_save" in name for name in last["state_dict"])
    before = load_file(tmp_path / "kept" / "model" / "model.safetensors")
    (tmp_path / "kept" / "metrics.json").unlink()
    again = launch("train", *words, cwd=tmp_path, cache=place / "cache")
    assert again.status == 0, again.err
    after = load_file(tmp_path / "kept" / "model" / "model.safetensors")
    assert all(torch.equal(after[name], weight) for name, weight in before.items())
    assert len(read_metrics(tmp_path / "kept" / "metrics.csv")) == 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("peft=lora", "model.train.vision=true"), "adapters train the language model and never the tower"),
        (("peft=lora", "model.train.language=false"), "adapters train the language model"),
        (("reference=adapter_off",), "reference=adapter_off: there is no adapter; choose one by peft=lora"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_loaded(tmp_path: Path, words: Any, message: str):
    ended = launch("train", *QUICK, *words, cwd=tmp_path, cache=tmp_path)
    assert ended.status == 2
    assert message in ended.err


def test_set_trained_is_what_the_source_says(llava: Llava):
    other = copied(llava)
    set_trained(other.model, Trained(projector=False))
    assert not any(p.requires_grad for n, p in other.model.named_parameters() if "projector" in n)
