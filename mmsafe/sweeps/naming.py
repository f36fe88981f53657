"""Names of folders: the same command finds the same sweep, the same config the same job."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from mmsafe.core.config import SHOWN, STARTING, resolved
from mmsafe.data.example import digest

LONGEST = 80
"""Characters of overrides in a name: file systems allow 255 bytes."""


def sweep_name(words: Sequence[str]) -> str:
    """The preset or the options that vary, and a hash of the words, whose order and way of starting do not count."""
    ignored = tuple(f"{node}." for node in STARTING)
    counting = [word for word in words if not word.startswith(ignored) and word.partition("=")[0] not in SHOWN]
    overrides = OverridesParser.create().parse_overrides(counting)
    preset = [str(override.value()) for override in overrides if override.key_or_group == "sweep"]
    varied = [_short(str(override.key_or_group)) for override in overrides if override.is_sweep_override()]
    return _joined(preset or varied, sorted(set(counting)))


def job_name(overrides: Mapping[str, str], cfg: DictConfig) -> str:
    """`bpo-beta0.1-seed0-3f9a12ab`: what varies within the sweep, and a hash of the config that counts.

    Made of characters that need no quotes, neither in a shell nor in an override.
    """
    parts = [value if _is_choice(key, value) else _short(key) + _brief(value) for key, value in overrides.items()]
    return _joined(parts, _without_shown(resolved(cfg)))


def _joined(parts: Sequence[str], hashed: Any) -> str:
    readable = "-".join(re.sub(r"[^\w.+-]+", "_", part, flags=re.ASCII).strip("_-.") for part in parts)
    return "-".join([*([readable[:LONGEST]] if readable else []), digest(hashed)[:8]])


def _without_shown(config: dict[str, Any]) -> dict[str, Any]:
    for option in SHOWN:
        group, _, key = option.partition(".")
        config.get(group, {}).pop(key, None)
    return config


def _short(key: str) -> str:
    return key.lstrip("+~").rpartition(".")[2]


def _brief(value: str) -> str:
    """Four digits of a drawn number: the hash tells it from its neighbours."""
    return f"{float(value):.4g}" if re.fullmatch(r"-?\d+\.\d{5,}(e-?\d+)?", value) else value


def _is_choice(key: str, value: str) -> bool:
    """Whether the value says enough without its key."""
    return "." not in key and re.fullmatch(r"[-+.\deE]+|true|false|null", value) is None
