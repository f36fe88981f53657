"""`python -m mmsafe.evaluate`: measure a checkpoint on a benchmark."""

from __future__ import annotations

from typing import Annotated, Any, Self

from omegaconf import DictConfig
from pydantic import Field, model_validator

from mmsafe import ranks
from mmsafe.app import launch, on_all_devices
from mmsafe.data.source import DataSource
from mmsafe.evaluation.benchmark import Benchmark
from mmsafe.evaluation.judges.base import Judge
from mmsafe.models.source import ModelSource, PretrainedLlava
from mmsafe.options import options
from mmsafe.reporting.runs import metrics_of
from mmsafe.scoring import Scoring
from mmsafe.settings import Devices, Evaluation


@options
class EvaluateConfig(Devices):
    """`conf/evaluate.yaml`, typed."""

    name: str | None
    checkpoint: str | None
    against: str | None
    seed: Annotated[int, Field(ge=0)]
    data: DataSource
    model: ModelSource
    benchmark: Benchmark
    judge: Judge
    scoring: Scoring
    evaluation: Evaluation

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        self.benchmark.check_data(self.data)
        self.benchmark.check_judge(self.judge)
        if isinstance(self.model, PretrainedLlava) and (refusal := self.scoring.refusal(self.model.attention)):
            raise ValueError(refusal)
        return self


def run(config: EvaluateConfig, cfg: DictConfig) -> dict[str, Any]:
    """Generate, judge, measure; leaves generations.jsonl, judgements.jsonl and metrics.json in the run folder."""
    if config.processes > 1 and not ranks.started():
        return metrics_of(on_all_devices(config))
    from mmsafe.pipeline import measure

    return measure(config, cfg)


def main() -> None:
    """Entry point."""
    launch("evaluate", EvaluateConfig, run)


if __name__ == "__main__":
    main()
