"""Reference log-probs on disk: equal to a frozen copy's, made once, resumed, shared, and never stale."""

import copy
import dataclasses
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from small_model import copied, small_model

from mmsafe.core import claims
from mmsafe.core.errors import UserError
from mmsafe.core.settings import Peft
from mmsafe.data.corruption import Crop
from mmsafe.data.example import Example
from mmsafe.microworld.reader import MicroWorld
from mmsafe.models.adapters import add_lora
from mmsafe.models.vlm import VLM
from mmsafe.objectives.base import Objective
from mmsafe.objectives.bpo import BPO
from mmsafe.objectives.dpo import DPO
from mmsafe.objectives.mdpo import MDPO
from mmsafe.reference import cached as module
from mmsafe.reference.cached import CachedLogProbs, store_key
from mmsafe.reference.reference import AdapterOff, Cached, Frozen
from mmsafe.reference.store import LogProbStore
from mmsafe.scoring.collate import Items
from mmsafe.scoring.ways import Padded, Scoring, SharedPrefix

SCORING = SharedPrefix()
PAIRWISE = BPO()


@pytest.fixture(scope="module")
def base() -> VLM:
    return small_model()


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of every forward pass of the reference."""
    rows: list[int] = []
    original = SharedPrefix.log_probs

    def counting(self: SharedPrefix, model: Any, batch: Any) -> Any:
        rows.append(len(batch) * len(batch.rows))
        return original(self, model, batch)

    monkeypatch.setattr(SharedPrefix, "log_probs", counting)
    return rows


def world(size: int = 9) -> list[Example]:
    found = MicroWorld(size=size, image_size=24).train().examples
    return [example.with_responses(blind=f"It is fine, number {i}.") for i, example in enumerate(found)]


def prepared(
    llava: VLM,
    data: Sequence[Example],
    objective: Objective = PAIRWISE,
    max_length: int | None = None,
    scoring: Scoring = SCORING,
    **options: Any,
) -> tuple[CachedLogProbs, Any, Items]:
    reference = Cached().policy(llava, scoring, options.pop("precision", "32-true"))
    assert isinstance(reference, CachedLogProbs)
    layout = {"corruption": options.pop("corruption", Crop()), "max_tokens": options.pop("max_tokens", None)}
    collator = scoring.collator(llava.encoder(), objective.groups, max_length, **layout)
    items = Items(data, len(objective.groups))
    reference.prepare(items, collator, 4, **options)
    return reference, collator, items


@pytest.mark.parametrize(
    ("objective", "scoring", "workers"),
    [
        (BPO(), SharedPrefix(), 0),
        (BPO(), Padded(), 0),
        (BPO(mode="concat"), SharedPrefix(), 0),
        (MDPO(), SharedPrefix(), 2),
    ],
    ids=["bpo", "padded", "concat", "mdpo in workers"],
)
def test_the_log_probs_are_those_of_a_frozen_copy(base: VLM, objective: Objective, scoring: Scoring, workers: int):
    reference, collator, items = prepared(base, world(), objective, scoring=scoring, num_workers=workers)
    frozen = Frozen().policy(base, scoring, "32-true")
    batch = reference.collate(collator)([items[i] for i in range(len(items))])
    expected, found = frozen.log_probs(batch), reference.log_probs(batch)
    assert list(found) == list(expected)
    for name, row in expected.items():
        assert torch.equal(found[name].mask, row.mask)
        torch.testing.assert_close(found[name].log_probs, row.log_probs, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("objective", [BPO(), BPO(mode="concat"), MDPO()], ids=["bpo", "concat", "mdpo"])
def test_many_prompts_in_a_line_have_the_log_probs_and_sums_of_a_line_for_each(
    base: VLM, scored: list[int], objective: Objective, own_cache: Path
):
    frozen, found = Frozen().policy(base, SCORING, "32-true"), []
    for max_tokens, other in ((None, 250), (250, None)):
        reference, collator, items = prepared(base, world(), objective, max_tokens=max_tokens)
        assert len(scored) > 1, "several batches"
        found += [policy.sums(items, collator, 4, torch.device("cpu")) for policy in (reference, frozen)]
        scored.clear()
        prepared(base, world(), objective, max_tokens=other)
        assert not scored, "a layout is no other scoring: what is known stays known"
        shutil.rmtree(own_cache / "reference")
    for sums in found[1:]:
        for row, expected in zip(sums, found[0], strict=True):
            assert row.keys() == expected.keys()
            for name, (total, count) in expected.items():
                assert row[name] == (pytest.approx(total, abs=1e-4), count)


def test_only_what_is_new_is_computed(base: VLM, scored: list[int]):
    """Of objectives, of data, and of what a run asks for twice: the pairs of its evaluation, then its training data."""
    prepared(base, world()[:5], DPO())
    prepared(base, world(), DPO())
    assert sum(scored) == 18
    prepared(base, world(), BPO())
    assert sum(scored) == 18 + 9, "only the blind responses are new"
    prepared(base, world(), BPO(beta=0.5, mode="concat"))
    prepared(base, world(), DPO(beta=0.3))
    reference, collator, _ = prepared(base, world()[:2])
    reference.prepare(Items(world(), 1), collator, 4)
    assert len(reference.collate(collator)([Items(world(), 1)[i] for i in range(9)]).reference)
    assert sum(scored) == 27
    reference, collator, items = prepared(base, [*world(), *world()], MDPO())
    assert sum(scored) == 27 + 9, "only the chosen one beside the corrupted image is new, and that once"
    assert len(reference.log_probs(reference.collate(collator)([items[i] for i in range(18)]))["chosen"].mask) == 18


# Never stale: each part of the key


def changed_weights(llava: VLM) -> None:
    with torch.no_grad():
        llava.model.lm_head.weight[0, 0] += 1e-3


def other_template(llava: VLM) -> None:
    llava.processor.chat_template += " "


def no_eos(llava: VLM) -> VLM:
    return dataclasses.replace(llava, source=dataclasses.replace(llava.source, append_eos=False))


MODEL_CHANGES: dict[str, Callable[[VLM], Any]] = {
    "weights": changed_weights,
    "adapter": lambda llava: add_lora(llava, Peft(method="lora", rank=2)),
    "template": other_template,
    "padding": lambda llava: setattr(llava.processor.image_processor, "do_pad", False),
    "token": lambda llava: llava.processor.tokenizer.add_tokens(["knife of a kind"]) and None,
    "no eos": no_eos,
    "attention": lambda llava: llava.model.set_attn_implementation("eager"),
    "dtype": lambda llava: llava.model.to(torch.bfloat16) and None,
}


@pytest.mark.parametrize("name", MODEL_CHANGES)
def test_another_model_has_a_store_of_its_own(base: VLM, name: str):
    other = VLM(copy.deepcopy(base.model), copy.deepcopy(base.processor), base.source)
    before = store_key(base, SCORING, "32-true")
    assert store_key(other, SCORING, "32-true") == before, "a copy is the same model"
    assert store_key(MODEL_CHANGES[name](other) or other, SCORING, "32-true") != before


def test_another_way_of_computing_has_a_store_of_its_own(base: VLM, monkeypatch: pytest.MonkeyPatch):
    before = store_key(base, SCORING, "32-true")
    keys = [store_key(base, Padded(), "32-true"), store_key(base, SCORING, "bf16-mixed")]
    for library in ("torch", "transformers"):
        with monkeypatch.context() as patch:
            patch.setattr(f"{library}.__version__", "2.6.0")
            keys.append(store_key(base, SCORING, "32-true"))
    assert len({before, *keys}) == 5
    assert store_key(base, SCORING, "32-true") == before


def asked(example: Example) -> Example:
    return dataclasses.replace(example, turns=(*example.turns[:-1], dataclasses.replace(example.turns[-1], text="Eh?")))


def pictured(example: Example) -> Example:
    return dataclasses.replace(example, images=MicroWorld(size=1, image_size=24, seed=5).train().examples[0].images)


@pytest.mark.parametrize(
    ("change", "new"),
    [
        (lambda example: example.with_responses(chosen=example.responses["chosen"] + " Indeed."), 1),
        (lambda example: dataclasses.replace(example, cut=frozenset({"chosen"})), 1),
        (asked, 3),
        (pictured, 3),
        (Example.blinded, 3),
    ],
    ids=["response", "cut", "question", "image", "no image"],
)
def test_another_row_is_scored_anew(base: VLM, scored: list[int], change: Callable[[Example], Example], new: int):
    data = [example for example in world(12) if example.images][:3]
    prepared(base, data)
    prepared(base, [change(data[0]), *data[1:]])
    assert sum(scored) == 9 + new


def test_another_length_rule_or_corruption_is_scored_anew(base: VLM, scored: list[int]):
    data = [example for example in world(12) if example.images][:3]
    for limit in (None, 40, 41):
        reference, collator, items = prepared(base, data, max_length=limit)
        batch = reference.collate(collator)([items[0]])
        assert len(batch.reference) == batch.targets
    assert sum(scored) == 27
    for new, corruption in enumerate((Crop(), Crop(seed=1), Crop(max_share=0.3)), start=1):
        prepared(base, data, MDPO(), corruption=corruption)
        assert sum(scored) == 27 + 3 * new


# Durability and sharing


def rows_on_disk(folder: Path) -> list[str]:
    found = []
    for path in folder.rglob("*.safetensors"):
        with safe_open(path, "pt") as file:
            found += file.metadata()["keys"].split('", "')
    return found


def killed_in_the_middle(chunks: int) -> None:
    """In a process of its own: dies while the chunk after this many is written."""
    module.CHUNK = 2
    original, written = LogProbStore.write, []

    def write(self: Any, *arguments: Any) -> None:
        if len(written) == chunks:
            os.kill(os.getpid(), signal.SIGKILL)
        written.append(1)
        original(self, *arguments)

    LogProbStore.write = write  # type: ignore[method-assign]
    prepared(small_model(), world())


@pytest.mark.parametrize("chunks", [0, 3])
def test_a_killed_pass_goes_on_where_it_was(
    own_cache: Path, scored: list[int], monkeypatch: pytest.MonkeyPatch, chunks: int
):
    small_model()
    process = multiprocessing.get_context("fork").Process(target=killed_in_the_middle, args=(chunks,))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert len(rows_on_disk(own_cache)) == 6 * chunks
    monkeypatch.setattr(module, "CHUNK", 2)
    prepared(small_model(), world())
    assert sum(scored) == 27 - 6 * chunks
    assert len(rows_on_disk(own_cache)) == 27
    assert not list(own_cache.rglob("*.lock"))


def test_processes_share_the_pass(own_cache: Path, monkeypatch: pytest.MonkeyPatch):
    small_model()
    monkeypatch.setattr(module, "CHUNK", 2)
    monkeypatch.setattr(claims, "WAIT", 0.01)
    context = multiprocessing.get_context("fork")
    barrier, counts = context.Barrier(3), context.Queue()

    def work() -> None:
        barrier.wait()
        rows = 0
        original = CachedLogProbs._scored

        def counting(self: Any, *arguments: Any) -> Any:
            nonlocal rows
            found = original(self, *arguments)
            rows += len(found)
            return found

        CachedLogProbs._scored = counting  # type: ignore[method-assign]
        reference, collator, items = prepared(small_model(), world(25))
        batch = reference.collate(collator)([items[i] for i in range(25)])
        counts.put((rows, len(batch.reference)))

    workers = [context.Process(target=work) for _ in range(3)]
    for worker in workers:
        worker.start()
    found = [counts.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join(60)
    assert sum(rows for rows, _ in found) == 75, "every row by exactly one of them"
    assert len({size for _, size in found}) == 1
    assert len(rows_on_disk(own_cache)) == 75


def test_another_process_s_chunk_is_waited_for(own_cache: Path, base: VLM, monkeypatch: pytest.MonkeyPatch):
    """It has claimed the file, which appears later."""
    monkeypatch.setattr(claims, "WAIT", 0.01)
    prepared(base, world())
    (file,) = own_cache.rglob("*.safetensors")
    kept = file.read_bytes()
    file.unlink()
    begun, asked_for = threading.Event(), threading.Event()

    def other() -> None:
        with claims.Claims(file.parent) as own:
            for _ in own.shared([file.name], LogProbStore(file.parent).names, 1):
                begun.set()
                assert asked_for.wait(60)
                file.write_bytes(kept)

    thread = threading.Thread(target=other)
    thread.start()
    assert begun.wait(60)
    monkeypatch.setattr(CachedLogProbs, "_scored", lambda *_: pytest.fail("it was being made by another process"))
    monkeypatch.setattr(claims.time, "sleep", lambda _: asked_for.set())
    prepared(base, world())
    thread.join(60)
    assert asked_for.is_set()


def test_a_damaged_file_is_named_and_a_full_disk_leaves_nothing_half_written(
    own_cache: Path, base: VLM, monkeypatch: pytest.MonkeyPatch
):
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("mmsafe.core.tensor_file.safetensors.save_file", full)
        with pytest.raises(UserError, match=r"cannot be written .*No space left.*MMSAFE_CACHE"):
            prepared(base, world(2))
    assert [path.name for path in own_cache.rglob("*") if path.is_file()] == ["table"], "only the lock of the claims"
    prepared(base, world(2))
    (file,) = own_cache.rglob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(UserError, match=rf"{file.name}: is damaged .*delete it"):
        prepared(base, world(2))


def test_the_pass_leaves_the_model_as_it_was(base: VLM):
    llava = copied(base)
    llava.model.train()
    before = {name: weight.clone() for name, weight in llava.model.state_dict().items()}
    prepared(llava, world(3))
    assert llava.model.training
    assert all(torch.equal(weight, before[name]) for name, weight in llava.model.state_dict().items())
    assert all(parameter.grad is None for parameter in llava.model.parameters())


# The adapter switched off


def adapted(base: VLM) -> VLM:
    llava = copied(base)
    add_lora(llava, Peft(method="lora", rank=2))
    with torch.no_grad():
        for parameter in llava.model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1)
    return llava


def answered(reference: Any, llava: VLM) -> Any:
    policy = reference.policy(llava, SCORING, "32-true")
    policy.prepare(Items(world(2), 1), SCORING.collator(llava.encoder(), BPO().groups), 4)
    return policy


def test_without_its_adapter_the_policy_is_the_base_model(base: VLM):
    llava = adapted(base)
    collator = SCORING.collator(llava.encoder(), BPO().groups)
    batch = collator([Items(world(4), 1)[i] for i in range(4)])
    expected = Frozen().policy(base, SCORING, "32-true").log_probs(batch)
    found = answered(AdapterOff(), llava).log_probs(batch)
    with torch.no_grad():
        policy = SCORING.log_probs(llava.model, batch)
    for name, row in expected.items():
        torch.testing.assert_close(found[name].log_probs, row.log_probs, atol=1e-6, rtol=1e-6)
        assert not torch.allclose(policy[name].log_probs, row.log_probs, atol=1e-3), "the adapter is on again"


def test_no_adapter_or_more_than_one_trained_is_refused(base: VLM):
    with pytest.raises(UserError, match=r"reference=adapter_off: the model has no adapter"):
        answered(AdapterOff(), base)
    llava = adapted(base)
    llava.model.lm_head.requires_grad_(True)
    with pytest.raises(UserError, match=r"1 weights beside the adapter are trained, such as lm_head"):
        answered(AdapterOff(), llava)


def test_a_frozen_copy_shares_only_a_frozen_tower(base: VLM):
    def shares(policy: VLM) -> set[str]:
        reference: Any = Frozen().policy(policy, SCORING, "32-true")
        own = {parameter.data_ptr() for parameter in policy.model.parameters()}
        return {name.split(".")[1] for name, p in reference.model.named_parameters() if p.data_ptr() in own}

    assert shares(base) == {"vision_tower"}
    trained = copied(base)
    trained.model.model.vision_tower.requires_grad_(True)
    assert shares(trained) == set()
