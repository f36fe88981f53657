"""Responses that the reference model makes: blind (arXiv 2503.14189), or beside a spoilt image (2403.08730)."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from mmsafe.core.errors import UserError
from mmsafe.core.settings import Generation, Lengths
from mmsafe.data.corruption import Corruption
from mmsafe.data.example import Example, digest
from mmsafe.generation.generate import Response
from mmsafe.generation.matching import Tells, matching, samples_of
from mmsafe.models.vlm import VLM
from mmsafe.objectives.base import Objective, ScoredRow
from mmsafe.scoring.collate import view
from mmsafe.scoring.lengths import fitting, tell

log = logging.getLogger(__name__)
BLIND = "blind"
SHOWN = {BLIND: "none", "weakened": "corrupted"}
"""Columns that can be made, and the view of the image beside which the reference makes them."""
LABELS = {"none": "blind", "corrupted": "weakened", "real": "sighted", "other": "other-image"}


@dataclass(frozen=True)
class Others:
    """Rows that lend one another images and prompts: fixed by a seed, and never such as are equal to a row's own."""

    rows: Sequence[Example]
    seed: int

    def prompt(self, example: Example) -> Example:
        """The example with turns and images of a row that says something else."""
        texts = [turn.text for turn in example.turns]
        other = self._row("prompt", example, lambda row: [turn.text for turn in row.turns] != texts)
        return replace(example, turns=other.turns, images=other.images)

    def images(self, example: Example, shown: Example) -> Example:
        """`shown` beside the images of a row that has none of its own and none of `example`, but as many."""
        if not shown.images:
            return shown
        avoided, count = {image.key for image in (*example.images, *shown.images)}, len(shown.images)
        other = self._row(
            "image_view",
            example,
            lambda row: len(row.images) == count and avoided.isdisjoint(i.key for i in row.images),
        )
        return replace(shown, images=other.images)

    def _row(self, option: str, example: Example, fits: Callable[[Example], bool]) -> Example:
        start = int(digest([self.seed, option, example.prompt_key()])[:15], 16)
        for step in range(len(self.rows)):
            if fits(row := self.rows[(start + step) % len(self.rows)]):
                return row
        raise UserError(f"generation.{option}=other: none of {len(self.rows)} rows has another for {example.id}")


def with_generated_responses(
    vlm: VLM,
    examples: Sequence[Example],
    columns: Collection[str],
    settings: Generation,
    corruption: Corruption | None = None,
    tells: Tells | None = None,
) -> list[Example]:
    """Every example with the generated ones among `columns`; a response that a row brought itself is used as it is.

    An example that lacks one becomes `settings.num_return_sequences` examples, which differ in what was sampled and in
    their ids: `id`, `id#2`, … `corruption` makes the corrupted view. What does not match, by what the
    judge `tells`, is sampled again; an example that lacks some in the end becomes fewer, or none, which is counted.
    """
    if settings.match and tells is None:
        raise UserError(f"generation.match={settings.match}: needs a judge, which mmsafe.train and mmsafe.blind have")
    rows, label = to_sample(columns, settings)
    lacking = [(i, row) for i, example in enumerate(examples) for row in rows if row.response not in example.responses]
    if not rows:
        return list(examples)
    others = Others(examples, settings.seed)

    def shown(view: str | None = None) -> list[Example]:
        return [
            _prompt_for(examples[i], ScoredRow(row.response, view or row.image), settings, others, corruption)
            for i, row in lacking
        ]

    if tells is None:
        samples = samples_of(vlm, shown(), settings, label)
    else:
        samples = matching(vlm, [examples[i] for i, _ in lacking], shown, settings, label, tells)
    made: dict[int, dict[str, Sequence[Response]]] = defaultdict(dict)
    for (i, row), of_row in zip(lacking, samples, strict=True):
        made[i][row.response] = of_row
    log.info(
        "%s: %d from the rows themselves, %d cut at %d tokens, %d empty",
        label,
        len(examples) * len(rows) - len(lacking),
        sum(not response.finished for of_row in samples for response in of_row),
        settings.max_new_tokens,
        sum(not response.text for of_row in samples for response in of_row),
    )
    mark = _mark(examples)
    numbers = ["", *(f"{mark}{number}" for number in range(2, settings.num_return_sequences + 1))]
    copies = {i: _copies(examples[i], of_example, numbers) for i, of_example in made.items()}
    kept = [copy for i, example in enumerate(examples) for copy in copies.get(i, [example])]
    if tells is not None:
        count, what = unmatched(examples, kept), f"generation.match={settings.match} in {settings.tries} tries"
        log.info("%s: %d of %d examples have none for %s, and are dropped", label, count, len(examples), what)
        if not kept:
            raise UserError(f"{label}: no example has one for {what}; raise generation.tries")
    return kept


def to_sample(columns: Collection[str], settings: Generation) -> tuple[list[ScoredRow], str]:
    """The generated responses among `columns`, each with its view of the image, and what they are called."""
    chosen = settings.image_view
    rows = [ScoredRow(name, usual if chosen == "auto" else chosen) for name, usual in SHOWN.items() if name in columns]
    label = " and ".join(dict.fromkeys(LABELS[row.image] for row in rows)) + " responses"
    return rows, label + " to other prompts" * (settings.prompt == "other")


def unmatched(before: Sequence[Example], after: Sequence[Example]) -> int:
    """How many examples were dropped; the first copy of any other has its id."""
    return len({example.id for example in before} - {example.id for example in after})


def with_all_responses(
    vlm: VLM,
    examples: Sequence[Example],
    objective: Objective,
    settings: Generation,
    corruption: Corruption,
    rule: Lengths,
    tells: Tells | None = None,
) -> tuple[list[Example], dict[str, int]]:
    """The examples that `objective` can be trained on, with all that it reads; what `fitting` counted, and `unmatched`.

    The last only with `tells`. An example that is too long already is dropped before anything is generated.
    """
    encoder, names = vlm.encoder(), objective.responses
    short, early = fitting(examples, encoder, names, rule)
    made = with_generated_responses(vlm, short, names, settings, corruption, tells)
    kept, report = fitting(made, encoder, names, rule, objective.groups)
    report["dropped"] += early["dropped"]
    tell(report, rule)
    return kept, report | ({} if tells is None else {"unmatched": unmatched(short, made)})


def _prompt_for(
    example: Example, row: ScoredRow, settings: Generation, others: Others, corruption: Corruption | None
) -> Example:
    """What the reference is shown in place of the example."""
    shown = others.prompt(example) if settings.prompt == "other" else example
    return others.images(example, shown) if row.image == "other" else view(shown, row, corruption)


def _copies(example: Example, made: Mapping[str, Sequence[Response]], numbers: Sequence[str]) -> list[Example]:
    """The example once for each of the responses that were made for it."""
    copies = []
    for number, *sampled in zip(numbers, *made.values(), strict=False):  # the judge may have taken fewer
        copy = replace(example, id=example.id + number)
        for column, response in zip(made, sampled, strict=True):
            copy = with_response(copy, column, response)
        copies.append(copy)
    return copies


def _mark(examples: Sequence[Example]) -> str:
    """What stands between id and number: no id holds it, so no two examples share an id that did not before."""
    mark = "#"
    while any(mark in example.id for example in examples):
        mark += "#"
    return mark


def with_response(example: Example, column: str, response: Response) -> Example:
    """The example with a response under this name, and whether it was cut."""
    cut = example.cut if response.finished else example.cut | {column}
    return replace(example.with_responses(**{column: response.text}), cut=cut)
