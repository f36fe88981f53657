"""A plan, written before the runs: what is asked, which runs answer it, and how they are analysed."""

import hashlib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import Field, model_validator

from mmsafe.core.config import recorded
from mmsafe.core.errors import UserError
from mmsafe.core.options import Positive, Seed, options

Names = Annotated[list[str], Field(min_length=1)]
Correction = Literal["holm", "benjamini_hochberg"]
MAX_BYTES = 1_000_000
"""Of a plan that a run folder names, which is not trusted."""


@options
class Plan:
    """`plan.yaml`, typed."""

    question: str
    primary: str
    """The metric that answers the question, by its name in `metrics.json`; all others are exploratory."""
    arms: Names
    """What runs are called by `name=`."""
    seeds: Annotated[list[Seed], Field(min_length=1)]
    contrasts: Names
    """`A - B`, differences of arms paired by seed; all others are exploratory."""
    correction: Correction = "holm"
    """Of the contrasts' tests, for their number."""
    margin: Positive | None = None
    """Differences smaller than this are as good as none; null: nothing is claimed to be equal."""

    @model_validator(mode="after")
    def _contrasts_are_of_arms(self) -> Self:
        for contrast in self.contrasts:
            first, _, second = contrast.partition(" - ")
            if first == second or not {first, second} <= {*self.arms}:
                raise ValueError(f"contrast '{contrast}': should be 'A - B' of two of the arms {', '.join(self.arms)}")
        return self

    def holds(self, first: str, second: str, metric: str) -> bool:
        """Whether the contrast of two arms by this metric was planned, in either direction."""
        return metric == self.primary and bool({f"{first} - {second}", f"{second} - {first}"} & {*self.contrasts})


def read_plan(path: Path) -> tuple[Plan, str]:
    """The plan of a file, and the SHA-256 of its bytes; raises `UserError` if it is none."""
    try:
        content = path.read_bytes()
        plan = recorded({**(yaml.safe_load(content) or {})}, Plan)
    except (OSError, ValueError, TypeError, RecursionError, yaml.YAMLError, UserError) as error:
        raise UserError(f"{path}: is no plan: {' '.join(str(error).split())}") from error
    return plan, hashlib.sha256(content).hexdigest()


def refuse_unplanned(path: Path | None, arm: str | None, seed: int) -> None:
    """Raise `UserError` if there is a plan and a run of this arm and seed is not in it."""
    plan = read_plan(path)[0] if path else None
    if plan and (arm not in plan.arms or seed not in plan.seeds):
        arms, seeds = ", ".join(plan.arms), ", ".join(map(str, plan.seeds))
        raise UserError(f"plan={path}: has no run of name={arm or 'null'}, seed={seed}; arms: {arms}; seeds: {seeds}")


def as_recorded(name: Any, fingerprint: Any) -> tuple[str, Plan | None]:
    """What is told of a run's plan, if it has one, and the plan if its file still has the SHA-256 that was recorded."""
    if not fingerprint:
        return "", None
    path = Path(str(name))
    label, small = str(Path(*path.parts[-2:])), path.is_file() and path.stat().st_size < MAX_BYTES
    if small and hashlib.sha256(path.read_bytes()).hexdigest() == fingerprint:
        return label, read_plan(path)[0]
    return f"{label}, changed since or not there", None
