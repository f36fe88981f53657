"""Three ways of an evaluation: of a model loaded here, of one that is served, or of what another run left behind."""

from __future__ import annotations

from typing import Any

from mmsafe.evaluation.engine import Served
from mmsafe.experiment.evaluate_config import EvaluateConfig
from mmsafe.runs.run_context import RunContext


def evaluate(config: EvaluateConfig, run: RunContext) -> dict[str, Any]:
    """The metrics; generations.jsonl, judgements.jsonl and metrics.json are then in the run folder."""
    if config.judgements is not None or config.generations is not None:
        from mmsafe.experiment.evaluate_again import repeat

        return repeat(config, run)
    if isinstance(config.generation, Served):
        from mmsafe.experiment.evaluate_served import evaluate_served

        return evaluate_served(config.generation, config, run)
    from mmsafe.experiment.pipeline import measure

    return measure(config, run)
