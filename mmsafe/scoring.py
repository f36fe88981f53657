"""From a batch to token log-probs: `conf/scoring/`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from mmsafe.objectives.base import Rows
from mmsafe.options import options

if TYPE_CHECKING:
    from torch import Tensor

    from mmsafe.data.collate import Batch, PaddedCollator
    from mmsafe.models.encoding import Encoder


class RowLogProbs(NamedTuple):
    """Token log-probs of one row and where they are valid; `[batch, time]` each, fp32 and bool."""

    log_probs: Tensor
    mask: Tensor


@options
class Scoring(ABC):
    """How the rows of an objective are laid out and scored; every way gives the same numbers."""

    @abstractmethod
    def collator(self, encoder: Encoder, groups: Sequence[Rows], max_length: int | None) -> PaddedCollator:
        """The collator whose batches `log_probs` reads."""

    @abstractmethod
    def log_probs(self, model: Any, batch: Batch) -> dict[str, RowLogProbs]:
        """One forward pass; token log-probs by row name."""


@options
class Padded(Scoring):
    """One full sequence per row, image and prompt repeated: the readable oracle of every faster way."""

    def collator(self, encoder: Encoder, groups: Sequence[Rows], max_length: int | None) -> PaddedCollator:
        """Right-padded sequences."""
        from mmsafe.data.collate import PaddedCollator

        return PaddedCollator(encoder, groups, max_length)

    def log_probs(self, model: Any, batch: Batch) -> dict[str, RowLogProbs]:
        """log π(token | everything before it) at response tokens, zero elsewhere."""
        pixels = None if batch.pixel_values is None else batch.pixel_values[batch.image_index]
        logits = model(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, pixel_values=pixels, use_cache=False
        ).logits
        mask = batch.response_mask[:, 1:]
        targets = batch.input_ids[:, 1:, None]
        log_probs = logits[:, :-1].float().log_softmax(-1).gather(-1, targets).squeeze(-1)
        log_probs = log_probs.masked_fill(~mask, 0.0)
        size = len(batch)
        return {
            name: RowLogProbs(log_probs[row * size : (row + 1) * size], mask[row * size : (row + 1) * size])
            for row, name in enumerate(batch.rows)
        }
