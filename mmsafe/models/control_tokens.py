"""Tells the control tokens that a chat template writes from the same characters in what was said."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import uuid4

from tokenizers import Tokenizer

ENCODING = 2
"""Version of how conversations become ids, part of cache keys; 1 took control tokens for such wherever they stood."""


class ControlTokens:
    """A copy of a tokenizer in which each control token has a name that nobody can know.

    One pass over a whole prompt then reads the named ones as tokens and everything else as words, merged and spaced as
    in any other text. Control tokens are the special ones, `image_token`, and whatever added token the template
    writes.
    """

    def __init__(self, tokenizer: Any, image_token: str, template: str) -> None:
        self._secret = uuid4().hex
        copied = json.loads(tokenizer.backend_tokenizer.to_str())
        copied |= {"truncation": None, "padding": None, "post_processor": None}
        control, contents = [], []
        for token in copied["added_tokens"]:
            text = token["content"]
            written = text in template and not text.isspace()
            if token["special"] or text == image_token or written:
                control.append(text)
                token |= {"content": self.name(text), "normalized": False}
            contents.append((token["content"], token["id"]))
        self._control = sorted(control, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, self._control)) or "(?!)")
        self._hidden = re.compile(f"{self._secret}-([0-9]+)-")
        self._backend = Tokenizer.from_str(json.dumps(copied))
        self._id = {self._backend.token_to_id(content): number for content, number in contents}

    def name(self, token: str) -> str:
        """What `ids` takes for this control token."""
        return f"{self._secret}{token}{self._secret}"

    def hidden(self, messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Chat-template messages in whose texts `named` sees no control token."""
        return [{**message, "content": [self._without(part) for part in message["content"]]} for message in messages]

    def named(self, rendered: str) -> str:
        """What the template made of `hidden` messages: its own control tokens by name, and the texts as they were."""
        named = self._pattern.sub(lambda match: self.name(match[0]), rendered)
        return self._hidden.sub(lambda match: self._control[int(match[1])], named)

    def ids(self, text: str) -> list[int]:
        """Ids of a text, whose control tokens are words unless they stand there by name."""
        ids = self._backend.encode(text, add_special_tokens=False).ids
        return [self._id.get(number, number) for number in ids]

    def _without(self, part: Mapping[str, Any]) -> dict[str, Any]:
        if "text" not in part:
            return dict(part)
        hide = self._pattern.sub(lambda match: f"{self._secret}-{self._control.index(match[0])}-", part["text"])
        return {**part, "text": hide}
