"""DeepSpeed without a GPU, for tests: Lightning's strategy refuses a CPU, though DeepSpeed and gloo work on it.

A test chooses it by `strategy._target_=deepspeed_on_cpu.OnCpu`, with `DS_ACCELERATOR=cpu` in the environment.
"""

from dataclasses import asdict
from typing import ClassVar

import torch
from pytorch_lightning.strategies import DDPStrategy, DeepSpeedStrategy

from mmsafe.core.options import options
from mmsafe.core.settings import Trainer
from mmsafe.training.strategies.strategy import DeepSpeed
from mmsafe.training.strategies.zero import ZeRO


class CpuStrategy(DeepSpeedStrategy):
    """Lightning's strategy without its check for CUDA."""

    def setup_environment(self) -> None:
        from deepspeed.ops import __compatible_ops__

        __compatible_ops__["deepspeed_shm_comm"] = False  # would be compiled, and serves inference only
        self.parallel_devices = [torch.device("cpu", index) for index in range(len(self.parallel_devices or ()))]
        DDPStrategy.setup_environment(self)


class ZeROOnCpu(ZeRO):
    strategy = CpuStrategy


@options
class OnCpu(DeepSpeed):
    accelerators: ClassVar[tuple[str, ...]] = ("cpu",)

    def parallel(self, trainer: Trainer) -> ZeRO:
        return ZeROOnCpu(trainer, **asdict(self))
