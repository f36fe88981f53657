"""Puts what is left of all differences of the lab book, corrected together, into its list: `experiments/book.py`."""

from __future__ import annotations

import re
from pathlib import Path

from page import MAIN, METRICS, number, paired, read, write_between_marks

from mmsafe.evaluation.multiplicity import benjamini_hochberg
from mmsafe.reporting.summary import over_seeds

BOOK = Path(__file__).parent
ROW = re.compile(r"^\| (\S[^|]*?) − ([^|]*?\S) \| ")


def tests(page: Path) -> dict[str, tuple[float, float]]:
    """Mean and p of every difference that a page shows, by main metric; contrasts are those of its tables."""
    lines = (page / "README.md").read_text(encoding="utf-8").splitlines()
    contrasts = dict.fromkeys(match.groups() for line in lines if (match := ROW.match(line)))
    rows = read(page / "results.csv")
    shown = {}
    for first, second in contrasts:
        for metric in MAIN:
            gain = over_seeds(paired(rows, first, second, metric))
            shown[f"[{page.name}]({page.name}/README.md) | {first} − {second} | {METRICS[metric]}"] = gain.mean, gain.p
    return shown


def rendered(pages: list[Path]) -> list[str]:
    """Markdown: how many differences there are, and those that Benjamini and Hochberg's correction leaves at 5 %."""
    shown = {name: test for page in pages for name, test in tests(page).items()}
    rates = dict(zip(shown, benjamini_hochberg([p for _, p in shown.values()]), strict=True))
    left = sorted((rate, name) for name, rate in rates.items() if rate < 0.05)
    lines = [f"The pages show {len(shown)} differences by a main metric; corrected together for their number "]
    lines[0] += f"(Benjamini and Hochberg, a rate of false discoveries of 5 %), {len(left) or 'none'} of them are left:"
    if left:
        lines += ["", "| page | difference | metric | mean | corrected p |", "|---|---|---|---|---|"]
    for rate, name in left:
        mean = f"{shown[name][0]:+.3f}".replace("-", "−")
        lines.append(f"| {name} | {mean} | {number(rate)} |")
    return lines


if __name__ == "__main__":
    pages = sorted(
        path.parent for path in BOOK.glob("*/results.csv") if "− " in (path.parent / "README.md").read_text()
    )
    write_between_marks(BOOK / "README.md", "\n".join(rendered(pages)))
