"""From a command to the overrides of its jobs: combinations or a search space, of which each job takes what it has."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mmsafe.core.config import STARTING
from mmsafe.core.errors import UserError
from mmsafe.runs.hydra_state import all_groups, combinations, composed_for_sweep, config_loader
from mmsafe.runs.overrides import check_choice, check_key, composed, key_of, one_line, quoting
from mmsafe.runs.space import Dimension, dimensions

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SweepPlan:
    """What a command asks for, before any job is composed."""

    config_name: str
    master: DictConfig
    """The config without the overrides of single jobs: how the sweep is started, and the parameters of its preset."""
    overrides: list[Override]
    """Of the jobs, those of the preset first; none about starting them."""
    starting: list[str]
    """Overrides about starting them."""

    @property
    def is_multirun(self) -> bool:
        """Whether a preset, or the user, makes a sweep of the command."""
        return bool(self.master.hydra.mode == RunMode.MULTIRUN)

    @property
    def is_search(self) -> bool:
        """Whether Optuna chooses the jobs."""
        return "search" in self.master

    @property
    def space(self) -> list[Dimension]:
        """What a search may choose."""
        return dimensions(list({key_of(override): override for override in self.overrides}.values()))

    def jobs(self) -> list[list[str]]:
        """All combinations; of a search the corners of its space, one dimension at a time.

        Raises `UserError` if there are none.
        """
        if self.is_search:
            found = self._corners()
        else:
            for override in self.overrides:
                with _refused(override.input_line or ""):  # here, so that this one alone is named
                    combinations([override])
            found = combinations(self.overrides)
        if not found:
            lines = " ".join(override.input_line or "" for override in self.overrides)
            raise UserError(f"{lines}: makes no job, because one of the sweeps is empty")
        return self.fitting(found) if self._leaves_out else found

    @property
    def _leaves_out(self) -> bool:
        """Whether the sweeper is ours: Hydra's own takes all jobs as they are."""
        return str(self.master.hydra.sweeper._target_).endswith(".JobSweeper")

    def fitting(self, jobs: Sequence[Sequence[str]]) -> list[list[str]]:
        """Each of `jobs` once, without the options that it lacks and another job has, such as β of SFT."""
        fitting = self.fitting_each(jobs)
        found = [list(job) for job in dict.fromkeys(map(tuple, fitting))]
        if len(found) < len(jobs):
            lacked = {word for job, fit in zip(jobs, fitting, strict=True) for word in job if word not in fit}
            names = ", ".join(sorted({word.partition("=")[0] for word in lacked}))
            log.info(
                "%d combinations make %d jobs, because some have no %s", len(jobs), len(found), names or "difference"
            )
        return found

    def fitting_each(self, jobs: Sequence[Sequence[str]]) -> list[list[str]]:
        """`jobs` without the options that they lack and another job of this command has."""
        others = self._corners() if self.is_search else []  # what a trial lacks, others of the search may have
        lacking = self._lacking([*jobs, *others])
        nowhere = set.intersection(*lacking)  # a misspelt one: it is left for the check to refuse
        return [
            [word for word in job if word.partition("=")[0] not in lacks - nowhere]
            for job, lacks in zip(jobs, lacking, strict=False)
        ]

    def _lacking(self, jobs: Sequence[Sequence[str]]) -> list[set[str]]:
        """The options that each of `jobs` names and does not have."""
        loader = config_loader()
        groups, parser = all_groups(loader), OverridesParser.create(config_loader=loader)
        bases: dict[tuple[str, ...], DictConfig] = {}
        found = []
        for job in jobs:
            parsed = parser.parse_overrides(list(job))
            choices = tuple(override.input_line or "" for override in parsed if key_of(override) in groups)
            if choices not in bases:
                for override in parsed:
                    if key_of(override) in groups:
                        check_choice(override, loader)
                bases[choices] = composed(self.config_name, list(choices))
            others = [override for override in parsed if key_of(override) not in groups and not override.is_add()]
            found.append({key_of(override) for override in others if _lacks(bases[choices], override, groups)})
        return found

    def _corners(self) -> list[list[str]]:
        """The first corner of all dimensions, then every other corner of one dimension at a time."""
        space = self.space
        if not space:
            raise UserError("sweep=optuna: nothing is left open; add such as objective.beta=interval(0.01,1)")
        fixed = {key_of(override): override.input_line or "" for override in self.overrides}
        if empty := [dimension.key for dimension in space if not dimension.corners()]:
            raise UserError(f"{empty[0]}: leaves no choice, because the sweep is empty")
        first = fixed | {dimension.key: dimension.corners()[0] for dimension in space}
        rest = [first | {dimension.key: word} for dimension in space for word in dimension.corners()]
        return [list(job.values()) for job in [first, *rest]]


def plan(config_name: str, overrides: Sequence[str]) -> SweepPlan:
    """Read the words of a command; Hydra has to be initialised. Raises `UserError` where they cannot be read."""
    loader = config_loader()
    words = parsed(overrides, loader)
    starting = [word for word in words if _about_starting(word)]
    for word in starting:
        if word.is_sweep_override():
            raise UserError(f"{word.input_line}: is the same for all jobs of a sweep, so it needs one value")
        if key_of(word) in ("sweep", "hydra/launcher", "hydra/sweeper"):
            check_choice(word, loader)
    groups = all_groups(loader)
    choices = [word for word in starting if key_of(word) in groups]
    chosen = _master(config_name, _lines(choices))
    for word in starting:
        if key_of(word) not in groups and not word.is_add():
            check_key(word, chosen, groups)
    master = chosen if choices == starting else _master(config_name, _lines(starting))
    is_job = master.hydra.mode == RunMode.RUN  # of a sweep by this preset
    parameters = {} if is_job else OmegaConf.select(master, "hydra.sweeper.params") or {}
    preset = parsed([f"{key}={value}" for key, value in parameters.items()], loader)
    own = [word for word in words if not _in(word, STARTING)]
    return SweepPlan(config_name, master, [*preset, *own], _lines(word for word in starting if _in(word, STARTING)))


def parsed(overrides: Sequence[str], loader: ConfigLoader) -> list[Override]:
    """As Hydra reads them; raises `UserError` that names the first one which it cannot read, in one line."""
    parser = OverridesParser.create(config_loader=loader)
    found = []
    for word in overrides:
        with _refused(word, parser):
            found += parser.parse_overrides([word])
    return found


@contextmanager
def _refused(word: str, parser: OverridesParser | None = None) -> Iterator[None]:
    """Tells what Hydra raises about an override in one line; where a `parser` has raised it, with how to quote."""
    try:
        yield
    except (HydraException, ValueError, AssertionError) as error:
        advice = quoting(word, parser) if parser else ""
        raise UserError(f"cannot read {one_line(word)}: {one_line(error)}{advice}") from error


def _lines(overrides: Iterable[Override]) -> list[str]:
    return [override.input_line or "" for override in overrides]


def _lacks(base: DictConfig, override: Override, groups: list[str]) -> bool:
    try:
        check_key(override, base, groups)
    except UserError:
        return True
    return False


def _master(config_name: str, words: list[str]) -> DictConfig:
    try:
        return composed_for_sweep(config_name, words)
    except (HydraException, OmegaConfBaseException, ValueError, AssertionError) as error:
        raise UserError(f"{one_line(' '.join(words))}: {one_line(error)}") from error


def _about_starting(override: Override) -> bool:
    return key_of(override) == "sweep" or _in(override, STARTING)


def _in(override: Override, nodes: Sequence[str]) -> bool:
    return key_of(override).replace("/", ".").partition(".")[0] in nodes
