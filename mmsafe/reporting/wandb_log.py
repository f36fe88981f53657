"""Weights & Biases: one run per job, offline where there is no key, and never a secret in what is sent."""

from __future__ import annotations

import logging
import os
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmsafe.errors import UserError
from mmsafe.settings import Wandb

if TYPE_CHECKING:
    from pytorch_lightning.loggers import WandbLogger

log = logging.getLogger(__name__)

# `api_key`, `apiKey`, `HF_TOKEN` and `Authorization`, but not `tokenizer`, `keywords` or `author`.
SECRET_WORD = re.compile(r"\w*(key|token|secret|password|passwd|passphrase|credential|auth)s?\d*|authorization|bearer")
WORD = re.compile(r"[A-Z]?[a-z0-9]+|[A-Z0-9]+(?![a-z])")
PASSWORD_IN_URL = re.compile(r"://[^/?#\s]+@")
SHORTEST_SECRET = 8  # a shorter value of an environment variable would be found in ordinary words


def wandb_logger(options: Wandb, folder: Path, config: Mapping[str, Any], name: str) -> WandbLogger:
    """A logger whose run is called `name` and keeps its files in `folder/wandb`.

    `config` is the resolved config; what looks like a secret in it is left out. The run begins with the first thing
    that is logged, and ends with `finish`.
    """
    try:
        from wandb import Settings  # from: a folder ./wandb of run files would be importable, but is empty
    except ImportError as error:
        raise UserError("Weights & Biases is not installed: install mmsafe[wandb], or use logger=csv") from error
    from lightning_utilities.core.rank_zero import rank_zero_only
    from pytorch_lightning.loggers import WandbLogger

    finish(exit_code=1)  # an open run is that of a job that died, and would take in what this one logs
    # The metadata would hold the whole command line, the git state a remote's URL with the token in it, and the console
    # whatever a job prints. run.json tells where a result comes from.
    settings = Settings(console="off", x_disable_meta=True, disable_git=True, disable_code=True)
    offline = is_offline()
    if offline:
        rank_zero_only(_tell)(folder)
    folder.mkdir(parents=True, exist_ok=True)  # wandb would silently write to a temporary folder instead
    return WandbLogger(
        name=name,
        save_dir=folder,
        project=options.project,
        group=options.group,
        tags=list(options.tags),
        config=public(config),
        settings=settings,
        # Not `offline=True`, with which Lightning sets WANDB_MODE for the rest of the process.
        mode="offline" if offline else None,
    )


def finish(exit_code: int = 0) -> None:
    """End the run of this process, if there is one, so that the next job gets its own; not 0: the job failed."""
    wandb = sys.modules.get("wandb")
    if wandb is not None and getattr(wandb, "run", None) is not None:
        wandb.finish(exit_code=exit_code)


def is_offline() -> bool:
    """Whether runs stay on disk because no key can be found; `WANDB_MODE` or `wandb offline` decide where used."""
    if os.environ.get("WANDB_MODE") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return False
    import wandb
    from wandb.sdk.lib import wbauth

    settings = wandb.setup().settings
    if settings.mode != "online":
        return False
    try:
        key = os.environ.get("WANDB_API_KEY") or settings.api_key or wbauth.read_netrc_auth(host=settings.base_url)
    except wandb.errors.AuthenticationError as error:
        raise UserError(f"Weights & Biases: {error} Repeat `wandb login`, or set WANDB_MODE=offline") from error
    if key and (problem := wbauth.check_api_key(key)):
        raise UserError(f"Weights & Biases: {problem} Repeat `wandb login`, or set WANDB_MODE=offline")
    return not key


def public(config: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of `config`, as plain data, without anything that looks like a secret.

    Left out are values whose key names a secret, URLs with a password, and texts that hold the value of an environment
    variable whose name names a secret, as `${oc.env:HF_TOKEN}` does.
    """
    secrets = [value for name, value in os.environ.items() if _names_secret(name) and len(value) >= SHORTEST_SECRET]
    return dict(_entries(config, secrets))


def _entries(config: Mapping[str, Any], secrets: Sequence[str]) -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        counts = isinstance(value, int) and str(key).endswith("tokens")  # max_new_tokens: 256
        if counts or not _names_secret(str(key)):
            yield str(key), _plain(value, secrets)


def _plain(value: Any, secrets: Sequence[str]) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping):
        return dict(_entries(value, secrets))
    if isinstance(value, list | tuple):
        return [_plain(item, secrets) for item in value]
    text = str(value)
    return "(left out)" if PASSWORD_IN_URL.search(text) or any(secret in text for secret in secrets) else text


def _names_secret(key: str) -> bool:
    return any(SECRET_WORD.fullmatch(word.lower()) for word in WORD.findall(key))


def _tell(folder: Path) -> None:
    runs = f"{shlex.quote(str(folder / 'wandb'))}/offline-run-*"
    log.warning("no Weights & Biases key, so the run stays on disk; to upload: `wandb login`, `wandb sync %s`", runs)
