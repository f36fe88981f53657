"""What was found in a data set as numbers, split by split; the rows of Table 2 of arXiv 2503.14189 among them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from mmsafe.curation.inspection.flags import MEANING, normalised, of_bad_row
from mmsafe.curation.inspection.looks import Look
from mmsafe.curation.inspection.rows import Inspected, RowFacts
from mmsafe.data.example import Example, fingerprint
from mmsafe.evaluation.leakage import choice_by_words, harm_by_words


def statistics(inspected: Inspected, *, leakage: bool = False) -> dict[str, dict[str, Any]]:
    """By split: how many of what, how long, how many rows have each flag, and what words alone tell."""
    leakages = {split: {"leakage": _leakage(it.examples)} for split, it in inspected.loaded.items() if leakage}
    return {split: _of_split(inspected, split) | leakages.get(split, {}) for split in inspected.rows}


def summary(values: Sequence[float]) -> dict[str, float]:
    """Number, mean, median, 95th percentile and maximum."""
    if not values:
        return {"n": 0}
    median, high = np.percentile(values, (50, 95))
    numbers = {"mean": np.mean(values), "median": median, "p95": high, "max": max(values)}
    return {"n": len(values)} | {name: round(float(value), 2) for name, value in numbers.items()}


def token_columns(rows: Sequence[RowFacts]) -> dict[str, list[int]]:
    """Tokens of all rows, by what they are of."""
    names = dict.fromkeys(name for row in rows for name in row.tokens)
    return {name: [row.tokens[name] for row in rows if name in row.tokens] for name in names}


def looks_in(rows: Sequence[RowFacts], looks: Mapping[str, Look | None]) -> list[Look]:
    """What the distinct images of the rows look like, where they could be decoded."""
    looked = (looks.get(key) for key in dict.fromkeys(image for row in rows for image in row.images))
    return [look for look in looked if look is not None]


def _of_split(inspected: Inspected, split: str) -> dict[str, Any]:
    loaded, rows = inspected.loaded[split], inspected.rows[split]
    examples, shown = loaded.examples, looks_in(rows, inspected.looks)
    flags = Counter(flag for row in rows for flag in row.flags)
    flags.update(flag for bad in loaded.bad_rows for flag in of_bad_row(bad))
    sizes = {"width": [look.width for look in shown], "height": [look.height for look in shown]}
    return {
        "instructions": len(examples),
        "distinct_instructions": len({normalised(example.turns[-1].text) for example in examples}),
        "responses": sum(len(example.responses) for example in examples),
        "images": len({image for row in rows for image in row.images}),
        "rows_without_image": sum(not example.images for example in examples),
        "multi_turn": sum(row.turns > 1 for row in rows),
        "turns": dict(sorted(Counter(row.turns for row in rows).items())),
        "tokens": {name: summary(values) for name, values in token_columns(rows).items()},
        "length": dict(Counter(row.fate for row in rows if row.fate is not None)),
        "image_size": {name: summary(values) for name, values in sizes.items()},
        "dropped": loaded.dropped,
        "tags": _tags(examples),
        "flags": {flag: flags[flag] for flag in MEANING},
        "fingerprint": fingerprint(examples),
    }


def _leakage(examples: Sequence[Example]) -> dict[str, dict[str, float] | None]:
    """Share of what is known that is told, with its interval; None where there is nothing to tell apart."""
    labelled = [example for example in examples if example.tags.get("harmful") in ("yes", "no")]
    estimates = {
        "harmful or harmless": harm_by_words(labelled, [it.tags["harmful"] == "yes" for it in labelled]),
        "chosen or rejected": choice_by_words([it for it in examples if {"chosen", "rejected"} <= it.responses.keys()]),
    }
    return {what: None if estimate is None else asdict(estimate) for what, estimate in estimates.items()}


def _tags(examples: Sequence[Example]) -> dict[str, dict[str, int]]:
    """How many examples have each value of each tag, the most frequent first."""
    counts: dict[str, Counter[str]] = {}
    for example in examples:
        for tag, value in example.tags.items():
            counts.setdefault(tag, Counter())[value] += 1
    return {tag: dict(values.most_common()) for tag, values in sorted(counts.items())}
