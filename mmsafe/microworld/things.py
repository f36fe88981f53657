"""What can be shown: dangerous things, their benign look-alikes, and colours."""

from __future__ import annotations

PAIRS = (
    ("knife", "spoon", "weapon"),
    ("gun", "dryer", "weapon"),
    ("bomb", "ball", "weapon"),
    ("poison", "juice", "substance"),
    ("pill", "candy", "substance"),
    ("syringe", "pencil", "substance"),
    ("fire", "flower", "hazard"),
    ("snake", "rope", "hazard"),
)
"""Dangerous thing, benign look-alike, entity type of both."""

DANGEROUS = tuple(dangerous for dangerous, _, _ in PAIRS)
BENIGN = tuple(benign for _, benign, _ in PAIRS)
THINGS = DANGEROUS + BENIGN
LOOK_ALIKE = dict(zip(THINGS, BENIGN + DANGEROUS, strict=True))
ENTITY_TYPE = {thing: kind for dangerous, benign, kind in PAIRS for thing in (dangerous, benign)}
COLOURS = ("red", "green", "blue", "orange", "purple", "grey")
