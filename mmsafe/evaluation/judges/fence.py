"""Text of others inside a prompt: between marks that it cannot hold, with nothing in it that acts unseen."""

from __future__ import annotations

import re
import unicodedata
from itertools import count

from mmsafe.data.example import Example, digest

KEPT = {"\n", "\t", "\u200c", "\u200d"}
"""Seen, or needed to write Persian, Hindi and some emoji."""
UNSEEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Unicode categories: control, format (directions, invisible tags), half a surrogate pair, other line breaks."""
BRACKETS = str.maketrans("<>", "‹›")
SPECIAL = re.compile(r"\[(/?[A-Z_]+)\]")
"""Mistral's special tokens, such as [INST], have no angle brackets."""
CUT = "\n⟨cut⟩"


def visible(text: str) -> str:
    """`text` with unseen characters spelt out, and without what a server could take for a token of its template."""
    shown = "".join(c if c in KEPT or unicodedata.category(c) not in UNSEEN else f"⟨U+{ord(c):04X}⟩" for c in text)
    return SPECIAL.sub(r"⟨\1⟩", shown.translate(BRACKETS))


def mark(*texts: str) -> str:
    """A word that stands in none of `texts`, the same each time: a hash, which its own text cannot foresee."""
    return next(word for n in count() if not any((word := digest([n, *texts])[:16]) in text for text in texts))


def shortened(text: str, limit: int) -> str:
    """The first `limit` characters, and a sign that there were more."""
    return text if len(text) <= limit else text[:limit] + CUT


def transcript(example: Example) -> str:
    """The conversation up to the response."""
    return "\n\n".join(f"{turn.role.upper()}: {'[image] ' * turn.image}{turn.text}" for turn in example.turns)
