"""The options of `mmsafe.doctor`."""

from __future__ import annotations

from typing import ClassVar

from mmsafe.core.options import options
from mmsafe.estimate.machine import Doctor
from mmsafe.experiment.train_config import TrainConfig


@options
class DoctorConfig(TrainConfig):
    """`conf/doctor.yaml`, typed: a training run, and the machine it is meant for."""

    doctor: Doctor
    runs_here: ClassVar[bool] = False
