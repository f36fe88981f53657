"""The commands with a config, and the class that types it."""

from __future__ import annotations

from typing import Any

from mmsafe.agreement import AgreementConfig
from mmsafe.blind import BlindConfig
from mmsafe.build import BuildConfig
from mmsafe.compare import CompareConfig
from mmsafe.doctor import DoctorConfig
from mmsafe.evaluate import EvaluateConfig
from mmsafe.export import ExportConfig
from mmsafe.inspect import InspectConfig
from mmsafe.prepare import PrepareConfig
from mmsafe.tag import TagConfig
from mmsafe.train import TrainConfig

ROOTS: dict[str, type[Any]] = {
    "train": TrainConfig,
    "blind": BlindConfig,
    "evaluate": EvaluateConfig,
    "doctor": DoctorConfig,
    "export": ExportConfig,
    "compare": CompareConfig,
    "build": BuildConfig,
    "prepare": PrepareConfig,
    "inspect": InspectConfig,
    "tag": TagConfig,
    "agreement": AgreementConfig,
}
