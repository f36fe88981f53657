"""The options of `mmsafe.evaluate`."""

from typing import Self

from pydantic import Field, model_validator

from mmsafe.core.options import InputName, InputPath, Seed, options
from mmsafe.core.settings import Devices, Evaluation, Lengths
from mmsafe.data.data_source import DataSource, NoData
from mmsafe.evaluation.benchmark import Benchmark
from mmsafe.evaluation.engine import Engine, Served
from mmsafe.evaluation.judges.judge import Judge
from mmsafe.evaluation.leakage import check_installed
from mmsafe.models.model_source import ModelSource, Pretrained
from mmsafe.runs.plan import refuse_unplanned
from mmsafe.scoring.ways import Scoring


@options
class EvaluateConfig(Devices):
    """`conf/evaluate.yaml`, typed."""

    name: str | None
    checkpoint: InputName | None
    against: InputName | None
    generations: InputName | None
    judgements: InputName | None
    seed: Seed
    plan: InputPath | None = None
    leakage: bool
    data: DataSource = Field(default_factory=NoData)
    model: ModelSource
    benchmark: Benchmark
    judge: Judge
    scoring: Scoring
    evaluation: Evaluation
    lengths: Lengths
    generation: Engine

    @property
    def unread(self) -> tuple[str, ...]:
        """Options whose files need not be there: of a model that is not loaded."""
        elsewhere = self.checkpoint or self.generations or self.judgements or isinstance(self.generation, Served)
        return ("model.path",) if elsewhere else ()

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        refuse_unplanned(self.plan, self.name, self.seed)
        self._refuse_unused()
        self._refuse_beside_endpoint()
        if self.leakage:
            check_installed()
            if "refused" not in self.judge.tells:
                raise ValueError(f"leakage=true: judge={self.judge.name} cannot tell refusals, by which harm is told")
        self.benchmark.check_data(self.data)
        if self.judgements is None:
            self.benchmark.check_judge(self.judge)
        if isinstance(self.model, Pretrained) and (refusal := self.scoring.refusal(self.model.attention)):
            raise ValueError(refusal)
        return self

    def _refuse_unused(self) -> None:
        """Raise `ValueError` if a stage is taken over from another run and an option of that stage is given, too."""
        options = ("judgements", "generations", "checkpoint", "against")
        given = [f"{name}={value}" for name in options if (value := getattr(self, name)) is not None]
        if (self.judgements or self.generations) and len(given) > 1:
            raise ValueError(f"{given[0]} takes over what was made before; leave out {given[1]}")
        judged_on_devices = self.generations is not None and self.benchmark.judge_for(self.judge).on_devices
        if (self.judgements or self.generations) and self.processes > 1 and not judged_on_devices:
            raise ValueError(f"{given[0]} runs no model here: it needs one process, not devices={self.devices}")

    def _refuse_beside_endpoint(self) -> None:
        """Raise `ValueError` if a model is served elsewhere and an option is given that needs one here."""
        if not isinstance(self.generation, Served):
            return
        for name in ("judgements", "generations", "checkpoint", "against"):
            if getattr(self, name) is not None:
                raise ValueError(f"generation=endpoint: the model is the one that is served there; leave out {name}")
        if self.evaluation.temperature:
            raise ValueError("generation=endpoint answers greedily; leave out evaluation.temperature")
        if self.processes > 1:
            raise ValueError("generation=endpoint runs no model here: it needs one process; raise its concurrency")
