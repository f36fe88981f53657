"""Puts `ledger.csv`, published numbers beside ours, into the page beside it: `python experiments/ledger/page.py`."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
MARKS = ("<!-- results -->", "<!-- end of results -->")
COLUMNS = (
    *("paper", "source", "model", "measure", "published", "published_judge"),
    *("command", "ours", "interval", "judge", "verdict"),
)
VERDICTS = ("not run", "reproduced", "not reproduced", "not comparable")
NOT_VERIFIED = "not verified"
NUMBER = r"\d+(\.\d+)?( %)?"
FORM = {
    "published": rf"{NUMBER}|{NOT_VERIFIED}",
    "command": r"python -m mmsafe\.[a-z]+ .+",
    "ours": NUMBER,
    "interval": rf"\[{NUMBER}, {NUMBER}\]",
}
Row = Mapping[str, str]


def main() -> None:
    page = FOLDER / "README.md"
    before, rest = page.read_text(encoding="utf-8").split(MARKS[0])
    after = rest.split(MARKS[1])[1]
    text = "\n".join(rendered(read(FOLDER / "ledger.csv")))
    page.write_text(f"{before}{MARKS[0]}\n\n{text}\n\n{MARKS[1]}{after}", encoding="utf-8")


def read(path: Path) -> list[Row]:
    """The rows; ends with one line for a row that is not of the form."""
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise SystemExit(f"{path}: the columns are not {', '.join(COLUMNS)}")
        rows = list(reader)
    for number, row in enumerate(rows, 2):
        if wrong := mistake(row):
            raise SystemExit(f"{path}, line {number}: {wrong}")
    return rows


def mistake(row: Row) -> str:
    """What is wrong with a row, or nothing."""
    was_run = row["verdict"] != "not run"
    if row["verdict"] not in VERDICTS:
        return f"verdict is none of {', '.join(VERDICTS)}"
    for name in COLUMNS:
        filled = was_run or name not in ("ours", "interval", "judge")
        if bool(row[name]) != filled:
            return f"{name} is {'empty' if filled else 'filled in a row that was not run'}"
        if filled and not re.fullmatch(FORM.get(name, ".+"), row[name]):
            return f"{name} has another form"
    if row["published"] == NOT_VERIFIED and row["verdict"] in ("reproduced", "not reproduced"):
        return "nothing can be reproduced of a number that is not verified"
    return ""


def rendered(rows: Sequence[Row]) -> Iterator[str]:
    """The table, which names commands by number, and the commands."""
    commands = list(dict.fromkeys(row["command"] for row in rows))
    shown = (
        "paper",
        "source",
        "model",
        "measure",
        "published",
        "published_judge",
        "ours",
        "interval",
        "judge",
        "verdict",
    )
    yield f"| {' | '.join(name.replace('_', ', ') for name in shown)} | command |"
    yield "|---" * (len(shown) + 1) + "|"
    for row in rows:
        yield f"| {' | '.join(row[name] or '–' for name in shown)} | {commands.index(row['command']) + 1} |"
    yield ""
    yield from (f"{number}. `{command}`" for number, command in enumerate(commands, 1))


if __name__ == "__main__":
    main()
