"""`python -m mmsafe.evaluate`: measure a checkpoint on a benchmark."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig

from mmsafe.core import ranks
from mmsafe.core.run_record import metrics_of
from mmsafe.evaluation.engine import Served
from mmsafe.experiment.evaluate_config import EvaluateConfig
from mmsafe.runs.app import launch, on_all_devices


def run(config: EvaluateConfig, cfg: DictConfig) -> dict[str, Any]:
    """Generate, judge, measure; leaves generations.jsonl, judgements.jsonl and metrics.json in the run folder."""
    if config.processes > 1 and not ranks.started():
        return metrics_of(on_all_devices(config))
    if config.judgements is not None or config.generations is not None:
        from mmsafe.experiment.evaluate_again import repeat

        return repeat(config, cfg)
    if isinstance(config.generation, Served):
        from mmsafe.experiment.evaluate_served import evaluate_served

        return evaluate_served(config.generation, config, cfg)
    from mmsafe.experiment.pipeline import measure

    return measure(config, cfg)


def main() -> None:
    """Entry point."""
    launch("evaluate", EvaluateConfig, run)


if __name__ == "__main__":
    main()
