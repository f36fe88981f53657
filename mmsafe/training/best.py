"""Which checkpoints are best by a metric, and whether training still gets better. Importing this imports no torch."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from mmsafe.core.declared import Metric
from mmsafe.core.errors import UserError
from mmsafe.core.settings import Checkpoint, EarlyStopping

Mode = Literal["min", "max"]
BETTER: Mapping[str, Mode] = {"loss": "min", "rewards/margins": "max", "rewards/accuracies": "max"}
"""What is better of the metrics of a step, by how their names begin behind `train/` and `val/`."""


def better(monitor: str, measures: Iterable[Metric]) -> Mode | None:
    """What is better of a metric, as it is declared of a step's metrics or in the `measures` of a benchmark."""
    name = monitor.removeprefix("train/").removeprefix("val/")
    declared: dict[str, Mode] = {m.name: "max" if m.better == "higher" else "min" for m in measures if m.better}
    begins = (mode for start, mode in BETTER.items() if f"{name}/".startswith(f"{start}/"))
    return declared.get(name) or next(begins, None)


@dataclass
class Best:
    """The best validations so far by `options.monitor`, if there is one, and how many came since one was better."""

    options: Checkpoint
    early: EarlyStopping
    ranked: list[tuple[float, int]] = field(default_factory=list)
    """Value and step, the best first; as many as are kept."""
    reached: float = math.inf
    """What the next one has to be better than, negated where more is better."""
    waited: int = 0

    def add(self, step: int, metrics: Mapping[str, float]) -> None:
        """Take in what a validation measured; raises `UserError` if the metric is not among it, or is not finite."""
        if (monitor := self.options.monitor) is None:
            return
        value = metrics.get(monitor)
        if value is None:
            raise UserError(
                f"checkpoint.monitor={monitor}: is not measured; choose one of {', '.join(sorted(metrics))}"
            )
        if not math.isfinite(value):
            raise UserError(f"step {step}: {monitor} is {value}, by which no checkpoint can be chosen")
        sign = -1 if self.options.mode == "max" else 1
        self.ranked = sorted([*self.ranked, (value, step)], key=lambda known: (sign * known[0], known[1]))
        del self.ranked[self.options.keep_best :]
        improved = sign * value < self.reached - self.early.min_delta
        self.reached, self.waited = (sign * value, 0) if improved else (self.reached, self.waited + 1)

    @property
    def steps(self) -> list[int]:
        """Steps whose checkpoints are kept, the best first."""
        return [step for _, step in self.ranked]

    @property
    def exhausted(self) -> bool:
        """Whether training is to end early."""
        return self.early.patience is not None and self.waited >= self.early.patience

    def state(self) -> dict[str, Any]:
        """Plain values, for a checkpoint; none where nothing was validated."""
        return {"ranked": self.ranked, "reached": self.reached, "waited": self.waited} if self.ranked else {}

    def load(self, state: Mapping[str, Any]) -> None:
        """Continue where `state` was taken."""
        self.ranked = [(float(value), int(step)) for value, step in state["ranked"]]
        self.reached, self.waited = float(state["reached"]), int(state["waited"])
