"""Options of how the jobs of a sweep are started, and how a search chooses them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

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
    maximize: list[str] = Field(default_factory=lambda: ["eval/safety_rate"])
    """Metrics of training's own hold-out evaluation."""
    minimize: list[str] = Field(default_factory=lambda: ["eval/over_refusal_rate"])

    def __post_init__(self) -> None:
        if not self.directions:
            raise ValueError("maximize and minimize are empty: name a metric")

    @property
    def directions(self) -> dict[str, Literal["maximize", "minimize"]]:
        """What becomes of each metric."""
        return {**dict.fromkeys(self.maximize, "maximize"), **dict.fromkeys(self.minimize, "minimize")}
