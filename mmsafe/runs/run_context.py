"""What a job is told of the command that started it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig


@dataclass(frozen=True)
class RunContext:
    """One job of a command; made in `hydra_state`, so that no job asks Hydra."""

    command: str
    """Its name, such as `train`."""
    folder: Path
    """Where it writes, as an absolute path."""
    choices: Mapping[str, str]
    """What was chosen of each config group, by the group's name."""
    overrides: tuple[str, ...]
    """Words of the command line, as they were typed."""
    config_dirs: tuple[str, ...]
    """Folders given by `--config-dir`."""
    cfg: DictConfig
    """The composed config, Hydra's own node left out."""
