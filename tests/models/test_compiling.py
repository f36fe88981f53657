"""Compiled layers: the same steps, for the time of the training only, and one line where there is no compiler."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from fitting import fitted, on_cpu
from small_model import SIZES, copied, of_family, small_model
from torch._dynamo.utils import counters

from mmsafe.core.errors import UserError
from mmsafe.core.settings import Peft
from mmsafe.microworld.reader import MicroWorld
from mmsafe.models.adapters import add_lora
from mmsafe.models.compiling import compiled
from mmsafe.models.family import Family, families
from mmsafe.models.vlm import VLM
from mmsafe.objectives.dpo import DPO
from mmsafe.reference.policies import Model, frozen_copy
from mmsafe.scoring.ways import SharedPrefix
from mmsafe.training.optimizers.adamw import AdamW

Compile = Callable[[str], None]


@pytest.fixture
def compile_by(monkeypatch: pytest.MonkeyPatch) -> Compile:
    """Sets the backend: `eager` captures graphs as any other does, and then runs them without a compiler."""

    def choose(backend: str) -> None:
        def compile(module: torch.nn.Module) -> None:
            module._compiled_call_impl = torch.compile(module._call_impl, backend=backend)

        monkeypatch.setattr(torch.nn.Module, "compile", compile)

    torch.compiler.reset()
    return choose


def trained(llava: VLM, *, compile: bool) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    reference = Model(frozen_copy(llava.model), SharedPrefix())
    add_lora(llava, Peft(method="lora", rank=2, alpha=4))
    llava.model.gradient_checkpointing_enable({"use_reentrant": False})
    with compiled(llava.model) if compile else nullcontext():
        found = fitted(
            llava,
            MicroWorld(size=4, image_size=24).train().examples,
            objective=DPO(),
            scoring=SharedPrefix(),
            reference=reference,
            optimizer=AdamW(lr=1e-3, warmup_steps=0),
            trainer=on_cpu(),
            batch_size=2,
        )
    weights = {name: weight.detach() for name, weight in llava.model.named_parameters() if weight.requires_grad}
    return found.latest, weights


@pytest.mark.parametrize(
    ("backend", "family"),
    [
        ("eager", None),
        pytest.param("inductor", None, marks=pytest.mark.slow),
        *(pytest.param("eager", family, marks=pytest.mark.slow, id=family.name) for family in families()),
    ],
)
def test_steps_are_those_of_layers_that_are_not_compiled(compile_by: Compile, backend: str, family: Family | None):
    compile_by(backend)
    counters.clear()
    runs = []
    for compile in (False, True):
        llava = copied(small_model(SIZES)) if family is None else of_family(family)
        runs.append(trained(llava, compile=compile))
    (metrics, weights), (own_metrics, own) = runs
    assert counters["stats"]["unique_graphs"] > 0
    assert own_metrics == pytest.approx(metrics, rel=1e-3, abs=1e-4)
    assert weights.keys() == own.keys()
    for name, weight in weights.items():
        assert (own[name] - weight).norm() <= 1e-2 * weight.norm() + 1e-3, name


def test_afterwards_nothing_is_compiled(compile_by: Compile):
    compile_by("eager")
    llava = copied(small_model())
    counters.clear()
    with compiled(llava.model):
        pass
    llava.model(input_ids=torch.tensor([[1, 5, 7]]))
    assert not counters["stats"]


def test_a_machine_without_a_compiler_is_told_in_one_line(compile_by: Compile):
    def broken(graph: Any, inputs: Any) -> Any:
        raise RuntimeError("No working C++ compiler found")

    compile_by(broken)  # type: ignore[arg-type]
    llava = copied(small_model())
    told = r"^model\.compile: .*No working C\+\+ compiler.*; set model\.compile=false$"
    with pytest.raises(UserError, match=told), compiled(llava.model):
        llava.model(input_ids=torch.tensor([[1, 5, 7]]))
