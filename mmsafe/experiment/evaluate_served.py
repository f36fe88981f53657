"""Evaluate a model that is served elsewhere; none is loaded."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from mmsafe.evaluation.engine import Served
from mmsafe.evaluation.measuring import measured
from mmsafe.evaluation.stages import judge_answers, write_generations
from mmsafe.reporting.table import print_tables, result_table
from mmsafe.runs.run_context import RunContext
from mmsafe.runs.run_folder import RunFolder

if TYPE_CHECKING:
    from mmsafe.experiment.evaluate_config import EvaluateConfig

log = logging.getLogger(__name__)


def evaluate_served(engine: Served, config: EvaluateConfig, run: RunContext) -> dict[str, Any]:
    """Have the benchmark's prompts answered by `engine`, judge, measure; the run folder is as any other."""
    folder = RunFolder(run.folder, run.cfg)
    benchmark, judge = config.benchmark, config.judge
    metrics = folder.claim()
    if metrics is None:
        judge.check()
        log.info("pairwise accuracy is left out: it needs the model's own log-probs")
        prompts, dropped = benchmark.prompts(config.data, "test"), benchmark.dropped(config.data, "test")
        folder.note(seed=config.seed, model=engine.model, dropped_prompts=dropped)
        made = engine.responses(prompts, config.evaluation.max_new_tokens, f"{benchmark.name}: answers")
        answers = [(answer.text, answer.finished) for answer in made]
        write_generations(folder.path, benchmark, prompts, answers)
        judged = judge_answers(folder.path, benchmark, judge, prompts, answers)
        metrics = measured(benchmark, judged, judge.label)
        folder.finish(metrics)
    print_tables([result_table({"model": metrics}, engine.model, tags=True), *benchmark.report(metrics, folder.path)])
    return metrics
