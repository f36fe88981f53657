"""A data set looked through row by row: how long each is, and what is wrong with it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from mmsafe.core.progress import progress
from mmsafe.core.settings import Lengths
from mmsafe.curation.inspection.flags import LEAKED, FirstRows, Flags, equal_responses, keys_of_row, leaked, repeated
from mmsafe.curation.inspection.looks import Look, alike, keys_of, looks_of
from mmsafe.data.data_source import Loaded
from mmsafe.data.example import Example
from mmsafe.models.encoding import Encoder
from mmsafe.scoring.lengths import Fate, fate, is_equal_pair, token_counts


@dataclass(slots=True)
class RowFacts:
    """What is known of a row; none of its words."""

    id: str
    turns: int
    images: tuple[str, ...]
    """Keys of its images."""
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
    keys = keys_of(image for part in loaded.values() for example in part.examples for image in example.images)
    rows: dict[str, list[RowFacts]] = {split: [] for split in loaded}
    first: dict[str, FirstRows] = {split: {} for split in loaded}
    compared: list[tuple[str, RowFacts, list[tuple[str, str]]]] = []
    with progress("counting tokens", sum(len(part.examples) for part in loaded.values())) as advance:
        for split, part in loaded.items():
            for example in part.examples:
                images = tuple(keys[image] for image in example.images)
                row_keys = keys_of_row(example, images)
                facts = _facts(example, images, encoder, trained, rule)
                facts.flags |= equal_responses(example) | repeated(row_keys, example.id, first[split])
                rows[split].append(facts)
                compared.append((split, facts, [key for key in row_keys if key[0] in LEAKED]))
                advance(1)
    for split, facts, shared in compared:
        facts.flags |= leaked(shared, {other: known for other, known in first.items() if other != split})
    looks = looks_of({key: image for image, key in keys.items()}) if decode else {}
    _add_images(rows, looks, first)
    return Inspected(loaded, rows, looks)


def _facts(
    example: Example, images: tuple[str, ...], encoder: Encoder, trained: frozenset[str], rule: Lengths
) -> RowFacts:
    counts = token_counts(example, encoder, example.responses)
    words = [len(encoder.text_ids(turn.text)) for turn in example.turns]
    measured = counts._replace(responses={name: counts.responses[name] for name in trained & example.responses.keys()})
    tokens = {"instruction": words[-1], "conversation": sum(words), "prompt": counts.prompt, **counts.responses}
    facts = RowFacts(example.id, len(example.turns), images, {**tokens, "sequence": measured.longest})
    if measured.responses:
        facts.fate = fate(measured, rule)
        if facts.fate != "fits":
            facts.flags["over_length"] = facts.fate
        if facts.fate in ("fits", "clipped") and is_equal_pair(example, encoder, rule.max_length):
            facts.fate = "equal"
            facts.flags["equal_when_clipped"] = "chosen and rejected"
    return facts


def _add_images(
    rows: Mapping[str, Sequence[RowFacts]], looks: Mapping[str, Look | None], first: Mapping[str, FirstRows]
) -> None:
    """Flag images that could not be decoded, and images of other splits that look alike."""
    known = {key: look.difference_hash for key, look in looks.items() if look is not None}
    hashes = {
        split: {key: value for facts in split_rows for key in facts.images if (value := known.get(key)) is not None}
        for split, split_rows in rows.items()
    }
    for split, split_rows in rows.items():
        near = {
            key: f"{other}: {first[other]['image', match]}"
            for other in rows
            if other != split
            for key, match in alike(hashes[split], hashes[other]).items()
        }
        for facts in split_rows:
            for image in facts.images:
                if image in near:
                    facts.flags.setdefault("leaked_look", near[image])
                if looks.get(image, True) is None:
                    facts.flags["damaged_image"] = "cannot be decoded"
