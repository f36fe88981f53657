"""What requests to an endpoint take, estimated before and counted after."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from mmsafe.core.errors import UserError
from mmsafe.core.options import NonNegative, options

TILE, TOKENS_PER_TILE, TOKENS_PER_IMAGE = 512, 170, 85
"""OpenAI's count for an image in detail: a share of each tile of 512 x 512 pixels, and one for the whole."""


@options
class Prices:
    """What an endpoint charges; null where nothing is known."""

    price_per_million_input: NonNegative | None = None
    price_per_million_output: NonNegative | None = None
    max_cost: NonNegative | None = None
    """Estimated cost above which nothing is asked, in the currency of the prices."""

    def __post_init__(self) -> None:
        if self.max_cost is not None and not self._known:
            raise ValueError("max_cost needs price_per_million_input and price_per_million_output")

    @property
    def _known(self) -> bool:
        return self.price_per_million_input is not None and self.price_per_million_output is not None

    def cost(self, spent: Spent) -> float | None:
        """Of these tokens; None where the prices are not known."""
        if not self._known:
            return None
        parts = (
            (spent.input_tokens, self.price_per_million_input),
            (spent.output_tokens, self.price_per_million_output),
        )
        return sum(tokens * (price or 0) for tokens, price in parts) / 1e6

    def refuse_cost(self, needed: Spent, label: str, group: str) -> None:
        """Raise `UserError` if these requests, of the option group `group`, cost more than `max_cost`."""
        cost = self.cost(needed)
        if self.max_cost is not None and cost is not None and cost > self.max_cost:
            told = f"about {cost:.2f} at most, which is more than {group}.max_cost={self.max_cost:g}"
            raise UserError(f"{label}: {needed.requests} requests cost {told}; nothing was asked")

    def told(self, spent: Spent) -> str:
        """Tokens and cost for a log."""
        cost = self.cost(spent)
        tokens = f"{spent.requests} requests, {spent.input_tokens} tokens in, {spent.output_tokens} out"
        return tokens + ("" if cost is None else f", cost {cost:.2f}")


@dataclass
class Spent:
    """Requests and tokens, added up."""

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0

    def add(self, input_tokens: int, output_tokens: int) -> None:
        """One more request."""
        self.requests += 1
        self.input_tokens += input_tokens
        self.output_tokens += output_tokens


def image_tokens(side: int) -> int:
    """About how many tokens a square image of this many pixels takes; one that is not square takes fewer."""
    return TOKENS_PER_IMAGE + TOKENS_PER_TILE * ceil(side / TILE) ** 2
