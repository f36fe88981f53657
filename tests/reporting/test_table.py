"""Result tables: dashes where nothing was measured, names as they are."""

from __future__ import annotations

from typing import Any

import pytest

from mmsafe.core.declared import Declared, Metric, together, undeclared
from mmsafe.evaluation.judges.keywords import Keywords
from mmsafe.microworld.rule_judge import Rules
from mmsafe.microworld.scene_benchmark import MicroWorldTest
from mmsafe.reporting.table import headline, print_tables, result_table

DECLARED = Declared(MicroWorldTest.measures, {judge.name: judge.evidence for judge in (Rules, Keywords)})


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
    runs = {"bpo": metrics(safety_rate=0.5, image_gap=-0.25), "dpo": metrics(safety_rate=0.75), "unfinished": {}}
    assert cells(printed(capsys, runs)) == {
        "metric": ["bpo", "dpo", "unfinished"],
        "safety rate": ["0.500 [0.375, 0.625]", "0.750 [0.625, 0.875]", "–"],
        "image gap": ["-0.250 [-0.375, -0.125]", "–", "–"],
    }


def test_what_no_run_measured_has_no_row(capsys: pytest.CaptureFixture[str]) -> None:
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
def test_markup_in_names_is_plain_text(capsys: pytest.CaptureFixture[str], name: str) -> None:
    tagged = {f"eval/safety_rate/entity_type={name}{end}": 0.5 for end in ("", "_low", "_high", "_n")}
    found = cells(printed(capsys, {name: metrics(safety_rate=0.5) | tagged}, tags=True))
    assert found["metric"] == [name]
    assert f"safety rate, entity_type={name}" in found


@pytest.mark.parametrize("title", ["runs/[/b]/model", "runs/[seed=0]/model"])
def test_markup_in_titles_is_plain_text(capsys: pytest.CaptureFixture[str], title: str) -> None:
    """`mmsafe.evaluate` takes the checkpoint's path for the title."""
    assert title in printed(capsys, {"model": metrics(safety_rate=0.5)}, title)


def test_the_judge_is_named_and_keywords_are_no_safety_judge(capsys: pytest.CaptureFixture[str]) -> None:
    exact = " ".join(printed(capsys, {"a": metrics(safety_rate=0.5)}).split())
    assert "judge: rules" in exact
    assert "not a safety judge" not in exact
    both = {"a": metrics(safety_rate=0.5), "b": metrics("keywords", safety_rate=0.5)}
    weak = " ".join(printed(capsys, both).split())
    assert "keywords (a list of refusal phrases, not a safety judge), rules (exact)" in weak
    assert "not a safety judge" in weak
    assert "judge" not in printed(capsys, {"a": {}})


def test_unbounded_intervals_can_be_shown(capsys: pytest.CaptureFixture[str]) -> None:
    one = {"eval/image_gap": 1.0, "eval/image_gap_low": float("-inf"), "eval/image_gap_high": float("inf")}
    assert cells(printed(capsys, {"one": one}))["image gap"] == ["1.000 [-inf, inf]"]


def test_nothing_is_cut_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    runs = {f"objective=bpo lr=1e-{i}": metrics(safety_rate=0.5) for i in range(4)}
    text = printed(capsys, runs)
    assert "…" not in text
    assert cells(text)["metric"] == list(runs)


def test_headline_has_main_values_only() -> None:
    found = headline(metrics(safety_rate=0.5, safety_rate__friendly=0.25) | {"train/loss": 1.0}, DECLARED)
    assert found == {"eval/safety_rate": 0.5}


def test_what_a_run_of_an_earlier_version_measured_is_shown_by_its_names() -> None:
    old = metrics(safety_rate=0.5, safety_rate__friendly=0.25, big_n=0.75) | {"train/loss": 1.0}
    assert [(metric.key, metric.label) for metric in undeclared(old).measured([old])] == [
        ("eval/safety_rate", "safety rate"),
        ("eval/big_n", "big n"),
    ]


def test_runs_on_several_benchmarks_are_shown_by_what_either_declares() -> None:
    both = together([DECLARED, Declared((Metric("mine", "my rate"), Metric("safety_rate", "another word")))])
    shown = both.measured([metrics(mine=0.5, safety_rate=0.5)])
    assert [metric.label for metric in shown] == ["safety rate", "my rate"]


@pytest.mark.parametrize(("better", "score"), [("higher", 0.25), ("lower", -0.25)])
def test_more_is_better_of_a_score_whatever_way_its_metric_goes(better: Any, score: float) -> None:
    declared = Declared((Metric("other", "other"), Metric("mine", "my rate", better, is_score=True)))
    assert declared.score(metrics(mine=0.25, other=0.5)) == ("eval/mine", score)
    assert declared.score(metrics(other=0.5)) is None
