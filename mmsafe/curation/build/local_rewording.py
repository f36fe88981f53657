"""Rewording by the model of `model=`, in this process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from mmsafe.core.options import Count, options
from mmsafe.core.settings import Evaluation, Lengths
from mmsafe.curation.build.rewording import Rewording, RewordingReply, request
from mmsafe.curation.build.stage import Row, Site, plain
from mmsafe.data.example import Example, Turn
from mmsafe.data.images import FileImage

PORTION = 16
"""Batches after which rows are kept in the stage's file; replies are kept in the cache batch by batch."""


@options
class LocalRewording(Rewording):
    """Greedy, with our own generation; replies are found again in the cache."""

    idle: ClassVar[frozenset[str]] = frozenset({"batch_size"})

    max_new_tokens: Count = 256
    """Longest reply."""
    max_length: Count = 2048
    """Tokens of a request, its image included; a longer one is not asked, and counts as failed."""
    batch_size: Count = 8
    """Requests answered together; does not change the result."""

    def identity(self, site: Site) -> dict[str, Any]:
        """The model's options count: another checkpoint under the same path is not noticed."""
        model = {"class": type(site.model).__name__, **plain(site.model)}
        return super().identity(site) | {"model": model}

    def plan(self, count: int, rows: object) -> str:
        return f"the model of model= answers {count} requests with an image"

    def replies(self, rows: Sequence[Row], site: Site) -> Iterator[list[tuple[int, RewordingReply]]]:
        from mmsafe.generation.responses import responses
        from mmsafe.models.loading import on_device
        from mmsafe.scoring.lengths import overlong

        llava = on_device(site.model.load())
        settings = Evaluation(max_new_tokens=self.max_new_tokens, batch_size=self.batch_size).generation()
        size = PORTION * self.batch_size
        for start in range(0, len(rows), size):
            prompts = [_prompt(row, site) for row in rows[start : start + size]]
            long = overlong(prompts, llava.encoder(), Lengths(max_length=self.max_length + 1))  # and a token of reply
            asked = [i for i in range(len(prompts)) if i not in long]
            made = responses(llava, [prompts[i] for i in asked], settings, "new wordings")
            found = [
                (start + i, RewordingReply(reply.text, reply.finished)) for i, reply in zip(asked, made, strict=True)
            ]
            yield [*found, *((start + i, RewordingReply("", reason="request too long")) for i in sorted(long))]


def _prompt(row: Row, site: Site) -> Example:
    image = FileImage(site.images / row["image"])
    return Example(row["image"], (Turn("user", request(row), image=True),), image, {})
