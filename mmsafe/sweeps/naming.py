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
    config = resolved(cfg)
    for option in SHOWN:
        group, _, key = option.partition(".")
        config.get(group, {}).pop(key, None)
    return _joined([_part(key, value) for key, value in overrides.items()], config)


def _joined(parts: Sequence[str], hashed: Any) -> str:
    readable = "-".join(re.sub(r"[^\w.+-]+", "_", part, flags=re.ASCII).strip("_-.") for part in parts)
    return "-".join([*([readable[:LONGEST]] if readable else []), digest(hashed)[:8]])


def _part(key: str, value: str) -> str:
    """A choice says enough without its group; of a drawn number four digits do: the hash tells it from others."""
    if "." not in key and re.fullmatch(r"[-+.\deE]+|true|false|null", value) is None:
        return value
    drawn = re.fullmatch(r"-?\d+\.\d{5,}(e-?\d+)?", value)
    return _short(key) + (f"{float(value):.4g}" if drawn else value)


def _short(key: str) -> str:
    return key.lstrip("+~").rpartition(".")[2]
