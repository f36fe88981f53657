"""From a batch to token log-probs: `conf/scoring/`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from mmsafe.core.errors import UserError
from mmsafe.core.options import options

if TYPE_CHECKING:
    from torch import Tensor

    from mmsafe.scoring.collate import Batch, Collator
    from mmsafe.scoring.features import FeatureCache


class RowLogProbs(NamedTuple):
    """Token log-probs of one row and where they are valid; `[batch, time]` each, fp32 and bool."""

    log_probs: Tensor
    mask: Tensor


@contextmanager
def agreed_images() -> Iterator[None]:
    """Around a forward pass: that a checkpoint's processor and model disagree about images is a `UserError`."""
    try:
        yield
    except ValueError as error:
        if "features" not in str(error) or "tokens" not in str(error):
            raise
        raise UserError(f"model: processor and weights do not fit: {error}; get both of one checkpoint") from error


@options
class Scoring(ABC):
    """How the rows of an objective are laid out and scored; every way gives the same numbers."""

    attention: ClassVar[frozenset[str]]
    """Attention implementations of the language model that this layout works with."""
    several_devices: ClassVar[bool] = False
    """Whether every batch runs the same graph, as devices that share a step must."""
    reads_features: ClassVar[bool] = False
    """Whether `log_probs` takes what the vision tower made of an image in place of the image."""
    several_prompts: ClassVar[bool] = False
    """Whether a line can hold several prompts, as batches by tokens do."""

    @property
    @abstractmethod
    def collator(self) -> type[Collator]:
        """The class of the collator whose batches `log_probs` reads."""

    @abstractmethod
    def log_probs(self, model: Any, batch: Any) -> dict[str, RowLogProbs]:
        """One forward pass; token log-probs by row name."""

    def with_features(self, model: Any, batch: Any, cache: FeatureCache | None = None) -> Any:
        """The batch with whatever policy and reference can share already computed."""
        return batch

    def refusal(self, attention: str) -> str:
        """Why this attention implementation cannot read the layout; empty if it can."""
        if attention in self.attention:
            return ""
        known = ", ".join(sorted(self.attention))
        return f"model.attention={attention}: packed rows need one of {known}; choose one, or scoring=padded"


@options
class SharedPrefix(Scoring):
    """Every prompt once, with all its responses behind it: as exact as `Padded` and about three times as fast.

    Positions go on from the prompt's end in every response, and a response sees the prompt and itself only. The head is
    applied to the positions that predict a response token, in chunks.
    """

    attention: ClassVar[frozenset[str]] = frozenset({"sdpa", "eager", "flex_attention"})
    several_devices: ClassVar[bool] = True
    reads_features: ClassVar[bool] = True
    several_prompts: ClassVar[bool] = True

    @property
    def collator(self) -> type[Collator]:
        from mmsafe.scoring.packing import PackedCollator

        return PackedCollator

    def with_features(self, model: Any, batch: Any, cache: FeatureCache | None = None) -> Any:
        """Runs a frozen vision tower once for both, or finds its features in the cache."""
        from mmsafe.scoring.vision import with_features

        return with_features(model, batch, cache)

    @agreed_images()
    def log_probs(self, model: Any, batch: Any) -> dict[str, RowLogProbs]:
        """log π(token | prompt, own response so far) at response tokens, zero elsewhere."""
        from mmsafe.models.family import family_of
        from mmsafe.scoring.log_probs import head_log_probs
        from mmsafe.scoring.masks import masks_for
        from mmsafe.scoring.vision import image_embeddings

        family = family_of(model.config.model_type)
        attention = family.attention(model)
        if refusal := self.refusal(attention):
            raise UserError(refusal)
        with family.uncounted(model):
            hidden = model.model(
                input_ids=batch.input_ids,
                position_ids=batch.position_ids,
                attention_mask=masks_for(model, batch.allowed(), batch.order, batch.input_ids, attention),
                mm_encoder_outputs=image_embeddings(model, batch),
                use_cache=False,
            ).last_hidden_state
        predicting = hidden.flatten(0, 1).index_select(0, batch.source)
        return by_row(batch, head_log_probs(model.lm_head, predicting, batch.target))


@options
class Padded(Scoring):
    """One full sequence per row, image and prompt repeated: the readable oracle of every faster way."""

    attention: ClassVar[frozenset[str]] = frozenset({"sdpa", "eager", "flex_attention", "flash_attention_2"})

    @property
    def collator(self) -> type[Collator]:
        from mmsafe.scoring.collate import PaddedCollator

        return PaddedCollator

    @agreed_images()
    def log_probs(self, model: Any, batch: Any) -> dict[str, RowLogProbs]:
        """log π(token | everything before it) at response tokens, zero elsewhere."""
        from mmsafe.models.family import family_of

        family, ids = family_of(model.config.model_type), batch.input_ids
        inputs = {**batch.image_inputs, **family.token_kinds(ids, model.config)}
        logits = model(input_ids=ids, attention_mask=batch.attention_mask, **inputs, use_cache=False).logits
        log_probs = logits[:, :-1].float().log_softmax(-1).gather(-1, batch.input_ids[:, 1:, None]).squeeze(-1)
        return by_row(batch, log_probs[batch.target_mask])


def by_row(batch: Batch, log_probs: Tensor) -> dict[str, RowLogProbs]:
    """Log-probs of all response tokens, `[targets]` in the batch's order, as one table for each row."""
    mask = batch.target_mask
    table = log_probs.new_zeros(mask.shape).masked_scatter(mask, log_probs)
    size = len(batch)
    parts = [slice(row * size, (row + 1) * size) for row in range(len(batch.rows))]
    return {name: RowLogProbs(table[part], mask[part]) for name, part in zip(batch.rows, parts, strict=True)}
