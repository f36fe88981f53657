"""The statistics of a data set as tables, for a terminal and for a page."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmsafe.core.settings import Lengths
from mmsafe.curation.inspection.flags import MEANING
from mmsafe.curation.inspection.rows import MEASURES
from mmsafe.reporting.report_page import Cell, Table

Statistics = Mapping[str, Mapping[str, Any]]
MOST_BAD_ROWS, MOST_VALUES = 100, 60
"""That a table lists; the rest is in the files."""
COUNTS = {
    "instructions": "instructions",
    "distinct_instructions": "… that differ",
    "responses": "responses",
    "images": "images that differ",
    "rows_without_image": "rows without image",
    "multi_turn": "conversations of several turns",
}


def main_tables(by_split: Statistics, rule: Lengths, tokenizer: str, *, decoded: bool) -> list[Table]:
    """Counts, tokens, lengths and flags."""
    counts = [[label, *(str(part[name]) for part in by_split.values())] for name, label in COUNTS.items()]
    if decoded:
        counts.append(["width × height, median", *(_size(part["image_size"]) for part in by_split.values())])
    counts.append(["rows that were dropped", *(str(sum(part["dropped"].values())) for part in by_split.values())])
    reasons = list(dict.fromkeys(reason for part in by_split.values() for reason in part["dropped"]))
    dropped = [[reason, *(str(part["dropped"].get(reason, 0)) for part in by_split.values())] for reason in reasons]
    note = f"what a training run does at lengths.max_length={rule.max_length} lengths.on_overlong={rule.on_overlong}"
    if rule.max_length is None:
        note = "no limit (lengths.max_length=null)"
    return [
        _table("Rows", ["number of", *by_split], counts),
        *([_table("Dropped rows", ["reason", *by_split], dropped)] if dropped else []),
        _table("Tokens", ["of", "split", "n", "mean", "median", "95 %", "max"], list(_tokens(by_split)), tokenizer),
        _table("Length", ["outcome", *by_split], list(_lengths(by_split, rule)), note),
        *_leakage(by_split),
        _table("Flags", ["flag", *by_split, "meaning"], list(_flags(by_split, decoded)), FLAGS_NOTE),
    ]


FLAGS_NOTE = (
    "rows of each split; an instruction is the last turn of the user, and white space and case make no difference "
    "unless it says so; which rows they are is in rows.csv"
)


def further_tables(by_split: Statistics, bad_rows: Mapping[str, Sequence[tuple[str, str]]]) -> Iterator[Table]:
    """The first rows that were dropped, and how many rows have each tag."""
    places = [[split, place, reason] for split, rows in bad_rows.items() for place, reason in rows]
    if places:
        note = f"the first {MOST_BAD_ROWS}; all are in rows.csv" if len(places) > MOST_BAD_ROWS else ""
        yield _table("Where the dropped rows are", ["split", "row", "reason"], places[:MOST_BAD_ROWS], note)
    for tag in dict.fromkeys(tag for part in by_split.values() for tag in part["tags"]):
        values = tag_counts(by_split, tag)
        rows = [[value, *map(str, counts)] for value, counts in list(values.items())[:MOST_VALUES]]
        note = f"the first {MOST_VALUES} of {len(values)} values" if len(values) > MOST_VALUES else ""
        yield _table(tag, ["value", *by_split], rows, note)


def tag_counts(by_split: Statistics, tag: str) -> dict[str, list[int]]:
    """Rows with each value of a tag by split, the most frequent value first."""
    parts = [part["tags"].get(tag, {}) for part in by_split.values()]
    values = dict.fromkeys(value for part in parts for value in part)
    counts = {value: [part.get(value, 0) for part in parts] for value in values}
    return dict(sorted(counts.items(), key=lambda item: -sum(item[1])))


def _tokens(by_split: Statistics) -> Iterator[list[str]]:
    names = dict.fromkeys(name for part in by_split.values() for name in part["tokens"])
    for name in names:
        for split, part in by_split.items():
            counts = part["tokens"].get(name, {"n": 0})
            numbers = [f"{counts[key]:.1f}" if key in counts else "–" for key in ("mean", "median", "p95")]
            label = f"{name}: {MEASURES[name]}" if name in MEASURES else f"{name} response"
            yield [label, split, str(counts["n"]), *numbers, str(counts.get("max", "–")).removesuffix(".0")]


def _lengths(by_split: Statistics, rule: Lengths) -> Iterator[list[str]]:
    labels = {"fits": "fits", "clipped": "responses are clipped", "dropped": "dropped", "refused": "ends the training"}
    labels["equal"] = "left out: both responses are the same tokens"
    for fate, label in labels.items():
        counts = [part["length"].get(fate, 0) for part in by_split.values()]
        if fate == "fits" or any(counts):
            yield [label, *map(str, counts)]


def _leakage(by_split: Statistics) -> Iterator[Table]:
    measured = [part["leakage"] for part in by_split.values() if "leakage" in part]
    if measured:
        note = "share that counts of words tell of wordings they have not seen [95 % interval], image not looked at"
        rows = [[what, *(_share(part[what]) for part in measured)] for what in measured[0]]
        yield _table("Told by words alone", ["what", *by_split], rows, note)


def _share(estimate: Mapping[str, float] | None) -> str:
    return "–" if estimate is None else "{value:.3f} [{low:.3f}, {high:.3f}], n = {n}".format(**estimate)


def _flags(by_split: Statistics, decoded: bool) -> Iterator[list[str]]:
    for flag, meaning in MEANING.items():
        looked = decoded or flag != "leaked_look"
        yield [flag, *(str(part["flags"][flag]) if looked else "–" for part in by_split.values()), meaning]


def _size(sizes: Mapping[str, Mapping[str, float]]) -> str:
    if not sizes["width"]["n"]:
        return "–"
    return f"{sizes['width']['median']:.0f} × {sizes['height']['median']:.0f}"


def _table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]], note: str = "") -> Table:
    return Table(title, head, [[Cell(text, text) for text in row] for row in rows], note)
