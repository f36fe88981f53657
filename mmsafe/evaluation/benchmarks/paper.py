"""The evaluation of the BPO paper (arXiv 2503.14189): its three benchmarks in one run, and its tables beside ours."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from mmsafe.core.declared import Metric
from mmsafe.core.errors import UserError
from mmsafe.core.options import options
from mmsafe.data.data_source import DataSource, NoData
from mmsafe.data.example import Example
from mmsafe.evaluation.benchmark import Benchmark, Bounds, Judged, Part
from mmsafe.evaluation.benchmarks.harmeval import HarmEval
from mmsafe.evaluation.benchmarks.mm_safetybench import MMSafetyBench
from mmsafe.evaluation.benchmarks.mmsafe_po_test import MMSafePOTest
from mmsafe.evaluation.paper_row import RELEASES, PaperRow
from mmsafe.evaluation.statistics import Estimate

if TYPE_CHECKING:
    from rich.table import Table

Name = Literal["mmsafe_po", "mm_safetybench", "harmeval"]


PAPER = {
    "Table 3: MMSafe-PO": MMSafePOTest.paper_rows,
    "Table 4: MM-SafetyBench and HarmEval, per cent": (*MMSafetyBench.paper_rows, *HarmEval.paper_rows),
}
HEAD = ("measure", "ours", "paper: LLaVA-1.5", "+ DPO", "+ BPO")


@options
class PaperTables(Benchmark):
    """MMSafe-PO, MM-SafetyBench and HarmEval; metrics and tags are theirs.

    Leaves `paper_tables.json` and `paper_tables.md`: the paper's numbers beside ours, and ours minus theirs.
    """

    name: ClassVar[str] = "paper"
    is_test_set: ClassVar[bool] = True
    measures: ClassVar[tuple[Metric, ...]] = (*MMSafePOTest.measures, *MMSafetyBench.measures, *HarmEval.measures)
    paper_rows: ClassVar[tuple[PaperRow, ...]] = tuple(row for rows in PAPER.values() for row in rows)
    tags: ClassVar[tuple[str, ...]] = tuple(dict.fromkeys((*MMSafePOTest.tags, *MMSafetyBench.tags, *HarmEval.tags)))
    mm_safetybench: MMSafetyBench = Field(default_factory=MMSafetyBench)
    harmeval: HarmEval = Field(default_factory=HarmEval)
    skip: list[Name] = Field(default_factory=list)
    """Parts to leave out; one that is missing is otherwise an error."""

    def check_data(self, data: DataSource) -> None:
        """MMSafe-PO is the data; the others are in their folders."""
        if "mmsafe_po" in self._parts and isinstance(data, NoData):
            raise ValueError("benchmark=paper: add data=mmsafe_po data.path=FILE, or benchmark.skip=[mmsafe_po]")
        for name, part in self._parts.items():
            with _named(name):
                part.check_data(data)

    def prompts(self, data: DataSource, part: Part) -> list[Example]:
        """Those of all parts, `{part}/{id}`."""
        found = []
        for name, benchmark in self._parts.items():
            with _named(name):
                prompts = benchmark.prompts(data, part)
            found += [replace(p, id=f"{name}/{p.id}", tags={**p.tags, "part": name}) for p in prompts]
        return found

    def dropped(self, data: DataSource, part: Part) -> dict[str, int]:
        """Of all parts."""
        found = {name: benchmark.dropped(data, part) for name, benchmark in self._parts.items()}
        return {f"{name}: {reason}": count for name, some in found.items() for reason, count in some.items()}

    def criterion(self, example: Example) -> str:
        """As the part has it."""
        return self._parts[example.tags["part"]].criterion(example)

    def pairs(self, data: DataSource, part: Part) -> list[Example]:
        """Those of MMSafe-PO."""
        return self._parts["mmsafe_po"].pairs(data, part) if "mmsafe_po" in self._parts else []

    def metrics(self, judged: Sequence[Judged]) -> Mapping[str, Estimate | None]:
        """Those of all parts, whose names are distinct."""
        return {name: value for part, rows in self._dealt(judged) for name, value in part.metrics(rows).items()}

    def bounds(self, judged: Sequence[Judged]) -> Mapping[str, Bounds]:
        """As the parts have them."""
        return {name: value for part, rows in self._dealt(judged) for name, value in part.bounds(rows).items()}

    def breakdown(self, judged: Sequence[Judged]) -> dict[str, Estimate]:
        """Each part by its own tags."""
        return {name: value for part, rows in self._dealt(judged) for name, value in part.breakdown(rows).items()}

    def report(self, metrics: Mapping[str, Any], folder: Path) -> list[Table]:
        """The paper's Tables 3 and 4 with ours, also as files."""
        from mmsafe.core.files import write_atomically, write_json

        tables = {title: [_compared(row, metrics) for row in rows] for title, rows in PAPER.items()}
        write_json(folder / "paper_tables.json", {"judge": metrics.get("eval/judge"), "tables": tables})
        write_atomically(folder / "paper_tables.md", "\n".join(_markdown(*table) for table in tables.items()))
        caption = f"in brackets: ours minus the paper's, whose judge was GPT-4V; ours: {metrics.get('eval/judge')}"
        return [_printed(title, rows, caption) for title, rows in tables.items()]

    @cached_property
    def _parts(self) -> dict[str, Benchmark]:
        parts: dict[str, Benchmark] = {"mmsafe_po": MMSafePOTest()}
        parts |= {"mm_safetybench": self.mm_safetybench, "harmeval": self.harmeval}
        return {name: part for name, part in parts.items() if name not in self.skip}

    def _dealt(self, judged: Sequence[Judged]) -> list[tuple[Benchmark, list[Judged]]]:
        return [
            (part, [row for row in judged if row.example.tags["part"] == name]) for name, part in self._parts.items()
        ]


@contextmanager
def _named(part: str) -> Iterator[None]:
    """A part's complaint names its option as it is called here, and the way to do without it."""
    try:
        yield
    except (UserError, ValueError) as error:
        text = re.sub(r"benchmark\.(path|on_bad)", rf"benchmark.{part}.\1", str(error))
        raise type(error)(f"{text}; or leave it out: benchmark.skip=[{part}]") from error


def _compared(row: PaperRow, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """`{"measure": …, "ours": …, "base": {"paper": …, "difference": …}, …}`; null where ours was not measured."""
    ours = metrics[row.metric] * row.unit if row.metric in metrics else None
    paper = {release: getattr(row, release) for release in RELEASES}
    return {
        "measure": row.measure,
        "metric": row.metric,
        "ours": ours,
        **{
            release: {"paper": value, "difference": None if ours is None else ours - value}
            for release, value in paper.items()
        },
    }


def _cells(row: Mapping[str, Any]) -> list[str]:
    digits = 4 if row["bpo"]["paper"] < 1 else 2

    def cell(paper: float, difference: float | None) -> str:
        return f"{paper:.{digits}f}" + ("" if difference is None else f" ({difference:+.{digits}f})")

    ours = "–" if row["ours"] is None else f"{row['ours']:.{digits}f}"
    return [row["measure"], ours, *(cell(**row[release]) for release in RELEASES)]


def _printed(title: str, rows: Sequence[Mapping[str, Any]], caption: str) -> Table:
    from rich.table import Table

    table = Table(title=title, caption=caption)
    for column in HEAD:
        table.add_column(column, justify="left" if column == HEAD[0] else "right")
    for row in rows:
        table.add_row(*_cells(row))
    return table


def _markdown(title: str, rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [HEAD, ("---", *["---:"] * (len(HEAD) - 1)), *map(_cells, rows)]
    return "\n".join([f"### {title}", "", *(f"| {' | '.join(line)} |" for line in lines), ""])
