"""The plug-in interface of an objective: which rows it wants scored, and its loss terms from their log-probs.

Objectives know tensors and nothing else: no tokenizer, device, config or logger. Their modules import torch for type
checking only and compute with tensor methods, so that a config is checked in milliseconds.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from mmsafe.core.options import options

if TYPE_CHECKING:
    from torch import Tensor

LN2 = math.log(2)
GENERATED = ("blind", "weakened")
"""Responses that a row may bring, and that are made where it does not."""


class ScoredRow(NamedTuple):
    """A sequence to score: which response, beside which view of the image (`real`, `none` or `corrupted`)."""

    response: str
    image: str = "real"

    @property
    def label(self) -> str:
        """What metrics call the row: its response, with the view where that is not the real image."""
        return self.response if self.image == "real" else f"{self.response}_{self.image}"


Rows = Mapping[str, ScoredRow]

PAIR: Rows = {"chosen": ScoredRow("chosen"), "rejected": ScoredRow("rejected")}
"""Chosen and rejected, both beside the real image."""


class Scores(NamedTuple):
    """Token log-probs of one row, fp32, `[batch, time]`, zero outside `mask`."""

    policy: Tensor
    mask: Tensor
    reference: Tensor | None = None

    @property
    def log_prob(self) -> Tensor:
        """log π(y|x), summed over response tokens; `[batch]`."""
        return self.policy.sum(-1)

    @property
    def log_ratio(self) -> Tensor:
        """log π(y|x) - log π_ref(y|x), summed over response tokens; `[batch]`."""
        if self.reference is None:
            raise ValueError("this objective reads log_ratio but declares needs_reference = False")
        return (self.policy - self.reference).sum(-1)

    @property
    def length(self) -> Tensor:
        """Number of response tokens; `[batch]`."""
        return self.mask.sum(-1)

    @property
    def mean_log_prob(self) -> Tensor:
        """log π(y|x) per response token; `[batch]`, 0 for a response without tokens."""
        return self.log_prob / self.length.clamp(min=1)

    @property
    def mean_log_ratio(self) -> Tensor:
        """log π(y|x) - log π_ref(y|x) per response token; `[batch]`, 0 for a response without tokens."""
        return self.log_ratio / self.length.clamp(min=1)


Terms = dict[str, "Tensor"]


@options
class Objective(ABC):
    """Base of all objectives; fields are options, `__call__` is the loss."""

    needs_reference: ClassVar[bool] = True
    needs_image: ClassVar[bool] = False
    """Whether it compares responses beside different views of the image, so that every example needs one."""

    @property
    def groups(self) -> tuple[Rows, ...]:
        """Training items made of one example: each maps row names to rows; all use the same names."""
        return (PAIR,)

    @abstractmethod
    def __call__(self, scores: Mapping[str, Scores]) -> Terms:
        """Named loss terms, `[batch]` each; the module adds them up and averages over the optimiser step."""

    @property
    def tokens_of(self) -> str | None:
        """The row whose response tokens all count the same in that average, for terms that are means over them.

        An item then has as much weight as it has such tokens; None: every item has the same.
        """
        return None

    @property
    def start(self) -> Mapping[str, float]:
        """Value of each term while policy and reference are equal; checked at step 0. Empty: nothing to check."""
        return {}

    def reward(self, score: Scores) -> Tensor | None:
        """Implicit reward of a row, `[batch]`, for logging; None where the objective has none."""
        return None

    @property
    def responses(self) -> frozenset[str]:
        """Names of all responses that an example must have."""
        return frozenset(row.response for group in self.groups for row in group.values())

    @property
    def sampled(self) -> frozenset[str]:
        """Names of those that are sampled before training: what an example lacks of them, or a `ranked` pair."""
        return self.responses & {*GENERATED, *(PAIR if self.ranked else ())}

    @property
    def ranked(self) -> int:
        """How many samples of a prompt the judge ranks: `chosen` is the best and `rejected` the worst; 0: none."""
        return 0


def negative_log_sigmoid(logits: Tensor) -> Tensor:
    """-log σ(logits), elementwise and without overflow."""
    return (-logits).logaddexp(logits.new_zeros(()))
