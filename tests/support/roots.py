"""The commands with a config, and the class that types it."""

from typing import Any

from mmsafe.curation.build.building import BuildConfig
from mmsafe.curation.inspection.inspecting import InspectConfig
from mmsafe.curation.preparation.preparing import PrepareConfig
from mmsafe.curation.tagging.categorising import TagConfig
from mmsafe.estimate.machine import DoctorConfig
from mmsafe.experiment.blind_config import BlindConfig
from mmsafe.experiment.chat_config import ChatConfig
from mmsafe.experiment.evaluate_config import EvaluateConfig
from mmsafe.experiment.export_config import ExportConfig
from mmsafe.experiment.train_config import TrainConfig
from mmsafe.microworld.demo import DemoConfig
from mmsafe.reporting.agreement import AgreementConfig
from mmsafe.reporting.compare import CompareConfig
from mmsafe.reporting.dashboard import DashboardConfig
from mmsafe.reporting.report import ReportConfig
from mmsafe.reporting.samples import SamplesConfig

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
    "report": ReportConfig,
    "samples": SamplesConfig,
    "dashboard": DashboardConfig,
    "demo": DemoConfig,
    "chat": ChatConfig,
}
