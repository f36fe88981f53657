"""Rewording by the model of `model=`, in this process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from mmsafe.core.options import Count, options
from mmsafe.core.settings import Evaluation, Lengths
from mmsafe.curation.build.rewording import LABEL, Rewording
from mmsafe.curation.build.stage import Site, plain
from mmsafe.data.example import Example

if TYPE_CHECKING:
    from mmsafe.generation.generate import Response


@options
class LocalRewording(Rewording):
    """Greedy, with our own generation; replies are kept batch by batch and found again in the cache."""

    idle: ClassVar[frozenset[str]] = frozenset({"batch_size"})

    max_new_tokens: Count = 256
    max_length: Count = 2048
    batch_size: Count = 8

    def identity(self, site: Site) -> dict[str, Any]:
        """The model's options count: another checkpoint under the same path is not noticed."""
        model = {"class": type(site.model).__name__, **plain(site.model)}
        return super().identity(site) | {"model": model}

    def plan(self, count: int, rows: object) -> str:
        return f"the model of model= answers {count} requests with an image"

    def replies(self, requests: Sequence[Example], site: Site) -> list[Response | str]:
        from mmsafe.generation.responses import responses
        from mmsafe.models.loading import on_device
        from mmsafe.scoring.lengths import overlong

        vlm = on_device(site.model.load())
        long = overlong(requests, vlm.encoder(), Lengths(max_length=self.max_length + 1))  # and a token of reply
        settings = Evaluation(max_new_tokens=self.max_new_tokens, batch_size=self.batch_size).generation()
        answered = [request for position, request in enumerate(requests) if position not in long]
        made = iter(responses(vlm, answered, settings, LABEL))
        return ["request too long" if position in long else next(made) for position in range(len(requests))]
