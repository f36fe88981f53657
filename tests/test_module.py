"""The training step: it learns, starts where it must, logs what TRL logs, and trains what it was told to."""

import copy
import dataclasses
import functools
import math
import multiprocessing
import os
import socket
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from fitting import fitted, on_cpu
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers.logger import DummyLogger
from small_model import copied, small_model

from mmsafe.core.errors import UserError
from mmsafe.core.options import options
from mmsafe.core.settings import Checkpoint
from mmsafe.data.example import Example
from mmsafe.microworld.reader import MicroWorld
from mmsafe.models.model_options import Trained
from mmsafe.models.vlm import VLM, set_trained
from mmsafe.objectives.base import Objective
from mmsafe.objectives.bpo import BPO
from mmsafe.objectives.dpo import DPO
from mmsafe.objectives.sft import SFT
from mmsafe.reference.policies import ReferencePolicy
from mmsafe.reference.reference import Frozen, Reference
from mmsafe.scoring.collate import Item
from mmsafe.scoring.ways import Padded, Scoring, SharedPrefix
from mmsafe.training.fit import Fitted
from mmsafe.training.optimizers.adamw import AdamW

BLIND = ("I cannot see it.", "Sure, go on and do it!", "Which one do you mean?", "No.")
ALWAYS = {"train/loss", "train/grad_norm", "train/learning_rate", "train/epoch"}
DPO_NAMES = {
    "loss/preference",
    *(f"{kind}/{name}" for kind in ("logps", "rewards") for name in ("chosen", "rejected")),
    "rewards/margins",
    "rewards/accuracies",
}
BLIND_NAMES = {"logps/blind", "rewards/blind", "rewards/margins/blind", "rewards/accuracies/blind"}


@pytest.fixture(scope="module")
def small() -> VLM:
    return small_model()


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    """Four examples; one has no image."""
    found = MicroWorld(size=4, image_size=24).train().examples
    found = [example.with_responses(blind=blind) for example, blind in zip(found, BLIND, strict=True)]
    return [*found[:3], found[3].blinded()]


class Recorder(DummyLogger):
    """Keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[dict[str, float]] = []

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self.rows.append({"step": step, **{n: value for n, value in metrics.items() if not n.startswith("perf/")}})


def trained(
    llava: VLM, examples: Sequence[Example], objective: Objective, **changes: Any
) -> tuple[Fitted, VLM, list[dict[str, float]]]:
    """A copy of the model after `steps` steps, and the logged rows."""
    steps, batch, accumulate = (changes.pop(key, 1) for key in ("steps", "batch_size", "accumulate"))
    llava, recorder = copied(llava), Recorder()
    reference: Reference = changes.pop("reference", Frozen())
    scoring: Scoring = changes.pop("scoring", Padded())
    given: dict[str, Any] = {
        "objective": objective,
        "scoring": scoring,
        "reference": reference.policy(llava, scoring, "32-true") if objective.needs_reference else None,
        "optimizer": AdamW(lr=1e-3, schedule="constant", warmup_steps=0),
        "trainer": on_cpu(max_steps=steps, accumulate_grad_batches=accumulate),
        "batch_size": batch,
        "seed": 0,
        "loggers": [recorder],
    }
    return fitted(llava, examples, **(given | changes)), llava, recorder.rows


@pytest.mark.parametrize(
    ("objective", "names"),
    [
        (SFT(), {"loss/nll", "logps/chosen"}),
        (BPO(), {*DPO_NAMES, *BLIND_NAMES, "loss/blind"}),
        (BPO(mode="concat"), {*DPO_NAMES, *BLIND_NAMES}),
    ],
    ids=["sft", "bpo", "bpo-concat"],
)
def test_overfits_one_batch_and_logs_the_names_of_trl(
    small: VLM, examples: list[Example], objective: Objective, names: set[str]
):
    adamw = AdamW(lr=1e-2, schedule="constant", warmup_steps=0)
    batch = 4 * len(objective.groups)
    steps = 12 if objective.start else 40
    end, _, rows = trained(small, examples, objective, steps=steps, batch_size=batch, optimizer=adamw)
    first, last = rows[0]["train/loss"], rows[-1]["train/loss"]
    if objective.start:
        assert first == pytest.approx(sum(objective.start.values()), abs=1e-4)
        assert rows[-1]["rewards/accuracies"] == 1
        assert rows[0]["rewards/margins"] == pytest.approx(0, abs=1e-4)
    else:
        assert first == pytest.approx(math.log(512), rel=0.1), "a random model knows nothing about its 512 tokens"
    assert last < 0.1 * first
    assert first == pytest.approx(sum(value for name, value in rows[0].items() if name.startswith("loss/")))
    assert [row.pop("step") for row in rows] == list(range(1, steps + 1))
    assert all(set(row) == ALWAYS | names for row in rows)
    assert end.latest == rows[-1]
    assert end.steps == steps


@options
class Another(Frozen):
    """A reference that is not quite the model that training starts from."""

    def policy(self, llava: VLM, scoring: Scoring, precision: str) -> ReferencePolicy:
        reference: Any = super().policy(llava, scoring, precision)
        with torch.no_grad():
            reference.model.lm_head.weight.mul_(1.5)
        return reference


def test_a_foreign_reference_is_refused_at_step_0(small: VLM, examples: list[Example]):
    with pytest.raises(UserError, match=r"step 0: the preference term is \d\.\d+ instead of 0\.693147.*model\.path"):
        trained(small, examples, BPO(), reference=Another(), batch_size=4)


@pytest.mark.parametrize("scoring", [Padded(), SharedPrefix()], ids=["padded", "shared-prefix"])
def test_a_mixture_tells_its_sources_and_trains_as_without(small: VLM, examples: list[Example], scoring: Scoring):
    """Three examples are of a and one of b: an overall mean is three quarters of a's and a quarter of b's."""
    mixed = [dataclasses.replace(e, tags={**e.tags, "source": "b" if i == 2 else "a"}) for i, e in enumerate(examples)]
    words: dict[str, Any] = {"scoring": scoring, "batch_size": 2, "accumulate": 2, "steps": 2}
    _, plain, without = trained(small, examples, BPO(), **words)
    _, sliced, rows = trained(small, mixed, BPO(), **words)
    for name, weight in plain.model.state_dict().items():
        assert torch.equal(sliced.model.state_dict()[name], weight), name
    assert [{name: value for name, value in row.items() if "=" not in name} for row in rows] == without
    names = {name for name in BLIND_NAMES | DPO_NAMES if "margins" in name or "accuracies" in name} | {"train/loss"}
    assert {name for name in rows[-1] if "=" in name} == {f"{name}/source={part}" for name in names for part in "ab"}
    for name in names:
        of_a, of_b = (rows[-1][f"{name}/source={part}"] for part in "ab")
        assert rows[-1][name] == pytest.approx(0.75 * of_a + 0.25 * of_b, abs=1e-6)
    assert rows[-1]["train/loss/source=a"] != rows[-1]["train/loss/source=b"]


@pytest.mark.parametrize(
    ("lr", "steps", "message"),
    [
        (1e-3, 1, r"^step 1: \d+ weights are not finite, such as [\w.]+; lower optimizer\.lr"),
        (1e30, 2, r"^step 2: the loss is nan; lower optimizer\.lr"),
    ],
    ids=["weights of the last step", "loss of the last step"],
)
def test_what_is_not_finite_ends_training(
    small: VLM, examples: list[Example], tmp_path: Path, lr: float, steps: int, message: str
):
    """Whatever is logged, and again when the run is continued where it ended."""

    class Overflow(Callback):
        def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
            """The gradient of a finite loss."""
            if lr < 1:
                next(p for p in module.policy.parameters() if p.requires_grad).grad.fill_(math.inf)

    trainer = on_cpu(max_steps=steps, accumulate_grad_batches=2, log_every_n_steps=5)
    again = {"folder": tmp_path, "checkpoint": Checkpoint(every_n_steps=1)}
    adamw = AdamW(lr=lr, schedule="constant", warmup_steps=0)
    for _ in range(2):
        with pytest.raises(UserError, match=message):
            trained(small, examples, SFT(), trainer=trainer, optimizer=adamw, callbacks=[Overflow()], **again)


class FirstGradient(Callback):
    """Keeps the whole gradient of the first optimiser step."""

    def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
        if not hasattr(self, "found"):
            self.found = flat_gradient(module.policy)


def flat_gradient(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def one_step(llava: VLM, examples: list[Example], **layout: Any) -> tuple[torch.Tensor, dict[str, float]]:
    """Gradient and logged row of one optimiser step of SFT over all examples."""
    watch = FirstGradient()
    _, _, rows = trained(llava, examples, SFT(), scoring=SharedPrefix(), callbacks=[watch], **layout)
    return watch.found, rows[0]


def on_two_processes(llava: VLM, examples: list[Example], batch_size: int) -> tuple[torch.Tensor, dict[str, float]]:
    """The same with half of each batch on either of two processes."""
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    with socket.socket() as free:
        free.bind(("localhost", 0))
        place = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(free.getsockname()[1]), "TORCHELASTIC_RUN_ID": "test"}
    trainer = on_cpu(max_steps=1, devices=2, accumulate_grad_batches=2)

    def work(rank: int) -> None:
        own = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
        os.environ.update(place | {name: str(value) for name, value in own.items()})
        gradient, row = one_step(llava, examples, batch_size=batch_size, trainer=trainer)
        results.put((gradient.numpy(), row))

    processes = [context.Process(target=work, args=(rank,)) for rank in range(2)]
    for process in processes:
        process.start()
    (gradient, row), (other, _) = (results.get(timeout=60) for _ in processes)
    for process in processes:
        process.join(60)
    assert (gradient == other).all()
    return torch.from_numpy(gradient), row


def test_every_token_of_a_step_counts_the_same_however_the_step_is_shared(small: VLM):
    """The gradient of -log-probs over tokens, of all 8 examples in one batch without the training loop."""
    examples = MicroWorld(size=8, image_size=24).train().examples
    examples = [*examples[:3], examples[3].with_responses(chosen="No."), examples[4].blinded(), *examples[5:]]
    llava = dataclasses.replace(small, model=copy.deepcopy(small.model).train())
    batch = Padded().collator(llava.encoder(), SFT().groups)([Item(example) for example in examples])
    log_probs, mask = Padded().log_probs(llava.model, batch)["chosen"]
    assert len(set(mask.sum(1).tolist())) > 3, "responses of many lengths"
    loss = -log_probs.sum() / mask.sum()
    loss.backward()
    expected = flat_gradient(llava.model)
    # the last: micro-batches of 3, 3, 2 and no items
    layouts = [(8, 1), (2, 4), (3, 4)]
    found = [one_step(small, examples, batch_size=size, accumulate=count) for size, count in layouts]
    for gradient, row in [*found, on_two_processes(small, examples, 2)]:
        assert float((gradient - expected).norm() / expected.norm()) < 1e-6
        assert row["train/grad_norm"] == pytest.approx(float(expected.norm()), rel=3e-6)
        assert row["train/loss"] == pytest.approx(loss.item(), rel=3e-6)


@pytest.mark.parametrize("objective", [SFT(average="sequence"), BPO()], ids=["mean", "bpo"])
def test_accumulating_two_batches_equals_one_of_twice_the_size(
    small: VLM, examples: list[Example], objective: Objective
):
    adamw = AdamW(lr=1e-4, schedule="constant", warmup_steps=0)
    _, one, rows = trained(small, examples, objective, steps=3, batch_size=4, optimizer=adamw)
    _, two, accumulated = trained(small, examples, objective, steps=3, batch_size=2, accumulate=2, optimizer=adamw)
    assert len(rows) == len(accumulated) == 3
    for expected, found in zip(rows, accumulated, strict=True):
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-5)
    for name, weight in one.model.state_dict().items():
        assert torch.allclose(two.model.state_dict()[name], weight, atol=1e-5), name


@pytest.mark.parametrize("parts", [{"language"}, {"projector"}, {"vision"}, {"language", "projector", "vision"}])
def test_only_chosen_parts_are_trained(small: VLM, examples: list[Example], parts: set[str]):
    llava = copied(small)
    set_trained(llava.model, Trained(**{name: name in parts for name in ("language", "projector", "vision")}))
    _, after, _ = trained(llava, examples, DPO(), batch_size=4)
    prefixes = {
        "language": ("model.language_model.", "lm_head."),
        "projector": ("model.multi_modal_projector.",),
        "vision": ("model.vision_tower.",),
    }
    before, now = small.model.state_dict(), after.model.state_dict()
    changed = {name for name, weight in before.items() if not torch.equal(now[name], weight)}
    assert {part for part, starts in prefixes.items() if any(name.startswith(starts) for name in changed)} == parts
    assert all(any(name.startswith(start) for starts in prefixes.values() for start in starts) for name in changed)


def test_the_reference_does_not_change_and_stays_in_evaluation_mode(small: VLM, examples: list[Example]):
    modes: set[bool] = set()

    class Watch(Callback):
        def on_train_batch_start(self, trainer: Any, module: Any, *_: Any) -> None:
            assert module.policy.training
            self.reference = module.reference.model
            modes.update(part.training for part in module.reference.modules())

    watch = Watch()
    _, after, _ = trained(small, examples, DPO(), batch_size=4, steps=3, callbacks=[watch])
    assert modes == {False}
    reference, now = watch.reference.state_dict(), after.model.state_dict()
    assert all(torch.equal(reference[name], weight) for name, weight in small.model.state_dict().items())
    assert not any(parameter.requires_grad for parameter in watch.reference.parameters())
    assert not all(torch.equal(reference[name], weight) for name, weight in now.items())


class Touch:
    """Unpickled without care, it makes a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.trace),)


def test_a_checkpoint_holds_what_is_trained_and_a_damaged_one_is_one_line_and_never_run(
    small: VLM, examples: list[Example], tmp_path: Path
):
    again = functools.partial(trained, small, examples, DPO(), folder=tmp_path, checkpoint=Checkpoint(every_n_steps=1))
    again()
    path = tmp_path / "checkpoints" / "step=1.ckpt"
    held = torch.load(path, weights_only=False)["state_dict"]
    assert set(held) == {f"policy.{name}" for name, p in small.model.named_parameters() if p.requires_grad}
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1  # in the middle of a tensor, where only a check sum tells
    for damaged in (b"", whole[:100], whole[: len(whole) // 2], bytes(len(whole)), flipped):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"step=1\.ckpt: cannot be read .* delete .*checkpoints to train"):
            again()
    torch.save({"state_dict": {}, "evil": Touch(tmp_path / "trace")}, path)
    with pytest.raises(UserError, match=r"step=1\.ckpt: cannot be read"):
        again()
    assert not (tmp_path / "trace").exists()
    path.write_bytes(whole)
    again(steps=2)


def test_the_optimiser_is_gone_when_training_ends(small: VLM, examples: list[Example]):
    """Its state is as large as the model, twice, and an evaluation follows."""

    class Watch(Callback):
        def on_train_start(self, trainer: Any, module: Any) -> None:
            self.kept = (trainer.datamodule, module)
            self.optimizer = weakref.ref(trainer.optimizers[0])

    watch = Watch()
    trained(small, examples, SFT(), callbacks=[watch])
    assert watch.optimizer() is None


@pytest.mark.parametrize("clip", [0.0, 1e-3])
def test_the_logged_gradient_norm_is_the_one_before_clipping(small: VLM, examples: list[Example], clip: float):
    trainer = on_cpu(max_steps=2, gradient_clip_val=clip)
    norms: list[float] = []

    class Watch(Callback):
        def on_before_zero_grad(self, trainer: Any, module: Any, optimizer: Any) -> None:
            """Gradients of step 1 are in place until step 2 clears them."""
            gradients = [p.grad for p in module.policy.parameters() if p.grad is not None]
            norms.append(float(torch.nn.utils.get_total_norm(gradients)))

    _, _, rows = trained(small, examples, SFT(), trainer=trainer, batch_size=4, callbacks=[Watch()])
    logged = rows[0]["train/grad_norm"]
    assert logged > 0.1
    assert norms[-1] == pytest.approx(clip or logged, rel=1e-3)


@pytest.mark.parametrize(
    ("schedule", "warmup", "expected"),
    [
        ("constant", 0, [1, 1, 1, 1, 1, 1, 1, 1]),
        ("linear", 4, [0, 0.25, 0.5, 0.75, 1, 0.75, 0.5, 0.25]),
        ("linear", 0.5, [0, 0.25, 0.5, 0.75, 1, 0.75, 0.5, 0.25]),  # half of all steps
        ("cosine", 4, [0, 0.25, 0.5, 0.75, 1, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2]),
    ],
)
def test_the_learning_rate_follows_its_schedule_by_the_step(
    small: VLM, examples: list[Example], schedule: Any, warmup: float, expected: list[float]
):
    adamw = AdamW(lr=2e-3, schedule=schedule, warmup_steps=warmup)
    trainer = on_cpu(max_epochs=4, accumulate_grad_batches=2, log_every_n_steps=2 if schedule == "constant" else 1)
    end, _, rows = trained(small, examples, SFT(), optimizer=adamw, trainer=trainer)  # 4 batches of 1: 2 steps an epoch
    logged = range(1, 9)[trainer.log_every_n_steps - 1 :: trainer.log_every_n_steps]
    assert [row["step"] for row in rows] == list(logged)
    assert end.steps == 8
    assert [row["train/learning_rate"] / 2e-3 for row in rows] == pytest.approx(
        [expected[n - 1] for n in logged], abs=1e-6
    )
    assert [row["train/epoch"] for row in rows] == [n / 2 for n in logged]
