"""QLoRA: the language model in 4 bits and frozen, adapters and projector trained on it, merged as trained."""

from __future__ import annotations

import copy
import csv
import dataclasses
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from launching import QUICK, launch
from safetensors.torch import load_file
from torch import Tensor
from transformers import LlavaForConditionalGeneration

from mmsafe.core.settings import Peft
from mmsafe.models.adapters import add_lora, merge
from mmsafe.models.llava import Llava, weights_hash
from mmsafe.models.model_source import PretrainedLlava
from mmsafe.models.parameters import count_parameters
from mmsafe.models.quantised import dequantised, is_quantised, quantised
from mmsafe.training.module import PreferenceModule

LN2 = 0.6931472
QLORA = Peft(method="qlora", rank=4, alpha=8)
LEARNING = ("data.batch_size=16", "optimizer.lr=5e-3", "optimizer.warmup_steps=0", "trainer.max_steps=4")
WORDS = (*QUICK, "objective=dpo", "peft=qlora", "peft.rank=4", "peft.alpha=8", *LEARNING)
CPU = torch.device("cpu")


def in_four_bits(llava: Llava, dtype: torch.dtype = torch.float32) -> Llava:
    copied = dataclasses.replace(llava, model=copy.deepcopy(llava.model).to(dtype))
    return quantised(copied, dtype, CPU)


def adapted(llava: Llava, dtype: torch.dtype = torch.float32) -> Llava:
    """Quantised, with adapters and a projector that have moved."""
    changed = in_four_bits(llava, dtype)
    add_lora(changed, QLORA)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in changed.model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)
    return changed


def answer(llava: Llava, *, training: bool = False) -> Tensor:
    """Log-probs of every next token."""
    ids = torch.tensor([[1, *[llava.processor.image_token_id] * 16, 300, 301, 302]])
    pixels = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)).to(llava.model.dtype)
    logits = llava.model.train(training)(input_ids=ids, pixel_values=pixels).logits
    return logits.float().log_softmax(-1)  # type: ignore[no-any-return]


def rows(path: Path) -> list[dict[str, float]]:
    with path.open() as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]


def checkpoint(run: Path) -> dict[str, Any]:
    """The only one that a run keeps."""
    (path,) = {path.resolve() for path in (run / "checkpoints").glob("*.ckpt")}
    return dict(torch.load(path, weights_only=False))


def test_only_the_matrices_of_the_language_model_are_in_4_bits(llava: Llava):
    model = in_four_bits(llava).model
    packed = {name for name, p in model.named_parameters() if p.dtype == torch.uint8}
    assert len(packed) == 3 * 7  # layers × projections
    assert all(re.fullmatch(r"model\.language_model\.layers\.\d\.(self_attn|mlp)\.\w+\.weight", n) for n in packed)
    state = model.model.language_model.layers[0].mlp.up_proj.weight.quant_state
    assert (state.quant_type, state.blocksize, state.nested) == ("nf4", 64, True)
    before, after = (count_parameters(m) for m in (llava.model, model))
    assert {part: count.total for part, count in after.items()} == {p: c.total for p, c in before.items()}


def test_values_are_the_nearest_of_nf4s_sixteen(llava: Llava):
    """Each block of 64 is scaled to [-1, 1] and rounded to NF4's values (arXiv 2305.14314, appendix E)."""
    negative = [-1.0, -0.6962, -0.5251, -0.3949, -0.2844, -0.1848, -0.0911]
    values = torch.tensor([*negative, 0.0, 0.0796, 0.1609, 0.2461, 0.3379, 0.4407, 0.5626, 0.7230, 1.0])
    model = dequantised(in_four_bits(llava).model)
    weight, found = (
        m.model.language_model.layers[0].mlp.up_proj.weight.detach().view(-1, 64) for m in (llava.model, model)
    )
    scale = weight.abs().amax(-1, keepdim=True)
    nearest = values[(weight / scale)[..., None].sub(values).abs().argmin(-1)] * scale
    # the scales themselves are in 8 bits: off by at most one step of their own code
    assert ((found - nearest).abs() <= 0.03 * scale).float().mean() > 0.999


def test_what_is_quantised_is_another_model_with_a_fingerprint_of_its_own(llava: Llava):
    first, second = in_four_bits(llava), in_four_bits(llava)
    assert first.fingerprint() == second.fingerprint() != llava.fingerprint()
    with torch.no_grad():
        answer(first)
    assert first.fingerprint() == second.fingerprint(), "a forward pass changes nothing"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_training_and_evaluation_compute_alike(llava: Llava, dtype: torch.dtype):
    """The reference is scored in evaluation, the policy in training: step 0 needs both to be equal."""
    changed = adapted(llava, dtype)
    with torch.no_grad():
        assert torch.equal(answer(changed), answer(changed, training=True))


def test_gradients_reach_adapters_and_projector_only_and_the_base_stays_as_it_is(llava: Llava):
    changed = in_four_bits(llava)
    before = weights_hash(changed.model)
    add_lora(changed, QLORA)
    trained = [p for p in changed.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    first = answer(changed, training=True)
    for _ in range(3):
        optimizer.zero_grad()
        answer(changed, training=True)[..., 7].mean().backward()
        optimizer.step()
    assert all(
        (p.grad is not None) == (".lora_" in name or ".modules_to_save." in name)
        for name, p in changed.model.named_parameters()
    )
    assert not torch.allclose(answer(changed), first, atol=1e-3)
    with changed.adapter.disable_adapter():
        assert torch.equal(answer(changed), answer(in_four_bits(llava)))
    changed.model = changed.adapter.unload()
    changed.model.model.multi_modal_projector.load_state_dict(llava.model.model.multi_modal_projector.state_dict())
    assert weights_hash(changed.model) == before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_what_is_trained_is_in_full_precision(llava: Llava, dtype: torch.dtype):
    trained = [p for p in adapted(llava, dtype).model.parameters() if p.requires_grad]
    assert {p.dtype for p in trained} == {torch.float32}


@torch.no_grad()
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.05)], ids=str)
def test_merged_it_says_the_same_and_is_a_plain_model(
    llava: Llava, dtype: torch.dtype, tolerance: float, tmp_path: Path
):
    changed = adapted(llava, dtype)
    expected = answer(changed)
    assert (answer(dataclasses.replace(llava, model=llava.model)) - expected).abs().max() > 0.1
    merge(changed)
    assert changed.adapter is None
    assert not is_quantised(changed.model)
    assert {p.dtype for p in changed.model.parameters()} == {dtype}
    assert set(changed.model.state_dict()) == set(llava.model.state_dict())
    torch.testing.assert_close(answer(changed), expected, atol=tolerance, rtol=0)
    changed.save(tmp_path)
    plain = LlavaForConditionalGeneration.from_pretrained(tmp_path, dtype=dtype)
    assert torch.equal(answer(dataclasses.replace(changed, model=plain)), answer(changed))


def test_gradient_checkpointing_is_kept(llava: Llava, tmp_path: Path):
    llava.save(tmp_path)
    source = PretrainedLlava(path=str(tmp_path), gradient_checkpointing=True)
    model = quantised(source.load(), torch.float32, CPU).model
    assert all(layer.gradient_checkpointing for layer in model.model.language_model.layers)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("qlora")
    kept = ("checkpoint.keep=true", "checkpoint.every_n_steps=1")
    ended = launch("train", *WORDS, *kept, "hydra.run.dir=run", cwd=folder, cache=folder / "cache")
    assert ended.status == 0, ended.err
    (folder / "out.txt").write_text(ended.out)
    return folder


def test_it_starts_at_ln_2_and_trains(place: Path):
    found = rows(place / "run" / "metrics.csv")
    assert found[0]["train/loss"] == pytest.approx(LN2, abs=1e-5)
    assert found[3]["train/loss"] < found[0]["train/loss"]


def test_the_model_of_a_run_is_the_4_bit_base_with_its_adapter(place: Path, llava: Llava):
    """W = NF4(W₀) + α/r · B A, the projector as trained, all else as it was."""
    run = place / "run"
    adapter = load_file(run / "adapter" / "adapter_model.safetensors")
    assert len(adapter) == 2 * 21 + 4
    base = dequantised(in_four_bits(llava).model).state_dict()
    found = LlavaForConditionalGeneration.from_pretrained(run / "model").state_dict()
    for name, weight in found.items():
        key = f"base_model.model.{name.removesuffix('.weight')}"
        if f"{key}.lora_A.weight" in adapter:
            delta = 8 / 4 * adapter[f"{key}.lora_B.weight"] @ adapter[f"{key}.lora_A.weight"]
            assert delta.abs().max() > 1e-4
            torch.testing.assert_close(weight, base[name] + delta, atol=1e-6, rtol=1e-5)
        elif "projector" in name:
            assert torch.equal(weight, adapter[f"base_model.model.{name}"])
            assert not torch.equal(weight, base[name])
        else:
            assert torch.equal(weight, base[name]), name


def test_checkpoints_hold_what_is_trained_only(place: Path):
    last = checkpoint(place / "run")
    assert len(last["state_dict"]) == 46
    assert all("lora_" in name or "modules_to_save" in name for name in last["state_dict"])


def test_the_start_of_a_run_says_what_is_trained(place: Path):
    """r · (inputs + outputs): 3 layers of q, k, v, o: 4·256 and gate, up, down: 3·(128 + 320), rank 4."""
    lora = 4 * 3 * (1_024 + 1_344)
    about = json.loads((place / "run" / "run.json").read_text())["parameters"]
    assert about["LoRA"] == {"total": lora, "trainable": lora}
    assert about["projector"]["total"] == about["projector"]["trainable"]
    assert {part: count["trainable"] for part, count in about.items() if part not in ("LoRA", "projector")} == {
        "vision tower": 0,
        "language model": 0,
        "LM head": 0,
    }
    said = (place / "out.txt").read_text()
    assert re.search(rf"LoRA +│ +{lora:,} │ +{lora:,} │ +100.00%", said)


def test_a_stopped_run_goes_on(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    words = (*WORDS, "evaluate=false", "checkpoint.every_n_steps=1", "hydra.run.dir=stopped")
    step = PreferenceModule.training_step

    def stop_in_the_third(self: Any, *args: Any) -> Any:
        if self.global_step == 2:
            raise RuntimeError
        return step(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(PreferenceModule, "training_step", stop_in_the_third)
        with pytest.raises(RuntimeError):
            launch("train", *words, cwd=tmp_path, cache=place / "cache")
    assert checkpoint(tmp_path / "stopped")["global_step"] == 2
    ended = launch("train", *words, cwd=tmp_path, cache=place / "cache")
    assert ended.status == 0, ended.err
    whole, found = (load_file(path / "model" / "model.safetensors") for path in (place / "run", tmp_path / "stopped"))
    assert all(torch.equal(found[name], weight) for name, weight in whole.items())
    losses = [
        [row["train/loss"] for row in rows(path / "metrics.csv")[:4]] for path in (place / "run", tmp_path / "stopped")
    ]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("reference", ["adapter_off", "frozen"])
def test_every_reference_is_the_4_bit_model(place: Path, reference: str):
    words = (*WORDS, f"reference={reference}", f"hydra.run.dir={reference}")
    ended = launch("train", *words, cwd=place, cache=place / "cache")
    assert ended.status == 0, ended.err
    cached, other = (rows(place / name / "metrics.csv")[:4] for name in ("run", reference))
    assert [row["train/loss"] for row in other] == pytest.approx([row["train/loss"] for row in cached], abs=1e-4)


def test_a_run_is_evaluated_and_trained_on(place: Path):
    words = [word for word in QUICK if word.startswith(("data", "evaluation", "benchmark"))]
    ended = launch("evaluate", "checkpoint=run", *words, "hydra.run.dir=measured", cwd=place, cache=place / "cache")
    assert ended.status == 0, ended.err
    assert (place / "measured" / "metrics.json").exists()
    words = [word for word in WORDS if word != "model=random"]
    words += ["model=llava_hf", "model.path=run", "evaluate=false", "hydra.run.dir=second"]
    ended = launch("train", *words, cwd=place, cache=place / "cache")
    assert ended.status == 0, ended.err
    assert rows(place / "second" / "metrics.csv")[0]["train/loss"] == pytest.approx(LN2, abs=1e-5)


def test_without_bitsandbytes_one_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    missing: Any = None
    monkeypatch.setitem(sys.modules, "bitsandbytes", missing)
    ended = launch("train", *WORDS, cwd=tmp_path, cache=tmp_path)
    assert ended.status == 2
    assert "bitsandbytes is not installed; run pip install 'mmsafe[qlora]', or choose peft=lora" in ended.err
    assert len(ended.err.splitlines()) == 1
    words = ("model=llava7b", "model.dtype=bfloat16", "peft=qlora", "data.batch_size=1", "doctor.gpu_memory_gib=24")
    asked = launch("doctor", *words, cwd=tmp_path, cache=tmp_path)
    assert "6.48 G of them × 0.516 bytes" in asked.out  # 32 layers of 202,375,168
    assert "verdict: fits" in asked.out, "asking about another machine needs nothing installed"


def test_weights_that_a_strategy_would_split_are_refused(tmp_path: Path):
    ended = launch("train", *WORDS, "strategy=fsdp", cwd=tmp_path, cache=tmp_path)
    assert ended.status == 2
    assert "strategy=fsdp: 4-bit weights stay whole; peft=qlora needs auto or ddp" in ended.err
