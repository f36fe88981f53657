"""`python -m mmsafe.evaluate`: measure a checkpoint on a benchmark."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig

from mmsafe.core import ranks
from mmsafe.core.run_record import metrics_of
from mmsafe.experiment.evaluate_config import EvaluateConfig
from mmsafe.runs.app import launch, on_all_devices


def run(config: EvaluateConfig, cfg: DictConfig) -> dict[str, Any]:
    """Generate, judge, measure; leaves generations.jsonl, judgements.jsonl and metrics.json in the run folder."""
    if config.processes > 1 and not ranks.started():
        return metrics_of(on_all_devices(config))
    from mmsafe.experiment.evaluate_job import evaluate_run

    return evaluate_run(config, cfg)


def main() -> None:
    """Entry point."""
    launch("evaluate", EvaluateConfig, run)


if __name__ == "__main__":
    main()
