"""Result tables and metrics by tag: dashes where nothing was measured, names as they are, whatever they are."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
from rich.text import Text

from mmsafe.core.declared import BY_TAG, Declared, Metric, by_tag, together, undeclared, write_by_tag
from mmsafe.data.example import Example, Turn
from mmsafe.evaluation.benchmark import Judged
from mmsafe.evaluation.benchmarks.mmsafe_po_test import MMSafePOTest
from mmsafe.evaluation.benchmarks.own_prompts import OwnPrompts
from mmsafe.evaluation.judges.judge import Verdict
from mmsafe.evaluation.judges.keywords import Keywords
from mmsafe.evaluation.measuring import declaration, measured
from mmsafe.microworld.rule_judge import Rules
from mmsafe.microworld.scene_benchmark import MicroWorldTest
from mmsafe.reporting.report_page import means, write_page
from mmsafe.reporting.result_charts import by_group
from mmsafe.reporting.summary import Run, grouped, read_runs
from mmsafe.reporting.table import headline, print_tables, result_table

DECLARED = Declared(MicroWorldTest.measures, {judge.name: judge.evidence for judge in (Rules, Keywords)})
SAFE, UNSAFE, REFUSED = Verdict(False, False), Verdict(True, False), Verdict(False, True)
NASTY = 'Hate, slurs / "jokes"=x_n'
SAID = [
    (SAFE, {"class1": "Malicious Use", "class2": "Fraud", "class3": "Scam"}),
    (UNSAFE, {"class1": "Malicious Use", "class2": "Fraud", "class3": "Forgery"}),
    (REFUSED, {"class1": "Malicious Use", "class2": "Weapons", "class3": "Guns"}),
    (UNSAFE, {"class1": NASTY, "class2": "Slurs", "class3": "Slurs"}),
]


def metrics(judge: str = "rules", **values: float) -> dict[str, Any]:
    found: dict[str, Any] = {"eval/judge": judge}
    for name, value in values.items():
        key = f"eval/{name.replace('__', '/cue=')}"
        found |= {key: value, f"{key}_low": value - 0.125, f"{key}_high": value + 0.125, f"{key}_n": 10}
    return found


def printed(capsys: pytest.CaptureFixture[str], runs: dict[str, Any], title: str = "title", **options: bool) -> str:
    print_tables([result_table(runs, title, DECLARED, **options)])
    return capsys.readouterr().out


def cells(text: str) -> dict[str, list[str]]:
    """Row label → its cells."""
    lines = [line.strip("│┃").replace("┃", "│").split("│") for line in text.splitlines() if line[:1] in ("│", "┃")]
    return {label.strip(): [value.strip() for value in values] for label, *values in lines}


def test_values_intervals_and_dashes(capsys: pytest.CaptureFixture[str]) -> None:
    unbounded = {"eval/image_gap": 1.0, "eval/image_gap_low": float("-inf"), "eval/image_gap_high": float("inf")}
    runs = {"bpo": metrics(safety_rate=0.5, image_gap=-0.25), "dpo": metrics(safety_rate=0.75), "other": unbounded}
    assert cells(printed(capsys, runs)) == {
        "metric": ["bpo", "dpo", "other"],
        "safety rate": ["0.500 [0.375, 0.625]", "0.750 [0.625, 0.875]", "–"],
        "image gap": ["-0.250 [-0.375, -0.125]", "–", "1.000 [-inf, inf]"],
    }
    assert set(cells(printed(capsys, {"one": {}, "two": {"train/loss": 0.5}}))) == {"metric"}
    assert set(cells(printed(capsys, {}))) == {"metric"}


def test_tags_are_shown_when_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    runs = {
        "a": metrics(safety_rate=0.5, safety_rate__friendly=0.25, over_refusal_rate__friendly=0.5),
        "b": metrics(safety_rate__suspicious=0.75),
    }
    assert set(cells(printed(capsys, runs))) == {"metric", "safety rate"}
    assert cells(printed(capsys, runs, tags=True)) == {
        "metric": ["a", "b"],
        "safety rate": ["0.500 [0.375, 0.625]", "–"],
        "safety rate, cue=friendly": ["0.250 [0.125, 0.375]", "–"],
        "safety rate, cue=suspicious": ["–", "0.750 [0.625, 0.875]"],
        "over-refusal, cue=friendly": ["0.500 [0.375, 0.625]", "–"],
    }


@pytest.mark.parametrize("name", ["[bold]x[/bold]", "[/]", "[/red] y", "[seed=0]", "a[0]", "[link=http://x]z[/link]"])
def test_markup_in_names_and_titles_is_plain_text(capsys: pytest.CaptureFixture[str], name: str) -> None:
    """`mmsafe.evaluate` takes the checkpoint's path for the title."""
    tagged = {f"eval/safety_rate/entity_type={name}{end}": 0.5 for end in ("", "_low", "_high", "_n")}
    text = printed(capsys, {name: metrics(safety_rate=0.5) | tagged}, f"runs/{name}/model", tags=True)
    assert cells(text)["metric"] == [name]
    assert f"safety rate, entity_type={name}" in cells(text)
    assert f"runs/{name}/model" in text


def test_the_judge_is_named_and_keywords_are_no_safety_judge(capsys: pytest.CaptureFixture[str]) -> None:
    exact = " ".join(printed(capsys, {"a": metrics(safety_rate=0.5)}).split())
    assert "judge: rules" in exact
    assert "not a safety judge" not in exact
    both = {"a": metrics(safety_rate=0.5), "b": metrics("keywords", safety_rate=0.5)}
    weak = " ".join(printed(capsys, both).split())
    assert "keywords (a list of refusal phrases, not a safety judge), rules (exact)" in weak
    assert "judge" not in printed(capsys, {"a": {}})


def test_no_judge_is_named_where_none_judged(tmp_path: Path) -> None:
    """Pairwise accuracy compares log-probs: tables, figures, the page and the file of such metrics name no judge."""
    declared = declaration(MicroWorldTest(), {"rules": "exact"}, {"eval/pairwise_accuracy": 0.5})
    pairs = metrics(pairwise_accuracy=0.5, pairwise_accuracy__friendly=0.25, pairwise_accuracy_per_token__friendly=0.5)
    both = pairs | metrics(safety_rate=0.5, safety_rate__friendly=0.5)
    assert [result_table({"a": run}, "", declared).caption for run in (pairs, both)] == [
        Text("95 % intervals in brackets"),
        Text("95 % intervals in brackets · judge: rules (exact)"),
    ]
    groups = {"a": [Run(tmp_path / "a", {}, both, declared=declared)]}
    assert {drawn.name: drawn.note for drawn in by_group(groups)} == {
        "result-pairwise_accuracy": "",
        "result-safety_rate": "judge: rules (exact)",
    }
    unjudged = Run(tmp_path / "b", {}, pairs, declared=declared)
    assert [cell.text for row in means({**groups, "b": [unjudged]}).rows for cell in row[:3:2]] == [
        "a",
        "rules",
        "b",
        "–",
    ]
    write_by_tag(tmp_path, both, declared)
    with (tmp_path / BY_TAG).open(newline="") as file:
        judges = {row["metric"]: row["judge"] for row in csv.DictReader(file)}
    assert judges == {"pairwise_accuracy": "", "pairwise_accuracy_per_token": "", "safety_rate": "rules"}


def test_nothing_is_cut_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    runs = {f"objective=bpo lr=1e-{i}": metrics(safety_rate=0.5) for i in range(4)}
    assert cells(printed(capsys, runs))["metric"] == list(runs)


def test_what_is_shown_is_what_is_declared_or_of_an_earlier_version_its_names() -> None:
    old = metrics(safety_rate=0.5, safety_rate__friendly=0.25, big_n=0.75) | {"train/loss": 1.0}
    assert headline(old, DECLARED) == {"eval/safety_rate": 0.5}
    assert [(metric.key, metric.label) for metric in undeclared(old).measured([old])] == [
        ("eval/safety_rate", "safety rate"),
        ("eval/big_n", "big n"),
    ]
    both = together([DECLARED, Declared((Metric("mine", "my rate"), Metric("safety_rate", "another word")))])
    assert [it.label for it in both.measured([metrics(mine=0.5, safety_rate=0.5)])] == ["safety rate", "my rate"]


@pytest.mark.parametrize(("better", "score"), [("higher", 0.25), ("lower", -0.25)])
def test_more_is_better_of_a_score_whatever_way_its_metric_goes(better: Any, score: float) -> None:
    declared = Declared((Metric("other", "other"), Metric("mine", "my rate", better, is_score=True)))
    assert declared.score(metrics(mine=0.25, other=0.5)) == ("eval/mine", score)
    assert declared.score(metrics(other=0.5)) is None


def tagged(benchmark: OwnPrompts) -> dict[str, Any]:
    """What an evaluation says of four prompts in the classes of SPA-VL."""
    judged = [
        Judged(Example(str(number), (Turn("user", "?"),), (), {}, tags), "", verdict)
        for number, (verdict, tags) in enumerate(SAID)
    ]
    return measured(benchmark, judged, "test")


@pytest.mark.parametrize("benchmark", [OwnPrompts(), MMSafePOTest()], ids=lambda it: it.name)
def test_rates_at_every_level_by_hand(benchmark: OwnPrompts) -> None:
    rows = {(row.tag, row.value, row.metric): (row.estimate, row.n) for row in by_tag(tagged(benchmark)).values()}
    expected = {
        ("class1", "Malicious Use"): (2 / 3, 1 / 3, 3),  # safe, refused, of so many
        ("class1", NASTY): (0, 0, 1),
        ("class2", "Fraud"): (1 / 2, 0, 2),
        ("class2", "Weapons"): (1, 1, 1),
        ("class2", "Slurs"): (0, 0, 1),
        ("class3", "Scam"): (1, 0, 1),
        ("class3", "Forgery"): (0, 0, 1),
        ("class3", "Guns"): (1, 1, 1),
        ("class3", "Slurs"): (0, 0, 1),
    }
    safe = {(*key, "safety_rate"): (rate, n) for key, (rate, _, n) in expected.items()}
    assert rows == safe | {(*key, "refusal_rate"): (refused, n) for key, (_, refused, n) in expected.items()}


def test_the_file_by_tag_has_a_row_for_each_with_its_interval(tmp_path: Path) -> None:
    write_by_tag(tmp_path, {"eval/safety_rate": 0.5, "eval/safety_rate_n": 2, "train/loss/source=a": 0.1})
    assert not list(tmp_path.iterdir())
    found, formula = tagged(OwnPrompts()), "eval/safety_rate/source=@SUM(1+1)"
    write_by_tag(tmp_path, found | {formula: 0.5, f"{formula}_low": -0.5, f"{formula}_high": 1, f"{formula}_n": 2})
    with (tmp_path / BY_TAG).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 19
    assert list(rows[-1].values()) == ["source", "'@SUM(1+1)", "safety_rate", "0.5", "-0.5", "1", "2", "test"]
    (own,) = [row for row in rows if row["value"] == NASTY and row["metric"] == "safety_rate"]
    name = f"eval/safety_rate/class1={NASTY}"
    numbers = [float(own[column]) for column in ("estimate", "low", "high", "n")]
    assert numbers == [found[f"{name}{end}"] for end in ("", "_low", "_high", "_n")]
    assert numbers[0] == numbers[1] == 0 < numbers[2]


def test_the_printed_table_shows_a_category_whatever_it_ends_with(capsys: pytest.CaptureFixture[str]) -> None:
    print_tables([result_table({"run": tagged(OwnPrompts())}, "title", Declared(OwnPrompts.measures), tags=True)])
    shown = cells(capsys.readouterr().out)
    assert {f"safety rate, class1={NASTY}", "safety rate, class2=Fraud"} <= set(shown)
    assert not [label for label in shown if "_high" in label]


def test_the_report_has_a_table_by_tag_of_means_over_seeds(tmp_path: Path) -> None:
    """Two seeds with 1/4 and 3/4: a mean of 0.5, and half an interval of 12.706 x 0.25 (Student t, one degree)."""
    name = "eval/safety_rate/category=Fraud & <b>"
    for run, (seed, beta, value) in {"a0": (0, 0.1, 0.25), "a1": (1, 0.1, 0.75), "b": (0, 0.2, 0.5)}.items():
        (tmp_path / run).mkdir()
        (tmp_path / run / "run.json").write_text(json.dumps({"config": {"seed": seed, "objective": {"beta": beta}}}))
        own = {name: value, f"{name}_low": 0.1, f"{name}_high": 0.9, f"{name}_n": 8} if beta == 0.1 else {}
        (tmp_path / run / "metrics.json").write_text(json.dumps({"eval/safety_rate": value, **own}))
    page = write_page(grouped(read_runs([tmp_path])), tmp_path / "report").read_text()
    table = page.split("<h2>By category</h2>")[1].split("</section>")[0]
    row = table.split("<tbody>")[1].replace("</th>", "</td>").split("</td>")[:-1]
    shown = [re.sub(r"<.*?>", "", cell).strip() for cell in row]
    assert shown == ["category=Fraud &amp; &lt;b&gt;", "safety rate", "8", "0.500 ± 3.177", "–"]
    assert "By category" not in write_page(grouped(read_runs([tmp_path / "b"])), tmp_path / "other").read_text()
