"""LoRA and QLoRA: adapters of the language model and the projector are trained, kept and merged; the base stays."""

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
from launching import QUICK, Ended, launch, refuse, succeed
from safetensors.torch import load_file
from small_model import LORA, moved
from torch import Tensor
from transformers import LlavaForConditionalGeneration

from mmsafe.experiment.exporting import export
from mmsafe.models.adapters import add_lora, merge
from mmsafe.models.model_options import Trained
from mmsafe.models.model_source import PretrainedLlava
from mmsafe.models.parameters import count_parameters
from mmsafe.models.quantised import dequantised, is_quantised, quantised
from mmsafe.models.vlm import VLM, weights_hash
from mmsafe.training.module import PreferenceModule

LN2 = 0.6931472
LEARNING = ("data.batch_size=16", "optimizer.lr=5e-3", "optimizer.warmup_steps=0", "trainer.max_steps=4")
WORDS = (*QUICK, "objective=dpo", "peft.rank=4", "peft.alpha=8", *LEARNING)
METHODS = pytest.mark.parametrize("method", ["lora", "qlora"])
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)


def copied(llava: VLM, method: str, dtype: torch.dtype = torch.float32) -> VLM:
    """What `method` puts its adapters on."""
    other = dataclasses.replace(llava, model=copy.deepcopy(llava.model).to(dtype))
    return quantised(other, dtype, torch.device("cpu")) if method == "qlora" else other


def adapted(llava: VLM, method: Any, dtype: torch.dtype = torch.float32) -> VLM:
    """With adapters and a projector that have moved."""
    return moved(copied(llava, method, dtype), method)


def answer(llava: VLM, *, training: bool = False) -> Tensor:
    """Log-probs of every next token."""
    ids = torch.tensor([[1, *[llava.processor.image_token_id] * 16, 300, 301, 302]])
    pixels = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)).to(llava.model.dtype)
    logits = llava.model.train(training)(input_ids=ids, pixel_values=pixels).logits
    return logits.float().log_softmax(-1)  # type: ignore[no-any-return]


@METHODS
@DTYPES
def test_only_adapters_and_the_projector_are_trained_in_full_precision(llava: VLM, method: str, dtype: torch.dtype):
    trained = {name: p for name, p in adapted(llava, method, dtype).model.named_parameters() if p.requires_grad}
    assert {p.dtype for p in trained.values()} == {torch.float32}
    lora = {name for name in trained if "lora_" in name}
    assert len(lora) == 2 * 3 * 7  # layers × projections
    assert all("language_model" in name for name in lora)
    projector = "model.multi_modal_projector.modules_to_save.default.linear_"
    assert trained.keys() - lora == {f"{projector}{i}.{part}" for i in (1, 2) for part in ("weight", "bias")}


def test_a_frozen_projector_stays_frozen(llava: VLM):
    source = dataclasses.replace(llava.source, train=Trained(projector=False))
    changed = dataclasses.replace(copied(llava, "lora"), source=source)
    add_lora(changed, LORA)
    assert all("lora_" in name for name, p in changed.model.named_parameters() if p.requires_grad)


def test_a_fresh_adapter_changes_nothing_and_its_seed_decides_it(llava: VLM):
    weights = []
    for seed in (0, 0, 1):
        changed = copied(llava, "lora")
        state = torch.get_rng_state()
        add_lora(changed, dataclasses.replace(LORA, seed=seed))
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.equal(answer(changed), answer(copied(llava, "lora")))
        weights.append(torch.cat([p.flatten() for n, p in changed.model.named_parameters() if "lora_A" in n]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@METHODS
def test_switched_off_it_gives_back_the_base_model_projector_included(llava: VLM, method: str):
    changed, base = adapted(llava, method), answer(copied(llava, method))
    assert not torch.allclose(answer(changed), base, atol=0.1)
    with changed.adapter.disable_adapter():
        assert torch.equal(answer(changed), base)


@torch.no_grad()
@pytest.mark.parametrize(
    ("method", "dtype"), [("lora", torch.float32), ("qlora", torch.float32), ("qlora", torch.bfloat16)], ids=str
)
def test_merged_it_says_the_same_and_is_a_plain_model(llava: VLM, method: str, dtype: torch.dtype, tmp_path: Path):
    changed = adapted(llava, method, dtype)
    expected = answer(changed)
    merge(changed)
    assert changed.adapter is None
    assert not is_quantised(changed.model)
    assert {p.dtype for p in changed.model.parameters()} == {dtype}
    assert set(changed.model.state_dict()) == set(llava.model.state_dict())
    torch.testing.assert_close(answer(changed), expected, atol=1e-4 if dtype == torch.float32 else 0.05, rtol=0)
    changed.save(tmp_path)
    plain = LlavaForConditionalGeneration.from_pretrained(tmp_path, dtype=dtype)
    assert torch.equal(answer(dataclasses.replace(changed, model=plain)), answer(changed))


def test_only_the_matrices_of_the_language_model_are_in_4_bits(llava: VLM):
    model = copied(llava, "qlora").model
    packed = {name for name, p in model.named_parameters() if p.dtype == torch.uint8}
    assert len(packed) == 3 * 7  # layers × projections
    assert all(re.fullmatch(r"model\.language_model\.layers\.\d\.(self_attn|mlp)\.\w+\.weight", n) for n in packed)
    state = model.model.language_model.layers[0].mlp.up_proj.weight.quant_state
    assert (state.quant_type, state.blocksize, state.nested) == ("nf4", 64, True)
    before, after = (count_parameters(m) for m in (llava.model, model))
    assert {part: count.total for part, count in after.items()} == {p: c.total for p, c in before.items()}


def test_values_are_the_nearest_of_nf4s_sixteen(llava: VLM):
    """Each block of 64 is scaled to [-1, 1] and rounded to NF4's values (arXiv 2305.14314, appendix E)."""
    negative = [-1.0, -0.6962, -0.5251, -0.3949, -0.2844, -0.1848, -0.0911]
    values = torch.tensor([*negative, 0.0, 0.0796, 0.1609, 0.2461, 0.3379, 0.4407, 0.5626, 0.7230, 1.0])
    models = (llava.model, dequantised(copied(llava, "qlora").model))
    weight, rounded = (m.model.language_model.layers[0].mlp.up_proj.weight.detach().view(-1, 64) for m in models)
    scale = weight.abs().amax(-1, keepdim=True)
    nearest = values[(weight / scale)[..., None].sub(values).abs().argmin(-1)] * scale
    # the scales themselves are in 8 bits: off by at most one step of their own code
    assert ((rounded - nearest).abs() <= 0.03 * scale).float().mean() > 0.999


def test_what_is_quantised_is_another_model_with_a_fingerprint_of_its_own(llava: VLM):
    first, second = copied(llava, "qlora"), copied(llava, "qlora")
    assert first.fingerprint() == second.fingerprint() != llava.fingerprint()
    with torch.no_grad():
        answer(first)
    assert first.fingerprint() == second.fingerprint(), "a forward pass changes nothing"


@DTYPES
def test_training_and_evaluation_compute_alike(llava: VLM, dtype: torch.dtype):
    """The reference is scored in evaluation, the policy in training: step 0 needs both to be equal."""
    changed = adapted(llava, "qlora", dtype)
    with torch.no_grad():
        assert torch.equal(answer(changed), answer(changed, training=True))


def test_gradients_reach_adapters_and_projector_only_and_the_4_bit_base_stays_as_it_is(llava: VLM):
    before = weights_hash(copied(llava, "qlora").model)
    changed = adapted(llava, "qlora")
    trained = [p for p in changed.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    answer(changed, training=True)[..., 7].mean().backward()
    assert all(p.grad is not None for p in trained)
    assert all(p.grad is None for p in changed.model.parameters() if not p.requires_grad)
    optimizer.step()
    changed.model = changed.adapter.unload()
    changed.model.model.multi_modal_projector.load_state_dict(llava.model.model.multi_modal_projector.state_dict())
    assert weights_hash(changed.model) == before


def test_gradient_checkpointing_is_kept(llava: VLM, tmp_path: Path):
    llava.save(tmp_path)
    source = PretrainedLlava(path=str(tmp_path), gradient_checkpointing=True)
    model = quantised(source.load(), torch.float32, torch.device("cpu")).model
    assert all(layer.gradient_checkpointing for layer in model.model.language_model.layers)


# Runs

KEPT = ("checkpoint.keep=true", "checkpoint.every_n_steps=1")


def run_training(place: Path, name: str, *words: str) -> Ended:
    ended = succeed("train", *words, f"hydra.run.dir={name}", cwd=place, cache=place.parent / "cache")
    return ended


def losses(run: Path) -> list[float]:
    with (run / "metrics.csv").open() as file:
        return [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]][:4]


def checkpoint(run: Path) -> dict[str, Any]:
    """The only one that a run keeps."""
    (path,) = {path.resolve() for path in (run / "checkpoints").glob("*.ckpt")}
    return dict(torch.load(path, weights_only=False))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, llava: VLM) -> Path:
    """A folder with the random model as `base`, and a run of each method."""
    folder = tmp_path_factory.mktemp("runs") / "place"
    llava.save(folder / "base")
    for method in ("lora", "qlora"):
        ended = run_training(folder, method, *WORDS, f"peft={method}", *KEPT)
        (folder / f"{method}.txt").write_text(ended.out)
    return folder


@METHODS
def test_a_run_starts_at_ln_2_and_learns_what_it_says_at_its_start(place: Path, method: str):
    """r · (inputs + outputs): 3 layers of q, k, v, o: 4·256 and gate, up, down: 3·(128 + 320), rank 4."""
    steps = losses(place / method)
    assert steps[0] == pytest.approx(LN2, abs=1e-5)
    assert steps[3] < steps[0]
    lora = 4 * 3 * (1_024 + 1_344)
    about = json.loads((place / method / "run.json").read_text())["parameters"]
    assert about["LoRA"] == {"total": lora, "trainable": lora}
    trained = {part for part, count in about.items() if count["trainable"]}
    assert trained == {"LoRA", "projector"}
    assert re.search(rf"LoRA +│ +{lora:,} │ +{lora:,} │ +100.00%", (place / f"{method}.txt").read_text())
    assert "eval/pairwise_accuracy_reward" in json.loads((place / method / "metrics.json").read_text())


@METHODS
def test_the_model_of_a_run_is_its_base_with_its_adapter(place: Path, llava: VLM, method: str, tmp_path: Path):
    """W = W₀ or NF4(W₀), + α/r · B A, the projector as trained, all else as it was; also what `export` makes of it."""
    run = place / method
    adapter = load_file(run / "adapter" / "adapter_model.safetensors")
    assert len(adapter) == 2 * 21 + 4
    base = copied(llava, method).model
    state = (dequantised(base) if method == "qlora" else base).state_dict()
    made = LlavaForConditionalGeneration.from_pretrained(run / "model").state_dict()
    for name, weight in made.items():
        key = f"base_model.model.{name.removesuffix('.weight')}"
        if f"{key}.lora_A.weight" in adapter:
            delta = 8 / 4 * adapter[f"{key}.lora_B.weight"] @ adapter[f"{key}.lora_A.weight"]
            assert delta.abs().max() > 1e-4
            torch.testing.assert_close(weight, state[name] + delta, atol=1e-6, rtol=1e-5)
        elif "projector" in name:
            assert torch.equal(weight, adapter[f"base_model.model.{name}"])
            assert not torch.equal(weight, state[name])
        else:
            assert torch.equal(weight, state[name]), name
    export(str(run / "adapter"), str(tmp_path / "out"), "hf", base=str(place / "base"))
    exported = LlavaForConditionalGeneration.from_pretrained(tmp_path / "out").state_dict()
    for name, weight in made.items():
        torch.testing.assert_close(exported[name], weight, atol=1e-6, rtol=1e-5, msg=name)


@pytest.mark.parametrize(
    ("method", "reference"),
    [("lora", "adapter_off"), ("qlora", "frozen"), pytest.param("lora", "frozen", marks=pytest.mark.slow)],
)
def test_every_reference_gives_the_same_losses(place: Path, method: str, reference: str):
    name = f"{method}-{reference}"
    run_training(place, name, *WORDS, f"peft={method}", f"reference={reference}")
    assert losses(place / name) == pytest.approx(losses(place / method), abs=1e-4)
    one, other = (json.loads((place / n / "metrics.json").read_text()) for n in (name, method))
    assert one["eval/pairwise_accuracy_reward"] == other["eval/pairwise_accuracy_reward"]


@pytest.mark.parametrize(
    ("method", "reference"),
    [("lora", "adapter_off"), ("qlora", "cached"), pytest.param("lora", "cached", marks=pytest.mark.slow)],
)
def test_the_reference_of_a_second_run_is_base_plus_the_first_adapter(place: Path, method: str, reference: str):
    first = PretrainedLlava(path=str(place / method)).load()
    words = [word for word in WORDS if word not in ("model=random", "trainer.max_steps=4")]
    words += ["model=llava_hf", f"model.path={method}", f"peft={method}", f"reference={reference}", "evaluate=false"]
    run_training(place, f"second-{method}-{reference}", *words, "trainer.max_steps=1")
    assert losses(place / f"second-{method}-{reference}")[0] == pytest.approx(LN2, abs=1e-5)
    about = json.loads((place / f"second-{method}-{reference}" / "run.json").read_text())
    assert method == "qlora" or about["model"] == first.fingerprint()


@pytest.mark.parametrize("method", ["qlora", pytest.param("lora", marks=pytest.mark.slow)])
def test_a_stopped_run_goes_on(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str):
    words = (*WORDS, f"peft={method}", "evaluate=false", *KEPT)
    step = PreferenceModule.training_step

    def stop_in_the_third(self: Any, *args: Any) -> Any:
        if self.global_step == 2:
            raise RuntimeError
        return step(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(PreferenceModule, "training_step", stop_in_the_third)
        with pytest.raises(RuntimeError):
            run_training(tmp_path, "stopped", *words)
    stopped = checkpoint(tmp_path / "stopped")
    assert stopped["global_step"] == 2
    assert len(stopped["state_dict"]) == 46
    assert all("lora_" in name or "modules_to_save" in name for name in stopped["state_dict"])
    run_training(tmp_path, "stopped", *words)
    whole, again = (load_file(run / "model" / "model.safetensors") for run in (place / method, tmp_path / "stopped"))
    assert all(torch.equal(again[name], weight) for name, weight in whole.items())
    assert losses(tmp_path / "stopped") == losses(place / method)


def test_without_bitsandbytes_one_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    missing: Any = None
    monkeypatch.setitem(sys.modules, "bitsandbytes", missing)
    assert "bitsandbytes is not installed; run pip install 'mmsafe[qlora]', or choose peft=lora" in refuse(
        "train", *WORDS, "peft=qlora", cwd=tmp_path, cache=tmp_path
    )
    words = ("model=llava7b", "model.dtype=bfloat16", "peft=qlora", "data.batch_size=1", "doctor.gpu_memory_gib=24")
    asked = launch("doctor", *words, cwd=tmp_path, cache=tmp_path)
    assert "projections in 4 bits" in asked.out
    assert "verdict: fits" in asked.out, "asking about another machine needs nothing installed"
