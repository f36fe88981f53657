"""Judge or measure again what another run left behind; no model is loaded."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from mmsafe.core.declared import declared_of
from mmsafe.core.files import write_atomically
from mmsafe.core.ranks import is_first
from mmsafe.core.run_record import about_run
from mmsafe.data.example import Example
from mmsafe.evaluation.benchmark import Judged
from mmsafe.evaluation.judging import refuse_unknown
from mmsafe.evaluation.measuring import declaration, measured
from mmsafe.evaluation.stages import GENERATIONS, JUDGEMENTS, judge_answers, read_generations, read_judgements
from mmsafe.reporting.table import print_tables, result_table
from mmsafe.runs.run_folder import RunFolder

if TYPE_CHECKING:
    from mmsafe.experiment.evaluate_config import EvaluateConfig

log = logging.getLogger(__name__)


def repeat(config: EvaluateConfig, cfg: DictConfig) -> dict[str, Any]:
    """Take over `config.judgements` or `config.generations` and do what comes after; raises `UserError` if it cannot.

    The run folder is as any other: the files taken over are copied, and `run.json` says from where.
    """
    folder, source = RunFolder(Path(HydraConfig.get().runtime.output_dir), cfg), _source(config)
    metrics = folder.claim()
    if metrics is None:
        folder.note(seed=config.seed, source=str(source.resolve()), model=about_run(source).get("model"))
        log.info("pairwise accuracy is left out: it needs the model")
        prompts = config.benchmark.prompts(config.data, "test")
        folder.note(dropped_prompts=config.benchmark.dropped(config.data, "test"))
        judged, judge = _judged(config, folder.path, prompts)
        metrics = measured(config.benchmark, judged, judge)
        judges = {config.judge.label: config.judge.evidence, **declared_of(source, {}).judges}
        kind = {judge: judges[judge]} if judge in judges else {}
        folder.note(declared=declaration(config.benchmark, kind, metrics).record())
        folder.finish(metrics)
    if is_first():
        table = result_table({"model": metrics}, str(source), folder.declared(metrics), tags=True)
        print_tables([table, *config.benchmark.report(metrics, folder.path)])
    return metrics


def _source(config: EvaluateConfig) -> Path:
    return Path(config.judgements or config.generations or "")


def _judged(config: EvaluateConfig, folder: Path, prompts: Sequence[Example]) -> tuple[list[Judged], str]:
    """Everything judged, and the label of the judge."""
    source, benchmark = _source(config), config.benchmark
    if config.judgements is None:
        answers = read_generations(source, benchmark, prompts)
        _copy(source / GENERATIONS, folder)
        return judge_answers(folder, benchmark, config.judge, prompts, answers), config.judge.label
    judged, judge = read_judgements(source, benchmark, prompts)
    _copy(source / GENERATIONS, folder)
    _copy(source / JUDGEMENTS, folder)
    refuse_unknown([row.verdict for row in judged], judge, config.judge.max_unknown)
    return judged, judge


def _copy(path: Path, folder: Path) -> None:
    if is_first():
        write_atomically(folder / path.name, path.read_text(encoding="utf-8"))
