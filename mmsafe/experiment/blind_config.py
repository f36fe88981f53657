"""The options of `mmsafe.blind`."""

from mmsafe.core.options import Seed, options
from mmsafe.core.settings import Devices, Generation, Lengths
from mmsafe.data.data_source import DataSource
from mmsafe.evaluation.judges.judge import Judge
from mmsafe.models.model_source import ModelSource


@options
class BlindConfig(Devices):
    """`conf/blind.yaml`, typed."""

    seed: Seed
    data: DataSource
    model: ModelSource
    generation: Generation
    judge: Judge
    lengths: Lengths

    def __post_init__(self) -> None:
        self.judge.must_tell(self.generation.needs, f"generation.match={self.generation.match} needs")
