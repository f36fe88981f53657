"""What a rater, a judge or a person, said of responses: `judgements.jsonl`, or a table `id,unsafe[,refused]`."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mmsafe.core.errors import UserError
from mmsafe.evaluation.stages import JUDGEMENTS

Label = Literal["yes", "no", "unknown"]
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
    responses: Mapping[str, str] = field(default_factory=dict)
    """What was rated, as a hash by id, where the file tells."""


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
                raise UserError(f"{path}: row {number}: {_reason(error)}") from error
            if "response_hash" in row:
                responses[str(row["id"])] = str(row["response_hash"])
            judges |= {str(row["judge"])} if "judge" in row else set()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); name a run folder or a file of labels") from error
    except (ValueError, TypeError, RecursionError, csv.Error) as error:
        raise UserError(f"{path}: is neither JSON lines nor a table with commas ({error})") from error
    if not labels:
        raise UserError(f"{path}: holds no labels")
    return Rater(", ".join(sorted(judges)) or path.stem, labels, responses)


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


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"there is no column {error}; needed are id and unsafe"
    return str(error)
