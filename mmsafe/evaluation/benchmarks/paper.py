"""The evaluation of the BPO paper (arXiv 2503.14189): its three benchmarks in one run, and its tables beside ours."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from mmsafe.core.options import options
from mmsafe.evaluation.benchmark import RELEASES, Benchmark, PaperRow
from mmsafe.evaluation.benchmarks.harmeval import HarmEval
from mmsafe.evaluation.benchmarks.mm_safetybench import MMSafetyBench
from mmsafe.evaluation.benchmarks.mmsafe_po_test import MMSafePOTest
from mmsafe.evaluation.benchmarks.panel import Composite

if TYPE_CHECKING:
    from rich.table import Table

PAPER = {
    "Table 3: MMSafe-PO": MMSafePOTest.paper_rows,
    "Table 4: MM-SafetyBench and HarmEval, per cent": (*MMSafetyBench.paper_rows, *HarmEval.paper_rows),
}
HEAD = ("measure", "ours", "paper: LLaVA-1.5", "+ DPO", "+ BPO")


@options
class PaperTables(Composite):
    """MMSafe-PO, MM-SafetyBench and HarmEval; metrics and tags are theirs.

    Leaves `paper_tables.json` and `paper_tables.md`: the paper's numbers beside ours, and ours minus theirs.
    """

    name = "paper"
    is_test_set = True
    advice = "; or leave it out: benchmark.skip=[{}]"
    measures = (*MMSafePOTest.measures, *MMSafetyBench.measures, *HarmEval.measures)
    paper_rows = tuple(row for rows in PAPER.values() for row in rows)
    tags = tuple(dict.fromkeys((*MMSafePOTest.tags, *MMSafetyBench.tags, *HarmEval.tags)))
    mm_safetybench: MMSafetyBench = Field(default_factory=MMSafetyBench)
    harmeval: HarmEval = Field(default_factory=HarmEval)
    skip: list[Literal["mmsafe_po", "mm_safetybench", "harmeval"]] = Field(default_factory=list)
    """Parts to leave out; one that is missing is otherwise an error."""

    @cached_property
    def parts(self) -> Mapping[str, Benchmark]:
        """MMSafe-PO is the data; the others are in their folders."""
        parts = {"mmsafe_po": MMSafePOTest(), "mm_safetybench": self.mm_safetybench, "harmeval": self.harmeval}
        return {name: part for name, part in parts.items() if name not in self.skip}

    def report(self, metrics: Mapping[str, Any], folder: Path) -> list[Table]:
        """The paper's Tables 3 and 4 with ours, also as files."""
        from rich.table import Table

        from mmsafe.core.files import write_atomically, write_json

        compared = {title: [_compared(row, metrics) for row in rows] for title, rows in PAPER.items()}
        write_json(folder / "paper_tables.json", {"judge": metrics.get("eval/judge"), "tables": compared})
        caption = f"in brackets: ours minus the paper's, whose judge was GPT-4V; ours: {metrics.get('eval/judge')}"
        tables, lines = [], []
        for title, rows in compared.items():
            table = Table(HEAD[0], title=title, caption=caption)
            for column in HEAD[1:]:
                table.add_column(column, justify="right")
            cells = [_cells(row) for row in rows]
            for row_cells in cells:
                table.add_row(*row_cells)
            tables.append(table)
            grid = [HEAD, ("---", *["---:"] * (len(HEAD) - 1)), *cells]
            lines += [f"### {title}", "", *(f"| {' | '.join(line)} |" for line in grid), ""]
        write_atomically(folder / "paper_tables.md", "\n".join(lines))
        return tables


def _compared(row: PaperRow, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """`{"measure": …, "ours": …, "base": {"paper": …, "difference": …}, …}`; null where ours was not measured."""
    ours = metrics[row.metric] * row.unit if row.metric in metrics else None
    compared: dict[str, Any] = {"measure": row.measure, "metric": row.metric, "ours": ours}
    for release in RELEASES:
        paper = getattr(row, release)
        compared[release] = {"paper": paper, "difference": None if ours is None else ours - paper}
    return compared


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    digits = 4 if row["bpo"]["paper"] < 1 else 2

    def cell(paper: float, difference: float | None) -> str:
        return f"{paper:.{digits}f}" + ("" if difference is None else f" ({difference:+.{digits}f})")

    ours = "–" if row["ours"] is None else f"{row['ours']:.{digits}f}"
    return (row["measure"], ours, *(cell(**row[release]) for release in RELEASES))
