"""A search by Optuna: trials are jobs, the study is a file in the folder of the sweep."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf

from mmsafe.core.config import built
from mmsafe.core.declared import Declared
from mmsafe.core.errors import UserError
from mmsafe.core.files import write_csv
from mmsafe.core.run_record import metrics_of
from mmsafe.reporting.table import print_tables, table_of
from mmsafe.runs.expansion import SweepPlan
from mmsafe.runs.launchers import local_launcher
from mmsafe.runs.overrides import composed, key_of
from mmsafe.runs.search_options import Search, search_options

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial

Directions = Mapping[str, Literal["minimize", "maximize"]]
"""`maximize` or `minimize`, by metric."""
log = logging.getLogger(__name__)
STUDY = "optuna.db"
FOLDER = "folder"
"""Attribute of a trial whose job has ended, and where; one that was interrupted lacks it."""


def search(config: DictConfig, sweep_plan: SweepPlan, launcher: Launcher) -> list[JobReturn]:
    """Run trials until there are as many as wanted; returns the jobs of this time.

    Prints the trials that no other beats in all objectives, and writes them to `pareto.csv`.
    """
    folder, options = Path(config.hydra.sweep.dir), search_options(config)
    directions = options.directions(_declared(sweep_plan))
    study = _study(folder, options, directions)
    todo = options.n_trials - len(_ended(study)) + _ask_again(study, local_launcher(config).retry_failed)
    log.info("%d trials are done, %d are to do", len(_ended(study)), max(todo, 0))
    returns: list[JobReturn] = []
    while todo > 0:
        space = {dimension.key: dimension.distribution() for dimension in sweep_plan.space}
        trials = [study.ask(space) for _ in range(min(options.batch, todo))]
        launched = launcher.launch(
            sweep_plan.fitting([_words(trial, sweep_plan) for trial in trials]), initial_job_idx=trials[0].number
        )
        for trial, returned in zip(trials, launched, strict=True):
            _tell(study, trial, returned, directions)
        returns += launched
        todo -= len(trials)
    _show_front(study, directions, folder)
    return returns


def _declared(sweep_plan: SweepPlan) -> Declared:
    """What the benchmark of the first job measures; if others have another one, what it lacks ends the search."""
    config = composed(sweep_plan.config_name, sweep_plan.jobs()[0])
    benchmark = built(OmegaConf.to_container(config.benchmark, resolve=True), "benchmark")
    return Declared(benchmark.measures)


def _study(folder: Path, options: Search, directions: Directions) -> Study:
    if find_spec("optuna") is None:
        raise UserError("sweep=optuna: Optuna is not installed; run pip install 'mmsafe[optuna]'")
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        study_name="mmsafe",
        storage=f"sqlite:///{folder.absolute() / STUDY}",
        directions=list(directions.values()),
        load_if_exists=True,
    )
    # A sampler begins anew with each process, and would choose again what it chose first.
    study.sampler = optuna.samplers.TPESampler(seed=options.seed + len(study.trials))
    return study


def _ask_again(study: Study, retry_failed: bool) -> int:
    """Have trials asked again that were interrupted, and on request those that failed; returns how many failed."""
    from optuna.trial import TrialState

    waiting = [trial.params or trial.system_attrs.get("fixed_params") for trial in _in_state(study, TrialState.WAITING)]
    retried = 0
    for trial in _in_state(study, TrialState.RUNNING):
        study.tell(trial.number, state=TrialState.FAIL)
        if trial.params and trial.params not in waiting:
            study.enqueue_trial(trial.params)
    for trial in _in_state(study, TrialState.FAIL):
        if retry_failed and FOLDER in trial.user_attrs and trial.params not in waiting:
            study.enqueue_trial(trial.params)
            retried += 1
    return retried


def _words(trial: Trial, sweep_plan: SweepPlan) -> list[str]:
    """The overrides of a trial's job."""
    words = {key_of(override): override.input_line or "" for override in sweep_plan.overrides}
    return list((words | {key: f"{key}={value}" for key, value in trial.params.items()}).values())


def _tell(study: Study, trial: Trial, returned: JobReturn, directions: Directions) -> None:
    from optuna.trial import TrialState

    assert returned.hydra_cfg is not None
    folder = Path(returned.hydra_cfg.hydra.runtime.output_dir)
    trial.set_user_attr(FOLDER, folder.name)
    if returned.status != JobStatus.COMPLETED:
        study.tell(trial, state=TrialState.FAIL)
        return
    metrics = metrics_of(folder)
    if missing := [name for name in directions if name not in metrics]:
        measured = ", ".join(name for name in metrics if name.startswith("eval/") and "/" not in name[5:])
        study.tell(trial, state=TrialState.FAIL)
        raise UserError(f"search: {missing[0]} is not measured here; there are {measured}")
    study.tell(trial, [float(metrics[name]) for name in directions])


def _in_state(study: Study, state: Any) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(state,))


def _ended(study: Study) -> list[FrozenTrial]:
    """Trials whose job has finished or failed."""
    return [trial for trial in study.trials if trial.state.is_finished() and FOLDER in trial.user_attrs]


def _show_front(study: Study, directions: Directions, folder: Path) -> None:
    """Print the trials that no other beats, and write them to `pareto.csv`."""
    front = study.best_trials if any(trial.values is not None for trial in study.trials) else []
    keys = list(dict.fromkeys(key for trial in front for key in trial.params))
    rows: list[list[Any]] = [
        [trial.user_attrs[FOLDER], *(trial.params.get(key, "") for key in keys), *trial.values] for trial in front
    ]
    write_csv(folder / "pareto.csv", [["job", *keys, *directions], *rows])
    head = ["job", *keys, *(f"{name} ({direction})" for name, direction in directions.items())]
    cells = [[f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    title = "Pareto front: no other trial is better in one objective and as good in the rest"
    print_tables([table_of(title, head, cells, left=1 + len(keys))])
