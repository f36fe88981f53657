"""What must not be shown of a config, a command line or an environment."""

import logging
import os
import re
from collections.abc import Mapping
from typing import Any, cast
from urllib.parse import quote

# `api_key`, `apiKey`, `HF_TOKEN` and `Authorization`, but not `tokenizer`, `keywords` or `author`.
SECRET_WORD = re.compile(r"\w*(key|token|secret|password|passwd|passphrase|credential|auth)s?\d*|authorization|bearer")
WORD = re.compile(r"[A-Z]?[a-z0-9]+|[A-Z0-9]+(?![a-z])")
PASSWORD_IN_URL = re.compile(r"://[^/?#\s]+@")
LEFT_OUT = "(left out)"
SHORTEST_SECRET = 8  # a shorter value of an environment variable would be found in ordinary words


def public(config: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of `config`, as plain data, without values whose key names a secret, and masked."""
    return cast("dict[str, Any]", masked(_without_named(config)))


def masked(value: Any) -> Any:
    """A copy of plain data in which no text holds a secret: all that is recorded of a config or a command line.

    In its place stands `(left out)`. Secrets are the values of environment variables whose name names one, wherever
    they were typed, and what stands before the `@` of a URL.
    """
    secrets = _secrets()

    def copied(node: Any) -> Any:
        if isinstance(node, Mapping):
            return {copied(key): copied(item) for key, item in node.items()}
        if isinstance(node, list | tuple):
            return [copied(item) for item in node]
        if not isinstance(node, str):
            return node
        for secret in secrets:
            node = node.replace(secret, LEFT_OUT)
        return PASSWORD_IN_URL.sub(f"://{LEFT_OUT}@", node)

    return copied(value)


class MaskedRecord(logging.LogRecord):
    """A record of a log in which neither message nor traceback holds a secret, whichever handler writes it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.exc_info and self.exc_info[0]:
            self.exc_text = str(masked(logging.Formatter().formatException(self.exc_info)))

    def getMessage(self) -> str:  # noqa: N802
        return str(masked(super().getMessage()))


def _secrets() -> list[str]:
    """The longest first: one may begin as another does."""
    secrets = {value.strip() for name, value in os.environ.items() if _names_secret(name)}
    secrets = {value for value in secrets if len(value) >= SHORTEST_SECRET}
    secrets |= {value.replace(mark, f"\\{mark}") for value in secrets for mark in "'\""}  # as an override has it
    secrets |= {quote(value, safe="") for value in secrets}
    return sorted(secrets, key=len, reverse=True)


def _without_named(node: Any) -> Any:
    """A copy without the values whose key names a secret; what is no plain data as text."""
    if isinstance(node, Mapping):
        items = ((str(key), value) for key, value in node.items())
        return {key: _without_named(value) for key, value in items if _counts(key, value) or not _names_secret(key)}
    if isinstance(node, list | tuple):
        return [_without_named(item) for item in node]
    return node if isinstance(node, bool | int | float | None) else str(node)


def _counts(key: str, value: Any) -> bool:
    return key.endswith("tokens") and str(value).isdecimal()  # max_new_tokens: 256


def _names_secret(key: str) -> bool:
    return any(SECRET_WORD.fullmatch(word.lower()) for word in WORD.findall(key))
