"""Packed rows against padded ones: the same losses, the same gradients, the same trained weights."""

import copy
import dataclasses
import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from fitting import fitted, on_cpu
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig
from pytorch_lightning.callbacks import Callback
from small_model import Noise, copied, small_model
from torch import Tensor

from mmsafe.core.errors import UserError
from mmsafe.data.corruption import Corruption
from mmsafe.data.example import Example, Turn
from mmsafe.microworld.tiny_options import Architecture
from mmsafe.models.encoding import Encoder
from mmsafe.models.vlm import VLM
from mmsafe.objectives.base import Objective, Rows, ScoredRow, Scores
from mmsafe.objectives.bpo import BPO
from mmsafe.objectives.dpo import DPO
from mmsafe.objectives.mdpo import MDPO
from mmsafe.objectives.sft import SFT
from mmsafe.reference.policies import Model, frozen_copy
from mmsafe.scoring.collate import Item
from mmsafe.scoring.token_batches import item_tokens
from mmsafe.scoring.ways import Padded, Scoring, SharedPrefix, by_row
from mmsafe.training.optimizers.adamw import AdamW

SIZES = Architecture(
    image_size=48, patch_size=8, vision_width=32, vision_layers=2, width=64, layers=2, heads=4, vocabulary=600
)
TEXT = "the knife on a table looks sharp and old, do not touch it; ask someone who knows about bread"
WORDS = TEXT.split()


class Darker(Corruption):
    """A corruption whose effect is plain."""

    def on_pixels(self, pixels: Tensor, *_: Any) -> Tensor:
        return pixels - 1


def words(generator: random.Random, low: int, high: int) -> str:
    return " ".join(generator.choices(WORDS, k=generator.randint(low, high)))


def examples(count: int, seed: int = 0, *, text_only: bool = True) -> list[Example]:
    """Conversations of unequal lengths; two share an image, and some have none."""
    generator, found = random.Random(seed), []
    for index in range(count):
        images = () if text_only and index % 4 == 3 else (Noise(max(index - 1, 0)),)
        turns = [Turn("user", words(generator, 1, 20), (0,) * len(images))]
        if index % 3 == 2:
            turns = [Turn("user", "Hello."), Turn("assistant", words(generator, 1, 9)), *turns]
        responses = {name: words(generator, 1, 25) for name in ("chosen", "rejected", "blind")}
        found.append(Example(str(index), tuple(turns), images, responses))
    return found


class Views(DPO):
    """Chosen beside all three views of the image."""

    @property
    def groups(self) -> tuple[Rows, ...]:
        (pair,) = super().groups
        return ({**pair, "unseen": ScoredRow("chosen", "none"), "spoilt": ScoredRow("blind", "corrupted")},)

    def __call__(self, scores: Any) -> dict[str, Tensor]:
        terms = super().__call__(scores)
        return {**terms, "rest": scores["unseen"].log_ratio - 0.5 * scores["spoilt"].log_prob}


PACKED = SharedPrefix()
OBJECTIVES = {"sft": SFT(), "dpo": DPO(), "bpo": BPO(), "concat": BPO(mode="concat"), "mdpo": MDPO(), "views": Views()}


@pytest.fixture(scope="module")
def base() -> VLM:
    return small_model(SIZES)


def policy_of(base: VLM, *, lora: bool = False, checkpointing: bool = False, dtype: torch.dtype = torch.float32) -> VLM:
    """A policy a little away from its reference, so that no gradient is zero."""
    llava = dataclasses.replace(base, model=copy.deepcopy(base.model).to(dtype))
    if lora:
        layers = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
        llava.model.add_adapter(LoraConfig(r=4, lora_alpha=8, target_modules=layers))
    if checkpointing:
        llava.model.gradient_checkpointing_enable({"use_reentrant": False})
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in llava.model.parameters():
            if parameter.requires_grad:
                parameter.add_((0.02 * torch.randn(parameter.shape, generator=generator)).to(dtype))
    llava.model.train()
    return llava


def step(
    llava: VLM,
    reference: Any,
    objective: Objective,
    scoring: Scoring,
    data: Sequence[Example],
    precision: str = "",
    max_tokens: int | None = None,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Loss terms of one batch, and the gradient of every trained parameter."""
    collator = scoring.collator(llava.encoder(), objective.groups, None, Darker(), max_tokens=max_tokens)
    items = [Item(example, group) for example in data for group in range(len(objective.groups))]
    llava.model.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
        batch = scoring.with_features(llava.model, collator(items))
        rows = scoring.log_probs(llava.model, batch)
        with torch.no_grad():
            before = scoring.log_probs(reference, batch)
        terms = objective({name: Scores(*row, before[name].log_probs) for name, row in rows.items()})
        torch.stack([term.mean() for term in terms.values()]).sum().backward()
    gradients = {name: p.grad for name, p in llava.model.named_parameters() if p.grad is not None}
    return terms, {name: gradient.clone() for name, gradient in gradients.items()}


def worst(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Largest relative difference, by norm."""
    assert found.keys() == expected.keys()
    return max(float((found[n].double() - e.double()).norm() / e.double().norm()) for n, e in expected.items())


@pytest.mark.parametrize(
    ("name", "checkpointing", "lora"),
    [
        *((name, False, False) for name in OBJECTIVES),
        ("views", True, False),
        ("views", False, True),
        ("bpo", True, True),
    ],
)
def test_losses_and_gradients_are_those_of_padded_rows(base: VLM, name: str, checkpointing: bool, lora: bool):
    llava, reference = policy_of(base, lora=lora, checkpointing=checkpointing), frozen_copy(base.model)
    arguments = (llava, reference, OBJECTIVES[name])
    terms, gradients = step(*arguments, Padded(), examples(7))
    assert len(gradients) > 15
    assert not lora or all("lora_" in name or "projector" in name or "lm_head" in name for name in gradients)
    for limit in (None, 10_000):
        found, own = step(*arguments, SharedPrefix(), examples(7), max_tokens=limit)
        assert worst(found, terms) < 1e-5
        assert worst(own, gradients) < 1e-5


def test_in_double_precision_the_difference_is_that_of_fp32_norms(base: VLM):
    """LlamaRMSNorm and the rotary embedding compute in fp32 whatever the weights are."""
    llava = policy_of(base, dtype=torch.float64)
    reference = copy.deepcopy(base.model).double()
    terms, gradients = step(llava, reference, BPO(), _DoublePadded(), examples(5))
    found, own = step(llava, reference, BPO(), SharedPrefix(), examples(5))
    assert worst(found, terms) < 1e-9
    assert worst(own, gradients) < 1e-6


class _DoublePadded(Padded):
    def log_probs(self, model: Any, batch: Any) -> Any:
        pixels = batch.image_inputs["pixel_values"].double()
        logits = model(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, pixel_values=pixels, use_cache=False
        ).logits
        found = logits[:, :-1].log_softmax(-1).gather(-1, batch.input_ids[:, 1:, None]).squeeze(-1)
        return by_row(batch, found[batch.target_mask])


class Losses(Callback):
    """Loss and gradient norm of every step."""

    def __init__(self) -> None:
        self.rows: list[tuple[float, float]] = []

    def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
        self.rows.append((module.latest["train/loss"], module.latest["train/grad_norm"]))


@pytest.mark.parametrize("max_tokens", [None, 500], ids=["lines", "one line"])
@pytest.mark.parametrize("name", ["bpo", "mdpo"])
def test_twenty_optimiser_steps_are_the_same(base: VLM, name: str, max_tokens: int | None):
    trained: dict[str, tuple[list[tuple[float, float]], dict[str, Tensor]]] = {}
    for scoring in (Padded(), SharedPrefix()):
        llava, seen = copied(base), Losses()
        fitted(
            llava,
            examples(40),
            objective=OBJECTIVES[name],
            scoring=scoring,
            reference=Model(frozen_copy(llava.model), scoring),
            optimizer=AdamW(lr=2e-4, warmup_steps=2),
            trainer=on_cpu(max_steps=20),
            batch_size=4,
            max_tokens=max_tokens,
            corruption=Darker(),
            seed=0,
            callbacks=[seen],
        )
        trained[type(scoring).__name__] = (seen.rows, llava.model.state_dict())
    (rows, weights), (own_rows, own) = trained["Padded"], trained["SharedPrefix"]
    assert len(rows) == 20
    for (loss, norm), (own_loss, own_norm) in zip(rows, own_rows, strict=True):
        assert own_loss == pytest.approx(loss, rel=1e-5)
        assert own_norm == pytest.approx(norm, rel=1e-4)
    start = base.model.state_dict()
    moved = [name for name, weight in weights.items() if not torch.equal(weight, start[name])]
    assert len(moved) > 20
    for name in moved:  # Adam turns a gradient near zero into a full step, so the measure is the distance travelled
        assert (own[name] - weights[name]).norm() < 1e-2 * (weights[name] - start[name]).norm(), name


def test_bf16_is_as_near_to_fp32_as_padded_rows_are(base: VLM):
    llava, reference = policy_of(base), frozen_copy(base.model)
    exact, _ = step(llava, reference, BPO(), Padded(), examples(7))
    errors = {}
    for scoring in (Padded(), SharedPrefix()):
        found, gradients = step(llava, reference, BPO(), scoring, examples(7), "bf16")
        errors[type(scoring).__name__] = max(float((found[n].float() - e).abs().max()) for n, e in exact.items())
        assert all(gradient.dtype == torch.float32 for gradient in gradients.values())
    assert errors["SharedPrefix"] < 2 * errors["Padded"] + 1e-3


@pytest.mark.parametrize("attention", ["eager", "flex_attention"])
def test_every_attention_gives_the_same_log_probs(base: VLM, attention: str):
    other = copy.deepcopy(base.model)
    other.set_attn_implementation({"text_config": attention, "vision_config": "sdpa"})
    scoring, objective = SharedPrefix(), Views()
    batch = scoring.collator(base.encoder(), objective.groups, None, Darker())([Item(e) for e in examples(5)])
    with torch.no_grad():
        expected, found = scoring.log_probs(base.model, batch), scoring.log_probs(other, batch)
    for name, row in expected.items():
        torch.testing.assert_close(found[name].log_probs, row.log_probs, atol=1e-5, rtol=1e-5)


def test_attention_or_a_head_that_packed_rows_cannot_take_is_refused(base: VLM):
    batch = SharedPrefix().collator(base.encoder(), DPO().groups)([Item(e) for e in examples(2)])
    other = copied(base).model
    other.model.language_model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(UserError, match=r"model\.attention=flash_attention_2: .*scoring=padded"):
        SharedPrefix().log_probs(other, batch)
    other = copied(base).model
    other.add_adapter(LoraConfig(r=2, target_modules=["lm_head"]))
    with pytest.raises(UserError, match=r"lm_head is not a plain matrix; choose scoring=padded"):
        SharedPrefix().log_probs(other, batch)


def both(
    llava: VLM,
    encoder: Encoder,
    groups: Any,
    data: Sequence[Example],
    limit: int | None = None,
    max_tokens: int | None = None,
) -> Any:
    """Log-probs of padded and of packed rows, all in one line where that is asked for."""
    items = [Item(e) for e in data]
    batches = [
        way.collator(encoder, groups, limit, Darker(), max_tokens=max_tokens)(items) for way in (Padded(), PACKED)
    ]
    with torch.no_grad():
        return Padded().log_probs(llava.model, batches[0]), PACKED.log_probs(llava.model, batches[1])


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    count=st.integers(1, 6),
    limit=st.sampled_from([None, 50, 70]),
    max_tokens=st.sampled_from([None, 1]),
)
def test_any_batch_scores_like_padded_rows(seed: int, count: int, limit: int | None, max_tokens: int | None):
    llava = small_model(SIZES)
    padded, packed = both(llava, llava.encoder(), Views().groups, examples(count, seed), limit, max_tokens)
    for name, expected in padded.items():
        row = packed[name]
        torch.testing.assert_close(row.log_probs[row.mask], expected.log_probs[expected.mask], atol=1e-4, rtol=1e-5)
        assert torch.equal(row.mask.sum(1), expected.mask.sum(1))


@pytest.mark.parametrize("empty", [["blind"], ["chosen", "blind"], ["chosen", "rejected", "blind"]], ids="-".join)
def test_empty_responses_without_eos_have_no_tokens_and_disturb_nobody(base: VLM, empty: list[str]):
    """As in the paper's code, which appends no EOS: a blind response may say nothing at all."""
    encoder = Encoder(base.processor, append_eos=False)
    data = [*examples(3), examples(4)[3].with_responses(**dict.fromkeys(empty, ""))]
    data = data if len(empty) < 3 else [data[3], data[3]]
    for max_tokens in (None, 1):
        padded, packed = both(base, encoder, BPO().groups, data, max_tokens=max_tokens)
        for name, row in packed.items():
            assert torch.equal(row.mask.sum(1), padded[name].mask.sum(1))
            torch.testing.assert_close(row.log_probs.sum(1), padded[name].log_probs.sum(1), atol=1e-4, rtol=1e-5)


def test_a_token_sees_the_prompt_and_the_response_that_it_is_of(base: VLM):
    """Pair by pair, from the tokens: the mask of a line says nothing else."""
    collator = PACKED.collator(base.encoder(), Views().groups, None, Darker(), max_tokens=1)
    items = [Item(e) for e in examples(3)]
    batch, rows = collator(items), Views().groups[0]
    owners: list[tuple[Any, ...]] = []  # question, view, response, None in a prompt
    for number, item in enumerate(items):
        for image in dict.fromkeys(row.image for row in rows.values()):
            shown = {name: row for name, row in rows.items() if row.image == image}
            prompt = base.encoder().prompt_ids(collator.shown(item, next(iter(shown.values()))))
            owners += [(number, image, None)] * len(prompt)
            for name in shown:
                owners += [(number, image, name)] * collator.tokens(item, name)
    mask = batch.attention_mask()[0, 0].tolist()
    assert len(mask) - len(owners) == batch.padding < 8
    for query, (number, image, name) in enumerate(owners):
        seen = [
            key <= query and owner in ((number, image, None), (number, image, name)) for key, owner in enumerate(owners)
        ]
        assert mask[query][: len(owners)] == seen
        assert not any(mask[query][len(owners) :])
    assert sum(item_tokens(collator, item) for item in items) == len(owners)


def test_what_one_response_says_changes_nothing_for_the_others(base: VLM):
    data = examples(4)
    other = [e.with_responses(rejected=WORDS[3] * 9 + " else altogether") for e in data]
    scoring = SharedPrefix()
    collate = scoring.collator(base.encoder(), BPO().groups)
    with torch.no_grad():
        before, after = (scoring.log_probs(base.model, collate([Item(e) for e in d])) for d in (data, other))
    for name in ("chosen", "blind"):
        torch.testing.assert_close(
            after[name].log_probs[after[name].mask], before[name].log_probs[before[name].mask], atol=1e-5, rtol=1e-5
        )
    assert after["rejected"].mask.sum() != before["rejected"].mask.sum()
