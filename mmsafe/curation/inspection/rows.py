"""A data set looked through row by row: how long each is, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from mmsafe.core.progress import progress
from mmsafe.core.settings import Lengths
from mmsafe.curation.inspection.flags import (
    LEAKED,
    Flags,
    Leakage,
    RowKeys,
    equal_responses,
    keys_of_row,
    repeated,
)
from mmsafe.curation.inspection.looks import Look, alike, keys_of, looks_of
from mmsafe.data.data_source import Loaded
from mmsafe.data.example import Example, ImageSource
from mmsafe.models.encoding import Encoder
from mmsafe.scoring.lengths import Fate, fate, is_equal_pair, token_counts


@dataclass(slots=True)
class RowFacts:
    """What is known of a row; none of its words."""

    id: str
    turns: int
    image: str | None
    """Key of its image."""
    tokens: dict[str, int]
    """By what they are of, as in `MEASURES`, and by response."""
    fate: Fate | None = None
    """None for a prompt alone, which nothing is trained on."""
    flags: Flags = field(default_factory=dict)


MEASURES = {
    "instruction": "last turn of the user, words alone",
    "conversation": "all turns before the response, words alone",
    "prompt": "what the model is shown: template and image, too",
    "sequence": "prompt and longest response",
}


@dataclass(frozen=True)
class Inspected:
    """All that was found, by split."""

    loaded: Mapping[str, Loaded]
    rows: Mapping[str, Sequence[RowFacts]]
    looks: Mapping[str, Look | None]
    """By key of the image; empty where images were not decoded."""

    def pairs(self) -> Iterator[tuple[str, Example, RowFacts]]:
        """Every row: its split, its words, and what is known of it."""
        for split, rows in self.rows.items():
            for example, facts in zip(self.loaded[split].examples, rows, strict=True):
                yield split, example, facts


def look_through(
    loaded: Mapping[str, Loaded], encoder: Encoder, trained: frozenset[str], rule: Lengths, *, decode: bool
) -> Inspected:
    """Read every row, and with `decode` every distinct image once.

    `trained` names the responses that a run is trained on, which `rule` looks at.
    """
    images = [example.image for part in loaded.values() for example in part.examples if example.image is not None]
    known = keys_of(images)
    measure = partial(_facts, encoder=encoder, trained=trained, rule=rule)
    rows, keys = {}, {}
    with progress("counting tokens", sum(len(part.examples) for part in loaded.values())) as advance:
        for split, part in loaded.items():
            rows[split], keys[split] = _rows(part.examples, known, measure, advance)
    looks = looks_of({key: image for image, key in known.items()}) if decode else {}
    found = Inspected(loaded, rows, looks)
    _add_leakage(found, keys)
    _add_images(found)
    return found


def _rows(
    examples: Sequence[Example],
    known: Mapping[ImageSource, str],
    measure: Callable[[Example, str | None], RowFacts],
    advance: Callable[[int], None],
) -> tuple[list[RowFacts], list[RowKeys]]:
    """What a split's rows are by themselves and beside earlier ones, and what other splits are searched for."""
    rows: list[RowFacts] = []
    keys: list[RowKeys] = []
    seen: dict[str, dict[str, str]] = {}
    for example in examples:
        image = None if example.image is None else known[example.image]
        own = keys_of_row(example, image)
        facts = measure(example, image)
        facts.flags |= equal_responses(example) | repeated(own, example.id, seen)
        rows.append(facts)
        keys.append((example.id, {kind: own[kind] for kind in LEAKED if kind in own}))
        advance(1)
    return rows, keys


def _facts(example: Example, image: str | None, encoder: Encoder, trained: frozenset[str], rule: Lengths) -> RowFacts:
    counts = token_counts(example, encoder, example.responses)
    words = [len(encoder.text_ids(turn.text)) for turn in example.turns]
    measured = counts._replace(responses={name: counts.responses[name] for name in trained & example.responses.keys()})
    tokens = {"instruction": words[-1], "conversation": sum(words), "prompt": counts.prompt, **counts.responses}
    facts = RowFacts(example.id, len(example.turns), image, {**tokens, "sequence": measured.longest})
    if measured.responses:
        facts.fate = fate(measured, rule)
        if facts.fate != "fits":
            facts.flags["over_length"] = facts.fate
        if facts.fate in ("fits", "clipped") and is_equal_pair(example, encoder, rule.max_length):
            facts.fate = "equal"
            facts.flags["equal_when_clipped"] = "chosen and rejected"
    return facts


def _add_leakage(found: Inspected, keys: Mapping[str, Sequence[RowKeys]]) -> None:
    leakage = Leakage(keys)
    for split, rows in found.rows.items():
        for facts, (_, own) in zip(rows, keys[split], strict=True):
            facts.flags |= leakage.flags(split, own)


def _add_images(found: Inspected) -> None:
    """Images that could not be decoded, and images of other splits that look alike."""
    hashes = {split: _hashes(rows, found.looks) for split, rows in found.rows.items()}
    for split, rows in found.rows.items():
        near = {
            key: f"{other}: {others[match][1]}"
            for other, others in hashes.items()
            if other != split
            for key, match in alike(_first(hashes[split]), _first(others)).items()
        }
        for facts in rows:
            if facts.image in near:
                facts.flags["leaked_look"] = near[facts.image]
            if facts.image is not None and found.looks.get(facts.image, True) is None:
                facts.flags["damaged_image"] = "cannot be decoded"


def _hashes(rows: Sequence[RowFacts], looks: Mapping[str, Look | None]) -> dict[str, tuple[bytes, str]]:
    """Difference hash of each distinct image of a split, with the first row that shows it."""
    found: dict[str, tuple[bytes, str]] = {}
    for facts in rows:
        look = looks.get(facts.image) if facts.image is not None else None
        if look is not None and look.difference_hash is not None and facts.image is not None:
            found.setdefault(facts.image, (look.difference_hash, facts.id))
    return found


def _first(found: Mapping[str, tuple[bytes, str]]) -> dict[str, bytes]:
    return {key: own for key, (own, _) in found.items()}
