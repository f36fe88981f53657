"""Options of how the jobs of a sweep are started, and how a search chooses them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mmsafe.core.declared import Declared
from mmsafe.core.errors import UserError
from mmsafe.core.options import Count, Seed, options


@options
class LocalLauncher:
    """Jobs as processes of this machine."""

    jobs: Count = 1
    """Jobs at a time."""
    gpus: Annotated[tuple[int | str, ...], Field(min_length=1)] | None = None
    """GPUs to share out, each job taking `trainer.devices` of them, as CUDA_VISIBLE_DEVICES names them; one that is
    named twice takes two jobs. null: every job sees what the command sees."""
    retry_failed: bool = False
    """Run jobs again that failed; `--retry-failed` for short."""


@options
class Search:
    """A search by Optuna, in place of all combinations."""

    n_trials: Count = 30
    """Jobs in all, over all the times that the command is given."""
    batch: Count = 1
    """Jobs that are chosen together, and so without knowing of each other."""
    seed: Seed = 0
    """Of the choices."""
    maximize: list[str] | None = None
    """Metrics of training's own hold-out evaluation; null: those of safety and over-refusal that the benchmark declares
    as better higher, or its score."""
    minimize: list[str] | None = None
    """null: those that it declares as better lower."""

    def directions(self, declared: Declared) -> dict[str, Literal["maximize", "minimize"]]:
        """What becomes of each metric; raises `UserError` if there is none."""
        better: dict[str, list[str]] = {"higher": [], "lower": []}
        for metric in declared.objectives():
            better[metric.better or "higher"].append(metric.key)
        up = better["higher"] if self.maximize is None else self.maximize
        down = better["lower"] if self.minimize is None else self.minimize
        if not (up or down):
            raise UserError("search: maximize and minimize are empty, and the benchmark declares none; name a metric")
        return {**dict.fromkeys(up, "maximize"), **dict.fromkeys(down, "minimize")}
