"""Entities without a model: a list of well-known names, and words that begin with a capital inside a sentence."""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from mmsafe.core.errors import UserError
from mmsafe.core.options import InputPath, options
from mmsafe.curation.build.entities import Entities, Entity
from mmsafe.curation.build.stage import Site
from mmsafe.data.records import read_object

OWN = Path(__file__).with_name("gazetteer.json")
CAPITALS = Path(__file__).with_name("capitals.json")
WORD = r"[A-Z][\w&]*(?:[-.'’](?=\w)(?!s\b)\w+)*"
SPAN = re.compile(rf"{WORD}(?: (?:(?:of|de|van|von) (?=[A-Z]))?{WORD})*")
SENTENCE_END = re.compile(r"(?:^|[.!?:;\"“”(\n]|[-–—] )\s*$")
HONORIFIC = re.compile(r"^(?:Mr|Mrs|Ms|Dr|President|Senator|King|Queen|Prince|Princess|Pope|Sir|Lady)\.?\s+(?=[A-Z])")
ORGANISATION = re.compile(r"\b(?:Inc|Corp|Ltd|LLC|Company|Corporation|University|College|Bank|Party|Church|Agency)$")
LISTED, SEVERAL_WORDS, ONE_WORD = 0.99, 0.8, 0.6
"""Scores, by how an entity was found."""


@options
class RuleEntities(Entities):
    """For machines without the model's weights: quick and rough. An unlisted name of two words is taken for a person.

    A capital at the beginning of a sentence says nothing, so a single word is an entity there only if it is listed.
    """

    gazetteer: InputPath | None = None

    def identity(self, site: Site) -> dict[str, Any]:
        """The names count, not where they stand."""
        names = hashlib.sha256(json.dumps(self._listed, sort_keys=True).encode()).hexdigest()
        return super().identity(site) | {"gazetteer": names}

    def find(self, texts: Sequence[str]) -> Iterator[list[Entity]]:
        for text in texts:
            yield list(self._entities(text))

    def _entities(self, text: str) -> Iterator[Entity]:
        free = text
        for match in self._names.finditer(text):
            yield Entity(match[0], self._listed[match[0]], LISTED, *match.span())
            free = free[: match.start()] + "\0" * len(match[0]) + free[match.end() :]
        for match in SPAN.finditer(free):
            yield from self._unlisted(free, match)

    def _unlisted(self, text: str, match: re.Match[str]) -> Iterator[Entity]:
        start, name = match.start(), match[0]
        if SENTENCE_END.search(text[:start]):
            start, name = self._without_opener(start, name)
        if titled := HONORIFIC.match(name):
            start, name = start + titled.end(), name[titled.end() :]
        words = name.split()
        if not words or name.isupper() or words[0] in self._capitals["ordinary"]:
            return
        kind = "ORG" if ORGANISATION.search(name) else "PER" if titled or len(words) > 1 else "MISC"
        score = SEVERAL_WORDS if titled or len(words) > 1 else ONE_WORD
        yield Entity(name, kind, score, start, start + len(name))

    @cached_property
    def _listed(self) -> dict[str, str]:
        """Type of each name."""
        file = self.gazetteer or OWN
        content = read_object(file, "entities.gazetteer")
        if not all(isinstance(names, list) and all(isinstance(n, str) for n in names) for names in content.values()):
            raise UserError(f'entities.gazetteer={file}: must be {{"LOC": [names], …}}')
        return {name: kind for kind, names in content.items() for name in names}

    def _without_opener(self, start: int, name: str) -> tuple[int, str]:
        """What follows a word that has its capital from the sentence; the whole name if that is two words or more."""
        first, _, rest = name.partition(" ")
        if first in self._capitals["openers"] or not rest:
            return start + len(first) + 1, rest
        return start, name

    @cached_property
    def _capitals(self) -> dict[str, frozenset[str]]:
        """Words that have a capital everywhere and name nothing that can be seen, and words that begin sentences."""
        return {kind: frozenset(words) for kind, words in read_object(CAPITALS, "capitals").items()}

    @cached_property
    def _names(self) -> re.Pattern[str]:
        names = sorted(self._listed, key=len, reverse=True)
        return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, names))})(?!\w)" if names else r"(?!)")
