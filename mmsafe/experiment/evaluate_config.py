"""The options of `mmsafe.evaluate`."""

from collections.abc import Iterator
from typing import Self

from pydantic import Field, model_validator

from mmsafe.core.options import InputName, InputPath, Seed, options
from mmsafe.core.settings import Devices, Evaluation, Lengths
from mmsafe.data.data_source import DataSource, NoData
from mmsafe.evaluation.benchmark import Benchmark
from mmsafe.evaluation.defences.defence import Defence
from mmsafe.evaluation.engine import Engine, Served
from mmsafe.evaluation.judges.judge import Judge
from mmsafe.evaluation.leakage import check_installed
from mmsafe.models.model_source import ModelSource, Pretrained
from mmsafe.runs.plan import refuse_unplanned
from mmsafe.scoring.ways import Scoring

TAKEN_OVER = ("judgements", "generations", "checkpoint", "against")
"""Options that stand for what was made before; the first one that is given comes first in a complaint."""


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
    defence: Defence | None = None

    @property
    def unread(self) -> tuple[str, ...]:
        """Options whose files need not be there: of a model that is not loaded."""
        elsewhere = self.checkpoint or self.generations or self.judgements or isinstance(self.generation, Served)
        return ("model.path",) if elsewhere else ()

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        for refusal in filter(None, self._refusals()):
            raise ValueError(refusal)
        return self

    def _refusals(self) -> Iterator[str]:
        """Which choices exclude one another, in the order in which they are told; what is empty is none."""
        refuse_unplanned(self.plan, self.name, self.seed)
        given = [f"{name}={value}" for name in TAKEN_OVER if (value := getattr(self, name)) is not None]
        if self.judgements or self.generations:
            if len(given) > 1:
                yield f"{given[0]} takes over what was made before; leave out {given[1]}"
            judged_on_devices = self.generations is not None and self.benchmark.judge_for(self.judge).on_devices
            if self.processes > 1 and not judged_on_devices:
                yield f"{given[0]} runs no model here: it needs one process, not devices={self.devices}"
        if isinstance(self.generation, Served):
            if given:
                name = given[0].partition("=")[0]
                yield f"generation=endpoint: the model is the one that is served there; leave out {name}"
            if chosen := self.generation.sampling:
                why = "is of what training lacks; an evaluation is asked as evaluation.* says, so leave it out"
                yield f"generation.{chosen[0]}: {why}"
            if self.evaluation.temperature:
                yield "generation=endpoint answers greedily; leave out evaluation.temperature"
            if self.processes > 1:
                yield "generation=endpoint runs no model here: it needs one process; raise its concurrency"
        if self.leakage:
            check_installed()
            if "refused" not in self.judge.tells:
                yield f"leakage=true: judge={self.judge.name} cannot tell refusals, by which harm is told"
        self.benchmark.check_data(self.data)
        if self.judgements is None:
            self.benchmark.check_judge(self.judge)
        if self.defence:
            if self.generations or self.judgements:
                yield "defence: has to ask the model; answers and verdicts of its run are taken over without"
            self.defence.check_judge(self.benchmark.judge_for(self.judge))
        if isinstance(self.model, Pretrained):
            yield self.scoring.refusal(self.model.attention)
