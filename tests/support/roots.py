"""The commands with a config, and the class that types it."""

from __future__ import annotations

from typing import Any

from mmsafe.agreement import AgreementConfig
from mmsafe.build import BuildConfig
from mmsafe.compare import CompareConfig
from mmsafe.curation.inspection.inspect_config import InspectConfig
from mmsafe.estimate.doctor_config import DoctorConfig
from mmsafe.experiment.blind_config import BlindConfig
from mmsafe.experiment.evaluate_config import EvaluateConfig
from mmsafe.experiment.train_config import TrainConfig
from mmsafe.export import ExportConfig
from mmsafe.prepare import PrepareConfig
from mmsafe.tag import TagConfig

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
