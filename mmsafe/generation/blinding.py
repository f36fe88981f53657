"""Responses that the reference model makes: blind (arXiv 2503.14189), or beside a spoilt image (2403.08730)."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import replace

from mmsafe.core.settings import Generation, Lengths
from mmsafe.data.corruption import Corruption
from mmsafe.data.example import Example
from mmsafe.generation.generate import Response
from mmsafe.generation.responses import responses
from mmsafe.models.vlm import VLM
from mmsafe.objectives.base import Objective, ScoredRow
from mmsafe.scoring.collate import view
from mmsafe.scoring.lengths import fitting, tell

log = logging.getLogger(__name__)
BLIND = "blind"
SHOWN = {BLIND: "none", "weakened": "corrupted"}
"""Columns that can be made, and the view of the image beside which the reference makes them."""
LABELS = {"none": "blind", "corrupted": "weakened", "real": "sighted"}


def with_generated_responses(
    vlm: VLM,
    examples: Sequence[Example],
    columns: Collection[str],
    settings: Generation,
    corruption: Corruption | None = None,
) -> list[Example]:
    """Every example with the generated ones among `columns`; a response that a row brought itself is used as it is.

    An example that lacks one becomes `settings.num_return_sequences` examples, which differ in what was sampled and in
    their ids: `id`, `id#2`, … `corruption` makes the corrupted view.
    """
    chosen = settings.image_view
    rows = [ScoredRow(name, own if chosen == "auto" else chosen) for name, own in SHOWN.items() if name in columns]
    lacking = [(i, row) for i, example in enumerate(examples) for row in rows if row.response not in example.responses]
    if not rows:
        return list(examples)
    label = " and ".join(dict.fromkeys(LABELS[row.image] for row in rows)) + " responses"
    samples = settings.num_return_sequences
    # Sample after sample, so that the first of every prompt is the same however many follow.
    made = responses(vlm, [view(examples[i], row, corruption) for i, row in lacking] * samples, settings, label)
    mark = _mark(examples)
    numbers = ["", *(f"{mark}{number}" for number in range(2, samples + 1))]
    copies = {i: [replace(examples[i], id=examples[i].id + number) for number in numbers] for i, _ in lacking}
    for number, response in enumerate(made):
        sample, place = divmod(number, len(lacking))
        i, row = lacking[place]
        copies[i][sample] = _with(copies[i][sample], row.response, response)
    log.info(
        "%s: %d from the rows themselves, %d cut at %d tokens, %d empty",
        label,
        len(examples) * len(rows) - len(lacking),
        sum(not response.finished for response in made),
        settings.max_new_tokens,
        sum(not response.text for response in made),
    )
    return [copy for i, example in enumerate(examples) for copy in copies.get(i, [example])]


def with_all_responses(
    vlm: VLM,
    examples: Sequence[Example],
    objective: Objective,
    settings: Generation,
    corruption: Corruption,
    rule: Lengths,
) -> tuple[list[Example], dict[str, int]]:
    """The examples that `objective` can be trained on, with all that it reads, and what `fitting` counted.

    An example that is too long already is dropped before anything is generated for it.
    """
    encoder, names = vlm.encoder(), objective.responses
    short, early = fitting(examples, encoder, names, rule)
    made = with_generated_responses(vlm, short, names, settings, corruption)
    kept, report = fitting(made, encoder, names, rule, objective.groups)
    report["dropped"] += early["dropped"]
    tell(report, rule)
    return kept, report


def _mark(examples: Sequence[Example]) -> str:
    """What stands between id and number: no id holds it, so no two examples share an id that did not before."""
    mark = "#"
    while any(mark in example.id for example in examples):
        mark += "#"
    return mark


def _with(example: Example, column: str, response: Response) -> Example:
    cut = example.cut if response.finished else example.cut | {column}
    return replace(example.with_responses(**{column: response.text}), cut=cut)
