"""What must not be shown of a config, a command line or an environment."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

# `api_key`, `apiKey`, `HF_TOKEN` and `Authorization`, but not `tokenizer`, `keywords` or `author`.
SECRET_WORD = re.compile(r"\w*(key|token|secret|password|passwd|passphrase|credential|auth)s?\d*|authorization|bearer")
WORD = re.compile(r"[A-Z]?[a-z0-9]+|[A-Z0-9]+(?![a-z])")
PASSWORD_IN_URL = re.compile(r"://[^/?#\s]+@")
LEFT_OUT = "(left out)"
SHORTEST_SECRET = 8  # a shorter value of an environment variable would be found in ordinary words


def public(config: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of `config`, as plain data, without anything that looks like a secret.

    Left out are values whose key names a secret, URLs with a password, and texts that hold the value of an environment
    variable whose name names a secret, as `${oc.env:HF_TOKEN}` does.
    """
    return dict(_entries(config, _secrets()))


def without_secret_values(config: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of `config` with every key, but no text that holds the value of a variable whose name names a secret."""
    return dict(_masked(config, _secrets()))


def _secrets() -> list[str]:
    return [value for name, value in os.environ.items() if _names_secret(name) and len(value) >= SHORTEST_SECRET]


def _masked(value: Any, secrets: Sequence[str]) -> Any:
    if isinstance(value, Mapping):
        return {key: _masked(item, secrets) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_masked(item, secrets) for item in value]
    return LEFT_OUT if isinstance(value, str) and any(secret in value for secret in secrets) else value


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
    return LEFT_OUT if PASSWORD_IN_URL.search(text) or any(secret in text for secret in secrets) else text


def _names_secret(key: str) -> bool:
    return any(SECRET_WORD.fullmatch(word.lower()) for word in WORD.findall(key))
