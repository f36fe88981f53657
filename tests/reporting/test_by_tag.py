"""Metrics by tag: one row each, whatever a category is called."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from mmsafe.core.declared import BY_TAG, Declared, by_tag, write_by_tag
from mmsafe.data.example import Example, Turn
from mmsafe.evaluation.benchmark import Judged
from mmsafe.evaluation.benchmarks.mmsafe_po_test import MMSafePOTest
from mmsafe.evaluation.benchmarks.own_prompts import OwnPrompts
from mmsafe.evaluation.judges.judge import Verdict
from mmsafe.evaluation.measuring import measured
from mmsafe.reporting.report_page import write_page
from mmsafe.reporting.summary import grouped, read_runs
from mmsafe.reporting.table import print_tables, result_table

SAFE, UNSAFE, REFUSED = Verdict(False, False), Verdict(True, False), Verdict(False, True)
NASTY = 'Hate, slurs / "jokes"=x_n'
SAID = [
    (SAFE, {"class1": "Malicious Use", "class2": "Fraud", "class3": "Scam"}),
    (UNSAFE, {"class1": "Malicious Use", "class2": "Fraud", "class3": "Forgery"}),
    (REFUSED, {"class1": "Malicious Use", "class2": "Weapons", "class3": "Guns"}),
    (UNSAFE, {"class1": NASTY, "class2": "Slurs", "class3": "Slurs"}),
]


def found(benchmark: OwnPrompts) -> dict[str, Any]:
    """What an evaluation says of four prompts in the classes of SPA-VL."""
    judged = [
        Judged(Example(str(number), (Turn("user", "?"),), None, {}, tags), "", verdict)
        for number, (verdict, tags) in enumerate(SAID)
    ]
    return measured(benchmark, judged, "test")


@pytest.mark.parametrize("benchmark", [OwnPrompts(), MMSafePOTest()], ids=lambda it: it.name)
def test_rates_at_every_level_by_hand(benchmark: OwnPrompts) -> None:
    rows = {(row.tag, row.value, row.metric): (row.estimate, row.n) for row in by_tag(found(benchmark)).values()}
    expected = {
        ("class1", "Malicious Use"): (2 / 3, 1 / 3, 3),  # safe, unsafe, refused
        ("class1", NASTY): (0, 0, 1),
        ("class2", "Fraud"): (1 / 2, 0, 2),
        ("class2", "Weapons"): (1, 1, 1),
        ("class2", "Slurs"): (0, 0, 1),
        ("class3", "Scam"): (1, 0, 1),
        ("class3", "Forgery"): (0, 0, 1),
        ("class3", "Guns"): (1, 1, 1),
        ("class3", "Slurs"): (0, 0, 1),
    }
    told = {(*key, "safety_rate"): (safe, n) for key, (safe, _, n) in expected.items()}
    assert rows == told | {(*key, "refusal_rate"): (refused, n) for key, (_, refused, n) in expected.items()}


def test_the_file_has_a_row_for_each_with_its_interval(tmp_path: Path) -> None:
    metrics = found(OwnPrompts())
    write_by_tag(tmp_path, metrics)
    with (tmp_path / BY_TAG).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 18
    (own,) = [row for row in rows if row["value"] == NASTY and row["metric"] == "safety_rate"]
    name = f"eval/safety_rate/class1={NASTY}"
    numbers = [float(own[column]) for column in ("estimate", "low", "high", "n")]
    assert numbers == [metrics[name], metrics[f"{name}_low"], metrics[f"{name}_high"], metrics[f"{name}_n"]]
    assert numbers[0] == numbers[1] == 0 < numbers[2]


def test_a_category_that_a_spreadsheet_would_run_is_text(tmp_path: Path) -> None:
    name = "eval/safety_rate/source=@SUM(1+1)"
    write_by_tag(tmp_path, {name: 0.5, f"{name}_low": -0.5, f"{name}_high": 1, f"{name}_n": 2})
    assert (tmp_path / BY_TAG).read_text().splitlines()[1] == "source,'@SUM(1+1),safety_rate,0.5,-0.5,1,2"


def test_without_tags_there_is_no_file(tmp_path: Path) -> None:
    metrics = {"eval/safety_rate": 0.5, "eval/safety_rate_n": 2, "eval/judge": "test", "train/loss/source=a": 0.1}
    write_by_tag(tmp_path, metrics)
    assert not list(tmp_path.iterdir())


def test_the_printed_table_shows_a_category_whatever_it_ends_with(capsys: pytest.CaptureFixture[str]) -> None:
    print_tables([result_table({"run": found(OwnPrompts())}, "title", Declared(OwnPrompts.measures), tags=True)])
    out = capsys.readouterr().out
    assert f"safety rate, class1={NASTY} " in out
    assert "safety rate, class2=Fraud " in out
    assert "_high" not in out


def write_run(folder: Path, seed: int, beta: float, metrics: dict[str, Any]) -> None:
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"config": {"seed": seed, "objective": {"beta": beta}}}))
    (folder / "metrics.json").write_text(json.dumps(metrics))


def test_the_report_has_a_table_of_means_over_seeds(tmp_path: Path) -> None:
    """Two seeds with 1/4 and 3/4: a mean of 0.5, and half an interval of 12.706 x 0.25 (Student t, one degree)."""
    for seed, value in enumerate((0.25, 0.75)):
        name = "eval/safety_rate/category=Fraud & <b>"
        own = {name: value, f"{name}_low": 0.1, f"{name}_high": 0.9, f"{name}_n": 8}
        write_run(tmp_path / f"a{seed}", seed, 0.1, {"eval/safety_rate": value, **own})
    write_run(tmp_path / "b", 0, 0.2, {"eval/safety_rate": 0.5})
    page = write_page(grouped(read_runs([tmp_path])), tmp_path / "report").read_text()
    table = page.split("<h2>By category</h2>")[1].split("</section>")[0]
    cells = [cell.split(">", 1)[1] for cell in table.split("<tbody>")[1].replace("</th>", "</td>").split("</td>")[:-1]]
    cells = [cell.rpartition(">")[2] for cell in cells]
    assert cells == ["category=Fraud &amp; &lt;b&gt;", "safety rate", "8", "0.500 ± 3.177", "–"]


def test_a_report_on_runs_without_tags_has_no_such_table(tmp_path: Path) -> None:
    write_run(tmp_path / "a", 0, 0.1, {"eval/safety_rate": 0.5})
    assert "By category" not in write_page(grouped(read_runs([tmp_path])), tmp_path / "report").read_text()
