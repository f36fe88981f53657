"""From a command to the overrides of its jobs: combinations or a search space, of which each job takes what it has."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial

from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from mmsafe.core.config import STARTING
from mmsafe.core.errors import UserError
from mmsafe.runs.hydra_state import all_groups, combinations, composed_for_sweep
from mmsafe.runs.overrides import check_choices, composed, explained, key_of, lines, parsed, refused, unknown
from mmsafe.runs.search_options import Dimension, dimensions

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
        return dimensions({key_of(override): override for override in self.overrides}.values())

    def jobs(self) -> list[list[str]]:
        """All combinations; of a search the corners of its space, one dimension at a time.

        Raises `UserError` if there are none.
        """
        if self.is_search:
            jobs = self._corners()
        else:
            for override in self.overrides:
                with refused(f"cannot read {override.input_line}"):  # here, so that this one alone is named
                    combinations([override])
            jobs = combinations(self.overrides)
        if not jobs:
            raise UserError(f"{' '.join(lines(self.overrides))}: makes no job, because one of the sweeps is empty")
        ours = str(self.master.hydra.sweeper._target_).endswith(".JobSweeper")  # Hydra's own takes all jobs as they are
        return self._fitting_once(jobs) if ours else jobs

    def _fitting_once(self, jobs: Sequence[Sequence[str]]) -> list[list[str]]:
        """Each of `jobs` once, without the options that it lacks and another job has, such as β of SFT."""
        fitting = self.fitting(jobs)
        once = [list(job) for job in dict.fromkeys(map(tuple, fitting))]
        if len(once) < len(jobs):
            lacked = {word for job, fit in zip(jobs, fitting, strict=True) for word in job if word not in fit}
            names = ", ".join(sorted({word.partition("=")[0] for word in lacked})) or "difference"
            log.info("%d combinations make %d jobs, because some have no %s", len(jobs), len(once), names)
        return once

    def fitting(self, jobs: Sequence[Sequence[str]]) -> list[list[str]]:
        """`jobs` without the options that they lack and another job of this command has."""
        lacking = self._lacking(jobs)
        nowhere = set.intersection(*lacking, *self._lacking_in_a_corner)  # a misspelt one: for the check to refuse
        return [
            [word for word in job if word.partition("=")[0] not in lacks - nowhere]
            for job, lacks in zip(jobs, lacking, strict=True)
        ]

    @cached_property
    def _lacking_in_a_corner(self) -> list[set[str]]:
        """What a trial lacks, others of the search may have."""
        return self._lacking(self._corners()) if self.is_search else []

    @cached_property
    def _bases(self) -> dict[tuple[str, ...], DictConfig]:
        """Configs by the choices of config groups, as they are composed."""
        return {}

    def _lacking(self, jobs: Sequence[Sequence[str]]) -> list[set[str]]:
        """The options that each of `jobs` names and does not have."""
        groups, words = all_groups(), [parsed(job) for job in jobs]
        return [set(unknown(job, self.base(job, groups), groups)) for job in words]

    def base(self, words: Sequence[Override], groups: Sequence[str]) -> DictConfig:
        """The config with the groups that `words` choose, composed once; raises `UserError` for an unknown choice."""
        choices = [word for word in words if key_of(word) in groups]
        key = tuple(lines(choices))
        if key not in self._bases:
            check_choices(choices, groups)
            self._bases[key] = composed(self.config_name, list(key))
        return self._bases[key]

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
    words, groups = parsed(overrides), all_groups()
    job_words = [word for word in words if not _about_starting(word)]
    starting = [word for word in words if key_of(word) == "sweep" or _about_starting(word)]
    for word in starting:
        if word.is_sweep_override():
            raise UserError(f"{word.input_line}: is the same for all jobs of a sweep, so it needs one value")
    choices = [word for word in starting if key_of(word) in groups]
    with explained(starting, partial(_master, config_name, choices), groups):
        master = _master(config_name, starting)
    is_job = master.hydra.mode == RunMode.RUN  # of a sweep by this preset
    parameters = {} if is_job else OmegaConf.select(master, "hydra.sweeper.params") or {}
    preset = parsed([f"{key}={value}" for key, value in parameters.items()])
    return SweepPlan(config_name, master, [*preset, *job_words], lines(filter(_about_starting, starting)))


def _master(config_name: str, words: Sequence[Override]) -> DictConfig:
    with refused(" ".join(lines(words))):
        return composed_for_sweep(config_name, lines(words))


def _about_starting(override: Override) -> bool:
    return key_of(override).replace("/", ".").partition(".")[0] in STARTING
