"""A plan, written before the runs: what is asked, which runs answer it, and how they are analysed."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import Field, model_validator

from mmsafe.core.config import recorded
from mmsafe.core.errors import UserError
from mmsafe.core.options import Positive, Seed, options

Names = Annotated[list[str], Field(min_length=1)]
Correction = Literal["holm", "benjamini_hochberg"]


@options
class Analysis:
    """How the runs are compared."""

    contrasts: Names
    """`A - B`, differences of arms paired by seed; all others are exploratory."""
    correction: Correction = "holm"
    """Of the contrasts' tests, for their number."""
    margin: Positive | None = None
    """Differences smaller than this are as good as none; null: nothing is claimed to be equal."""


@options
class Plan:
    """`plan.yaml`, typed."""

    question: str
    primary: str
    """The metric that answers the question, by its name in `metrics.json`; all others are exploratory."""
    arms: Names
    """What runs are called by `name=`."""
    seeds: Annotated[list[Seed], Field(min_length=1)]
    analysis: Analysis

    @model_validator(mode="after")
    def _contrasts_are_of_arms(self) -> Self:
        for contrast in self.analysis.contrasts:
            first, _, second = contrast.partition(" - ")
            if first == second or not {first, second} <= {*self.arms}:
                raise ValueError(f"contrast '{contrast}': should be 'A - B' of two of the arms {', '.join(self.arms)}")
        return self

    def holds(self, first: str, second: str, metric: str) -> bool:
        """Whether the contrast of two arms by this metric was planned, in either direction."""
        return metric == self.primary and bool(
            {f"{first} - {second}", f"{second} - {first}"} & {*self.analysis.contrasts}
        )


def read_plan(path: Path) -> tuple[Plan, str]:
    """The plan of a file, and the SHA-256 of its bytes; raises `UserError` if it is none."""
    try:
        content = path.read_bytes()
        node = yaml.safe_load(content) or {}
        fields = {str(name): value for name, value in node.items()}
    except (OSError, ValueError, AttributeError, RecursionError, yaml.YAMLError) as error:
        raise UserError(f"{path}: is no plan in YAML ({' '.join(str(error).split())})") from error
    try:
        return recorded(fields, Plan), hashlib.sha256(content).hexdigest()
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def refuse_unplanned(path: Path | None, arm: str | None, seed: int) -> None:
    """Raise `UserError` if there is a plan and a run of this arm and seed is not in it."""
    plan = read_plan(path)[0] if path else None
    if plan and arm not in plan.arms:
        raise UserError(f"plan={path}: name={arm or 'null'} is none of its arms; name one of {', '.join(plan.arms)}")
    if plan and seed not in plan.seeds:
        raise UserError(f"plan={path}: seed={seed} is none of its seeds {', '.join(map(str, plan.seeds))}")
