"""`python -m mmsafe.export`: write a checkpoint in either format, a LoRA adapter merged into its base."""

from __future__ import annotations

from typing import Literal

from omegaconf import DictConfig

from mmsafe.core.options import CheckpointName, OutputPath, options
from mmsafe.runs.app import launch


@options
class ExportConfig:
    """`conf/export.yaml`, typed."""

    checkpoint: CheckpointName
    base: CheckpointName | None
    format: Literal["hf", "original"]
    out: OutputPath
    allow_pickle: bool


def run(config: ExportConfig, cfg: DictConfig) -> None:
    """Write `config.out`, which appears only when it is complete."""
    from mmsafe.experiment.exporting import export

    export(config.checkpoint, str(config.out), config.format, base=config.base, allow_pickle=config.allow_pickle)


def main() -> None:
    """Entry point."""
    launch("export", ExportConfig, run)


if __name__ == "__main__":
    main()
