"""What raters, judges or people, said of responses, and how far two of them agree beyond chance.

Labels are read from `judgements.jsonl`, or from a table `id,unsafe[,refused]`.
"""

import csv
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from mmsafe.core.errors import UserError
from mmsafe.evaluation.stages import JUDGEMENTS
from mmsafe.evaluation.statistics import CONFIDENCE, Estimate, kappa, rate

Label = Literal["yes", "no", "unknown"]
LABELS: tuple[Label, ...] = ("yes", "no", "unknown")
FIELDS = ("unsafe", "refused")
WORDS: dict[str, Label] = {
    **dict.fromkeys(("1", "true", "yes"), "yes"),
    **dict.fromkeys(("0", "false", "no"), "no"),
    **dict.fromkeys(("", "none", "unknown"), "unknown"),
}
"""How labels are written, in any case."""


@dataclass(frozen=True)
class Rater:
    """The labels of one rater."""

    name: str
    labels: Mapping[str, Mapping[str, Label]]
    """By field, then by id; `refused` is missing where it was not asked."""
    responses: Mapping[str, str]
    """What was rated, as a hash by id, where the file tells."""
    is_judge: bool = False
    """Whether the file says who judged; else the labels are a person's."""


def read_rater(path: Path) -> Rater:
    """The labels in a run folder, in a JSONL file or in a CSV file; raises `UserError` naming the row that is bad."""
    path = path / JUDGEMENTS if path.is_dir() else path
    labels: dict[str, dict[str, Label]] = {}
    responses, judges = {}, set()
    try:
        for number, row in enumerate(_rows(path), 1):
            try:
                _add(row, labels)
            except (KeyError, ValueError, TypeError) as error:
                why = f"there is no column {error}; needed are id and unsafe" if isinstance(error, KeyError) else error
                raise UserError(f"{path}: row {number}: {why}") from error
            if "response_hash" in row:
                responses[str(row["id"])] = str(row["response_hash"])
            judges |= {str(row["judge"])} if "judge" in row else set()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); name a run folder or a file of labels") from error
    except (ValueError, TypeError, RecursionError, csv.Error) as error:
        raise UserError(f"{path}: is neither JSON lines nor a table with commas ({error})") from error
    if not labels:
        raise UserError(f"{path}: holds no labels")
    return Rater(", ".join(sorted(judges)) or path.stem, labels, responses, bool(judges))


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8-sig", newline="") as file:  # a spreadsheet begins a file with a mark
        if path.suffix.lower() == ".csv":
            yield from csv.DictReader(file, restkey="too many cells", restval="(no cell)", strict=True)
        else:
            yield from (dict(json.loads(line)) for line in file)


def _add(row: Mapping[str, Any], labels: dict[str, dict[str, Label]]) -> None:
    if "too many cells" in row:
        raise ValueError("has more cells than columns")
    key, unsure = str(row["id"]), _label(row.get("unknown", False)) == "yes"
    for name in FIELDS if "refused" in row else FIELDS[:1]:
        by_id = labels.setdefault(name, {})
        if key in by_id:
            raise ValueError(f"id {key} stands there twice")
        by_id[key] = "unknown" if unsure else _label(row[name])


def _label(value: Any) -> Label:
    word = str(value).strip().lower()
    if word not in WORDS:
        raise ValueError(f"'{word:.20}' is neither yes, no nor unknown")
    return WORDS[word]


@dataclass(frozen=True)
class Agreement:
    """Of two raters on one question."""

    share: Estimate | None
    """Of responses that both label alike; None without any."""
    kappa: Estimate | None
    """Cohen's κ; None where all labels are the same."""
    table: Mapping[Label, Mapping[Label, int]]
    """Counts by the label of the first, then of the second."""


@dataclass(frozen=True)
class RaterPair:
    """Two raters on the responses that both rated."""

    first: str
    second: str
    rated: int
    """By both."""
    only_first: int
    only_second: int
    with_unknown: Mapping[str, Agreement]
    """By field; unknown is a label as the others are."""
    without_unknown: Mapping[str, Agreement]
    """By field, over responses that neither found unknown."""
    disagreements: Sequence[Mapping[str, str]]
    """Id, field and both labels."""
    calibration: Mapping[str, Mapping[str, Estimate | None]]
    """By field, where one is a judge and the other a person; what the judge cannot tell counts as yes."""

    def as_json(self) -> dict[str, Any]:
        """For `agreement.json`; disagreements have a file of their own."""
        return {**asdict(self), "disagreements": len(self.disagreements)}


def agree(first: Rater, second: Rater) -> RaterPair:
    """Compare them on what both rated; raises `UserError` if that is nothing, or if they rated different responses."""
    rated, others = first.labels["unsafe"], second.labels["unsafe"]
    ids = [i for i in rated if i in others]
    if not ids:
        raise UserError(f"{first.name} and {second.name} rated nothing in common: no id is in both files")
    known = [i for i in ids if i in first.responses and i in second.responses]
    if other := [i for i in known if first.responses[i] != second.responses[i]]:
        raise UserError(
            f"{first.name} and {second.name} rated other responses to {len(other)} prompts such as {other[0]}; "
            "judge the same generations.jsonl with both"
        )
    fields = [name for name in FIELDS if name in first.labels and name in second.labels]
    labels = {name: [(first.labels[name][i], second.labels[name][i]) for i in ids] for name in fields}
    known_labels = {name: [both for both in pairs if "unknown" not in both] for name, pairs in labels.items()}
    judge, person = (first.labels, second.labels) if first.is_judge else (second.labels, first.labels)
    return RaterPair(
        first=first.name,
        second=second.name,
        rated=len(ids),
        only_first=len(rated) - len(ids),
        only_second=len(others) - len(ids),
        with_unknown={name: _agreement(pairs) for name, pairs in labels.items()},
        without_unknown={name: _agreement(pairs) for name, pairs in known_labels.items()},
        disagreements=[
            {"id": i, "field": name, first.name: a, second.name: b}
            for name, pairs in labels.items()
            for i, (a, b) in zip(ids, pairs, strict=True)
            if a != b
        ],
        calibration={
            name: calibrated(
                [(judge[name][i] != "no", person[name][i] == "yes") for i in ids if person[name][i] != "unknown"],
                [label != "no" for label in judge[name].values()],
            )
            for name in (fields if first.is_judge != second.is_judge else ())
        },
    )


def _agreement(labels: Sequence[tuple[Label, Label]]) -> Agreement:
    counts = Counter(labels)
    return Agreement(
        share=rate([a == b for a, b in labels]),
        kappa=kappa([a for a, _ in labels], [b for _, b in labels]),
        table={a: {b: counts[a, b] for b in LABELS} for a in LABELS},
    )


def calibrated(labelled: Sequence[tuple[bool, bool]], judged: Sequence[bool]) -> dict[str, Estimate | None]:
    """From the judge's and people's labels of a random sample of what was `judged`.

    sensitivity, specificity: share of what people call unsafe, or safe, that the judge calls so; None where nothing is.
    rate: of all that was judged, as the judge has it.
    corrected: as by Rogan and Gladen (1978), clipped to 0 … 1, with the 95 % interval of Lang and Reiczigel (2014), for
    which the others are uncertain, too, and from samples of their own: of a sample of what was judged, it is a little
    too wide. None where the judge is no better than chance.
    """
    sensitivity = rate([judge for judge, truth in labelled if truth])
    specificity = rate([not judge for judge, truth in labelled if not truth])
    apparent = rate(judged)
    corrected = apparent and _corrected(apparent, sensitivity, specificity)
    return {"sensitivity": sensitivity, "specificity": specificity, "rate": apparent, "corrected": corrected}


def _corrected(apparent: Estimate, sensitivity: Estimate | None, specificity: Estimate | None) -> Estimate | None:
    from scipy.stats import norm

    if sensitivity is None or specificity is None or sensitivity.value + specificity.value <= 1:
        return None
    z = float(norm.ppf(0.5 + CONFIDENCE / 2))
    value = (apparent.value + specificity.value - 1) / (sensitivity.value + specificity.value - 1)
    (p, n), (se, n_se), (sp, n_sp) = _with(apparent, z**2), _with(sensitivity, 2), _with(specificity, 2)
    low, high = 0.0, 1.0
    if se + sp > 1:  # else of so few labels that nothing is known
        centre = (p + sp - 1) / (se + sp - 1)
        by_se, by_sp = se * (1 - se) / n_se, sp * (1 - sp) / n_sp
        half = z * (p * (1 - p) / n + centre**2 * by_se + (1 - centre) ** 2 * by_sp) ** 0.5 / (se + sp - 1)
        centre += 2 * z**2 * (centre * by_se - (1 - centre) * by_sp)
        low, high = centre - half, centre + half
    value, low, high = (min(1.0, max(0.0, share)) for share in (value, low, high))
    return Estimate(value, low, high, apparent.n)


def _with(share: Estimate, more: float) -> tuple[float, float]:
    """The share and its number of observations with `more` of them, half of which are true."""
    return (share.value * share.n + more / 2) / (share.n + more), share.n + more
