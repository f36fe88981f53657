"""What a request to a model behind an endpoint says of the text of others, and what it costs."""

import re
import unicodedata
from dataclasses import dataclass
from functools import cache
from itertools import count
from math import ceil
from pathlib import Path

from mmsafe.core.errors import UserError
from mmsafe.core.options import NonNegative, options
from mmsafe.data.example import Example, digest

FOLDER = Path(__file__).parent / "prompts"
"""Prompts in `<family>/`, whose first line is `# version N`."""
KEPT = {"\n", "\t", "\u200c", "\u200d"}
"""Seen, or needed to write Persian, Hindi and some emoji."""
UNSEEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Unicode categories: control, format (directions, invisible tags), half a surrogate pair, other line breaks."""
BRACKETS = str.maketrans("<>", "‹›")
SPECIAL = re.compile(r"\[(/?[A-Z_]+)\]")
"""Mistral's special tokens, such as [INST], have no angle brackets."""
TILE, TOKENS_PER_TILE, TOKENS_PER_IMAGE = 512, 170, 85
"""OpenAI's count for an image in detail: a share of each tile of 512 x 512 pixels, and one for the whole."""


@cache
def prompt_file(family: str, name: str) -> str:
    """The whole file, its version included: what a kept verdict depends on. Raises `UserError` if there is none."""
    path = FOLDER / family / f"{name}.txt"
    if not path.is_file():
        raise UserError(f"judge={family} cannot judge by '{name}': there is no {path}")
    return path.read_text(encoding="utf-8")


def sent(family: str, name: str) -> str:
    """What a model is sent of the file: all but its version."""
    version, _, body = prompt_file(family, name).partition("\n")
    assert version.startswith("# version "), version
    return body.strip()


def visible(text: str) -> str:
    """`text` with unseen characters spelt out, and without what a server could take for a token of its template."""
    shown = "".join(c if c in KEPT or unicodedata.category(c) not in UNSEEN else f"⟨U+{ord(c):04X}⟩" for c in text)
    return SPECIAL.sub(r"⟨\1⟩", shown.translate(BRACKETS))


def mark(*texts: str) -> str:
    """A word that stands in none of `texts`, the same each time: a hash, which its own text cannot foresee."""
    return next(word for n in count() if not any((word := digest([n, *texts])[:16]) in text for text in texts))


def transcript(example: Example) -> str:
    """The conversation up to the response."""
    shown = (("[image] " if piece is None else piece for piece in turn.pieces()) for turn in example.turns)
    return "\n\n".join(
        f"{turn.role.upper()}: {''.join(words)}" for turn, words in zip(example.turns, shown, strict=True)
    )


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


@options
class Prices:
    """What an endpoint charges; null where nothing is known."""

    price_per_million_input: NonNegative | None = None
    price_per_million_output: NonNegative | None = None
    max_cost: NonNegative | None = None
    """Estimated cost above which nothing is asked, in the currency of the prices."""

    def __post_init__(self) -> None:
        if self.max_cost is not None and self.cost(Spent()) is None:
            raise ValueError("max_cost needs price_per_million_input and price_per_million_output")

    def cost(self, spent: Spent) -> float | None:
        """Of these tokens; None where the prices are not known."""
        if self.price_per_million_input is None or self.price_per_million_output is None:
            return None
        cost_in = spent.input_tokens * self.price_per_million_input
        return (cost_in + spent.output_tokens * self.price_per_million_output) / 1e6

    def refuse_cost(self, needed: Spent, label: str, group: str) -> None:
        """Raise `UserError` if these requests, of the option group `group`, cost more than `max_cost`."""
        cost = self.cost(needed)
        if self.max_cost is not None and cost is not None and cost > self.max_cost:
            excess = f"about {cost:.2f} at most, which is more than {group}.max_cost={self.max_cost:g}"
            raise UserError(f"{label}: {needed.requests} requests cost {excess}; nothing was asked")

    def cost_text(self, spent: Spent) -> str:
        """Tokens and cost for a log."""
        cost = self.cost(spent)
        tokens = f"{spent.requests} requests, {spent.input_tokens} tokens in, {spent.output_tokens} out"
        return tokens + ("" if cost is None else f", cost {cost:.2f}")


def image_tokens(side: int) -> int:
    """About how many tokens a square image of this many pixels takes; one that is not square takes fewer."""
    return TOKENS_PER_IMAGE + TOKENS_PER_TILE * ceil(side / TILE) ** 2
