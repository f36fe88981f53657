"""What Hydra notes of a run in `.hydra/`, and of a sweep."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf._utils import get_omega_conf_dumper

from mmsafe.core.errors import UserError
from mmsafe.core.files import write_atomically
from mmsafe.core.secrets import masked


def save_config(cfg: Any, filename: str, output_dir: Path) -> None:
    """In place of Hydra's function: the same file, without secrets, and complete or not there."""
    plain = masked(OmegaConf.to_container(cfg, resolve=False, enum_to_str=True))
    dumper = get_omega_conf_dumper()
    text = yaml.dump(plain, default_flow_style=False, allow_unicode=True, sort_keys=False, Dumper=dumper)
    write_atomically(output_dir / filename, text)


def noted_overrides(folder: Path) -> list[str]:
    """The words of the command line that began the run in `folder`; none where Hydra noted none."""
    words = _read(folder / ".hydra" / "overrides.yaml", list)
    return [word for word in words if isinstance(word, str)]


def noted_choices(folder: Path) -> dict[str, str]:
    """What was chosen of each config group."""
    path = folder / ".hydra" / "hydra.yaml"
    node: Any = _read(path, dict)
    for name in ("hydra", "runtime", "choices"):
        node = node.get(name, {})
        if not isinstance(node, dict):
            raise UserError(f"{path}: is damaged: its {name} are no mapping; move it away")
    return {str(group): str(choice) for group, choice in node.items()}


def _read(path: Path, kind: type[Any]) -> Any:
    """The content of a YAML file; empty where there is none. Raises `UserError` if it is of another kind or damaged."""
    if not path.exists():
        return kind()
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: is damaged ({' '.join(str(error).split())[:100]}); move it away") from error
    if not isinstance(found, kind):
        raise UserError(f"{path}: is damaged: it is no {kind.__name__}; move it away")
    return found
