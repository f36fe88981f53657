"""Finished runs side by side: grouped over seeds, with intervals and paired differences."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmsafe.core import files
from mmsafe.core.declared import DECLARED, Declared, Metric, declared_in, together
from mmsafe.core.errors import UserError
from mmsafe.core.run_record import ABOUT, METRICS, about_run, metrics_of, read_json
from mmsafe.core.secrets import LEFT_OUT, public
from mmsafe.runs.hydra_state import noted_choices, noted_overrides
from mmsafe.runs.plan import Plan, as_recorded
from mmsafe.runs.run_folder import FAILED

IGNORED = ("seed", "name", "plan", "progress_bar")
"""Last part of options that make no difference between groups."""
ROUNDING = 1e-9
"""Below it, differences of rates are the same difference."""


@dataclass(frozen=True)
class Run:
    """One run folder: its config, flattened to dotted names, and its metrics (empty while unfinished).

    What looks like a secret is left out.
    """

    path: Path
    config: Mapping[str, Any] = field(repr=False)
    metrics: Mapping[str, Any] = field(repr=False)
    about: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """The rest of `run.json`, flattened too: versions, commit, fingerprints, counts."""
    overrides: Sequence[str] = ()
    """Of the command line."""
    choices: Mapping[str, str] = field(default_factory=dict, repr=False)
    """What was chosen of each config group, as Hydra noted it."""
    message: str | None = None
    """Why it failed as a job of a sweep; None if it did not."""
    declared: Declared = field(default_factory=Declared, repr=False)
    """What its benchmark and judge say of its metrics."""
    plan: tuple[str, Plan | None] = ("", None)
    """What is told of its plan, if it has one, and the plan where its file is still what it was."""

    def __fspath__(self) -> str:
        return str(self.path)

    @property
    def seed(self) -> Any:
        """The seed that pairs runs of different groups."""
        return self.config.get("seed")

    @property
    def status(self) -> str:
        """`finished`, `failed` or `unfinished`."""
        return "finished" if self.metrics else "unfinished" if self.message is None else "failed"


@dataclass(frozen=True)
class Interval:
    """Mean over seeds with its 95 % Student t interval; of one run, its own interval, or NaN where it has none."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def half(self) -> float:
        """Half of its width; 0 where there is no interval."""
        return self.high - self.mean if self.n > 1 else 0.0

    @property
    def arms(self) -> list[list[float]]:
        """How far it reaches below and above the mean, 0 where there is no interval; shape `[2, 1]`, an error bar."""
        return [[max(0.0, arm)] for arm in (self.mean - self.low, self.high - self.mean)]  # max(0, NaN) is 0

    @property
    def p(self) -> float:
        """Of the two-sided t-test that the mean is 0; NaN where nothing varies."""
        from scipy.stats import t

        if not self.high - self.low > ROUNDING:
            return math.nan
        return float(2 * t.sf(abs(self.mean) / self.half * t.ppf(0.975, self.n - 1), self.n - 1))

    def __str__(self) -> str:
        if self.n > 1:
            return f"{self.mean:.3f} ± {self.half:.3f}"
        return f"{self.mean:.3f}" + ("" if math.isnan(self.low) else f" [{self.low:.3f}, {self.high:.3f}]")


def read_runs(folders: Iterable[Path]) -> list[Run]:
    """Every run folder at or below `folders`, in order of its path; also one of a job that failed before it began."""
    roots = list(folders)
    paths = sorted({path.parent for root in roots for name in (ABOUT, FAILED) for path in root.rglob(name)})
    if not paths:
        raise UserError(f"no run.json at or below {', '.join(map(str, roots))}: name folders of runs or sweeps")
    return [_read(path) for path in paths]


def _read(path: Path) -> Run:
    about = public(about_run(path) or {"config": {"name": path.name}})
    config = about.pop("config")
    metrics = metrics_of(path) if (path / METRICS).exists() else {}
    message = str(public(read_json(path / FAILED)).get("message")) if (path / FAILED).exists() else None
    declared = declared_in(about, metrics, path)
    about.pop(DECLARED, None)
    facts, choices = dict(_flat(about)), noted_choices(path)
    plan = as_recorded(config.get("plan"), facts.get("plan"))
    return Run(path, dict(_flat(config)), metrics, facts, _overrides(path), choices, message, declared, plan)


def _overrides(path: Path) -> Sequence[str]:
    """What Hydra noted, without what only tells where and how to run."""
    pairs = [word.partition("=") for word in noted_overrides(path) if not word.startswith("hydra")]
    return tuple(f"{key}={public({key: value}).get(key, LEFT_OUT)}" for key, _, value in pairs)


def declared_by(groups: Mapping[str, Sequence[Run]]) -> Declared:
    """What the runs of all groups declare."""
    return together(run.declared for runs in groups.values() for run in runs)


def measured_in(groups: Mapping[str, Sequence[Run]]) -> list[Metric]:
    """The metrics that are shown of these groups."""
    return declared_by(groups).measured(run.metrics for runs in groups.values() for run in runs)


def note(groups: Mapping[str, Sequence[Run]], *notes: str, shown: Sequence[Metric] | None = None) -> str:
    """What stands below a table or figure of these groups: `notes`, and who judged what is `shown` of them."""
    judges = declared_by(groups).judged_by([run.metrics for runs in groups.values() for run in runs], shown)
    return " · ".join(filter(None, (*notes, judges)))


def _flat(node: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def grouped(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs by name, or else by what tells those without a name apart; seeds do not make a group."""
    distinct = telling([run for run in runs if not run.config.get("name")])
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(label(run, distinct), []).append(run)
    return groups


def telling(runs: Sequence[Run]) -> list[str]:
    """Options in which runs differ; where the choice of a config group decides an option, the group in its place."""
    names = []
    for name in differing([run.config for run in runs]):
        group = name.partition(".")[0]
        by_choice: dict[str | None, set[str]] = {}
        for run in runs:
            if name in run.config:
                by_choice.setdefault(run.choices.get(group), set()).add(json.dumps(run.config[name], default=str))
        decided = None not in by_choice and all(len(values) == 1 for values in by_choice.values())
        names.append(group if decided else name)
    return list(dict.fromkeys(names))


def differing(facts: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of what is not the same everywhere; what does not change a result is left out, and so are seeds.

    An option that only some have differs if their values do, and a `_target_`, which brings others with it, always.
    """
    names = {name for these in facts for name in these}
    varied = []
    for name in sorted(names):
        everywhere = name.endswith("_target_")
        values = {json.dumps(these.get(name), default=str) for these in facts if everywhere or name in these}
        if len(values) > 1 and name.rpartition(".")[2] not in IGNORED and not name.startswith("logger."):
            varied.append(name)
    return varied


def label(run: Run, telling: Sequence[str]) -> str:
    """The run's name, or else what it has of the options and config groups that tell runs apart."""
    if run.config.get("name"):
        return str(run.config["name"])
    parts = []
    for key in telling:
        if key in run.choices:
            parts.append(f"{key}={run.choices[key]}")
        elif key in run.config:
            value = str(run.config[key])
            owner, _, option = key.rpartition(".")
            parts.append(f"{owner}={value.rpartition('.')[2]}" if option == "_target_" else f"{key}={value}")
    return " ".join(parts) or "run"


def over_seeds(values: Sequence[float]) -> Interval:
    """Mean with a 95 % Student t interval."""
    from scipy.stats import t

    n = len(values)
    mean = sum(values) / n
    if n < 2:
        return Interval(mean, math.nan, math.nan, n)
    spread = math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1) / n)
    half = float(t.ppf(0.975, n - 1)) * spread
    return Interval(mean, mean - half, mean + half, n)


def mean_of(runs: Sequence[Run], metric: str) -> Interval | None:
    """Mean of what runs measured, with the run's own interval where only one did; None if none did."""
    measured = [run.metrics for run in runs if metric in run.metrics]
    if len(measured) == 1 and f"{metric}_low" in measured[0] and f"{metric}_high" in measured[0]:
        return Interval(measured[0][metric], measured[0][f"{metric}_low"], measured[0][f"{metric}_high"], 1)
    return over_seeds([metrics[metric] for metrics in measured]) if measured else None


def paired_difference(first: Sequence[Run], second: Sequence[Run], metric: str) -> Interval | None:
    """`first` minus `second` on the seeds that both have; None where there is no such seed."""
    for run in (*first, *second):
        if sum(run.seed == other.seed for other in (first if run in first else second)) > 1:
            raise UserError(f"{run.path}: another run of its group has the same seed, so they cannot be paired")
    a, b = ({run.seed: run.metrics[metric] for run in runs if metric in run.metrics} for runs in (first, second))
    shared = sorted(set(a) & set(b), key=str)
    return over_seeds([a[seed] - b[seed] for seed in shared]) if shared else None


def write_csv(path: Path, groups: Mapping[str, Sequence[Run]]) -> None:
    """One row per run: group, folder, seed, status, options in which runs differ, overrides, and every metric."""
    runs = [(label, run) for label, members in groups.items() for run in members]
    names = sorted({name for _, run in runs for name in run.metrics})
    options = differing([run.config for _, run in runs])
    rows: list[list[Any]] = [["group", "folder", "seed", "status", *options, "overrides", *names]]
    for label, run in runs:
        chosen = [run.config.get(name) for name in options]
        values = [run.metrics.get(name, "") for name in names]
        cells = [round(value, 6) if isinstance(value, float) else value for value in values]
        rows.append([label, run.path.name, run.seed, run.status, *chosen, " ".join(run.overrides), *cells])
    files.write_csv(path, rows)
