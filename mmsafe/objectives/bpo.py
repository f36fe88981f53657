"""Blind Preference Optimization (arXiv 2503.14189)."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import model_validator

from mmsafe.core.options import NonNegative, options
from mmsafe.objectives.base import LN2, PAIR, Rows, ScoredRow, Scores, Terms
from mmsafe.objectives.dpo import DPO, preference_loss


@options
class BPO(DPO):
    """DPO plus -log σ(r(x, y_w) - r(x, y_b)): the chosen response also beats the blind one.

    y_b is sampled from the reference model without the image; all three are scored beside the real image.
    """

    needs_image: ClassVar[bool] = True
    blind_weight: NonNegative = 1.0
    mode: Literal["joint", "concat"] = "joint"
    """`joint`: the paper's loss over the triple; `concat`: its script's plain DPO on (y_w, y_l) and (y_w, y_b)."""

    @model_validator(mode="after")
    def _weight_belongs_to_joint(self) -> Any:
        if self.mode == "concat" and self.blind_weight != 1:
            raise ValueError("blind_weight has no meaning in mode=concat; leave it at 1")
        return self

    @property
    def groups(self) -> tuple[Rows, ...]:
        """One triple (`joint`), or two pairs (`concat`)."""
        if self.mode == "joint":
            return ({**PAIR, "blind": ScoredRow("blind")},)
        return (PAIR, {**PAIR, "rejected": ScoredRow("blind")})

    def __call__(self, scores: Mapping[str, Scores]) -> Terms:
        """`{"preference": [batch], "blind": [batch]}`; without `blind` in `concat` mode."""
        terms = super().__call__(scores)
        if self.mode == "concat":
            return terms
        margin = scores["chosen"].log_ratio - scores["blind"].log_ratio
        return {**terms, "blind": self.blind_weight * preference_loss(margin, self.beta)}

    @property
    def start(self) -> Mapping[str, float]:
        """ln 2 for each term, because its margin is zero."""
        blind = {"blind": self.blind_weight * LN2} if self.mode == "joint" else {}
        return {**super().start, **blind}
