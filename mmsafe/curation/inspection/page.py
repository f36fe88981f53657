"""The statistics of a data set with samples of its rows, as one HTML page."""

from collections.abc import Container, Sequence
from typing import Any

from mmsafe.curation.inspection.flags import MEANING
from mmsafe.curation.inspection.looks import looks_of
from mmsafe.curation.inspection.row_tables import Statistics, further_tables
from mmsafe.curation.inspection.rows import Inspected, RowFacts
from mmsafe.data.example import Example, digest
from mmsafe.reporting.figures import Chart
from mmsafe.reporting.html_page import rendered
from mmsafe.reporting.report_page import FIGURES, Table
from mmsafe.reporting.sample_browser import filter_tags, prompt_fields, thumbnails

Row = tuple[str, Example, RowFacts]


def page(
    inspected: Inspected,
    numbers: Statistics,
    tables: Sequence[Table],
    drawn: Sequence[Chart],
    title: str,
    *,
    samples: int,
    seed: int,
) -> str:
    """The page: words of the data stand in one block of JSON, and reach the reader as text only."""
    rows = sampled(list(inspected.pairs()), samples, seed)
    images = {key: image for _, row, facts in rows for key, image in zip(facts.images, row.images, strict=True)}
    looks = inspected.looks or looks_of(images)  # a damaged image has no thumbnail
    readable = {key: image for key, image in images.items() if looks[key] is not None}
    prompts = [_prompt(*row, readable) for row in rows]
    bad_rows = {
        split: [(row.place, row.reason) for row in loaded.bad_rows] for split, loaded in inspected.loaded.items()
    }
    return rendered(
        "inspect",
        styles=("report", "samples", "inspect"),
        scripts=("articles", "report", "inspect"),
        title=title,
        counts=" · ".join(f"{len(split_rows)} rows of {split}" for split, split_rows in inspected.rows.items()),
        tables=[*tables, *further_tables(numbers, bad_rows)],
        charts=drawn,
        figures=FIGURES,
        data={"prompts": prompts, "images": thumbnails(readable.values()), "meaning": MEANING},
        splits=list(inspected.rows),
        flags=[flag for flag in MEANING if any(flag in facts.flags for _, _, facts in rows)],
        tags=filter_tags(prompts),
    )


def sampled(rows: Sequence[Row], count: int, seed: int) -> list[Row]:
    """`count` rows drawn at random, and as many of the others that have a flag; in the order of the data."""
    order = sorted(range(len(rows)), key=lambda n: digest([seed, rows[n][0], rows[n][1].id]))
    flagged = [n for n in order[count:] if rows[n][2].flags]
    return [rows[n] for n in sorted([*order[:count], *flagged[:count]])]


def _prompt(split: str, example: Example, facts: RowFacts, readable: Container[str]) -> dict[str, Any]:
    return {
        **prompt_fields(example, ""),
        "split": split,
        "images": [key if key in readable else None for key in facts.images],
        "responses": dict(example.responses),
        "tokens": facts.tokens,
        "flags": facts.flags,
    }
