"""The report's page in a real browser: that it can be read, that every figure is drawn, and that nothing in it runs."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from chromium import DESKTOP, PHONE, opened
from PIL import Image

from mmsafe.core.declared import Declared, together
from mmsafe.evaluation.benchmarks.harmeval import HarmEval
from mmsafe.evaluation.benchmarks.mmsafe_po_test import MMSafePOTest
from mmsafe.evaluation.measuring import declaration
from mmsafe.microworld.scene_benchmark import MicroWorldTest
from mmsafe.reporting.contrasts import contrasts
from mmsafe.reporting.report_page import write_page
from mmsafe.reporting.result_charts import papers, pareto, pareto_front
from mmsafe.reporting.summary import Run, grouped, read_runs
from mmsafe.reporting.training_charts import thinned

STEPS = 20
MARK = "<script>alert(1)</script><img src=x onerror=alert(2)>"
ON_PAPER = "mmsafe.evaluation.benchmarks.mmsafe_po_test.MMSafePOTest"
FIGURES_FIRST = "() => document.querySelector('figure').offsetTop < document.querySelector('table').offsetTop"
NOTHING_CUT = "() => [...document.querySelectorAll('.wide')].every((it) => it.scrollWidth <= it.clientWidth)"
RESULTS = {
    ("DPO", 0.1): [(0.70, 0.30), (0.74, 0.28)],
    ("DPO", 0.3): [(0.72, 0.20), (0.76, 0.22)],
    ("BPO", 0.1): [(0.85, 0.24), (0.89, 0.20)],
    ("BPO", 0.3): [(0.80, 0.26)],
}
"""Safety rate and over-refusal, by objective and β, of each seed."""


def write_run(folder: Path, config: dict[str, Any], metrics: dict[str, Any] | None, columns: str) -> None:
    folder.mkdir(parents=True)
    both = declaration(MMSafePOTest(), {"guard": "a model"}, {}), Declared(MicroWorldTest.measures)
    about = {"declared": together(both).record(), "config": config, "mmsafe": "0.1.0", "git_commit": "abc"}
    about |= {"data": "d0", "model": f"m{config['seed']}"}
    (folder / "run.json").write_text(json.dumps(about))
    if metrics:
        (folder / "metrics.json").write_text(json.dumps(metrics))
    names = columns.split(",")
    rows = [",".join(str((step + place) / 10) for place, _ in enumerate(names)) for step in range(STEPS)]
    lines = [f"step,{columns}", *(f"{step},{row}" for step, row in enumerate(rows, 1))]
    (folder / "metrics.csv").write_text("\n".join(lines) + "\n")


def config(objective: str, beta: float, seed: int) -> dict[str, Any]:
    own = {"_target_": f"x.{objective}", "beta": beta}
    return {"name": None, "seed": seed, "objective": own, "benchmark": {"_target_": ON_PAPER}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report on seven finished runs and a failed one, whose message is hostile."""
    place = tmp_path_factory.mktemp("sweep")
    columns = "loss/preference,train/loss,rewards/chosen,rewards/rejected,rewards/margins,rewards/accuracies"
    for (objective, beta), seeds in RESULTS.items():
        blind = ",loss/blind,rewards/blind,rewards/margins/blind" if objective == "BPO" else ""
        for seed, (safe, refused) in enumerate(seeds):
            metrics = {"eval/safety_rate": safe, "eval/over_refusal_rate": refused, "eval/judge": "guard"}
            write_run(place / f"{objective}-{beta}-{seed}", config(objective, beta, seed), metrics, columns + blind)
    write_run(place / "failed", config("BPO", 0.3, 1), None, columns)
    (place / "failed" / "failed.json").write_text(json.dumps({"message": MARK}))
    groups = grouped(read_runs([place]))
    write_page(groups, place / "report", [contrasts(groups, "objective=DPO objective.beta=0.1")])
    return place / "report"


def column(table: Any, number: int) -> list[str]:
    return [row.locator("th, td").nth(number).inner_text() for row in table.locator("tbody tr").all()]


@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_opens_without_a_complaint_and_every_figure_is_drawn(
    browser: Any, folder: Path, size: tuple[int, int], scheme: str
) -> None:
    with opened(browser, folder / "report.html", size, scheme) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
        assert page.evaluate(FIGURES_FIRST)
        page.locator("summary").evaluate_all("nodes => nodes.forEach(node => { node.parentElement.open = true; })")
        page.wait_for_function(NOTHING_CUT)
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (ground == "rgb(255, 255, 255)") == (scheme == "light")
        figures = page.locator("figure").all()
        assert len(figures) == len(list((folder / "figures").glob("*.svg"))) > 10
        for figure in figures:
            drawing = figure.locator("svg")
            box = drawing.bounding_box()
            assert box["width"] > 250
            assert box["height"] > 150
            assert drawing.locator("[id*=-line2d_], [id*=-LineCollection]").count() > 5
            ink = drawing.locator("text").first.evaluate("node => getComputedStyle(node).fill")
            assert ink == ("rgb(26, 28, 32)" if scheme == "light" else "rgb(232, 234, 238)")


def test_tables_are_sorted_by_a_press(browser: Any, folder: Path) -> None:
    with opened(browser, folder / "report.html") as page:
        table = page.locator("table").first
        head = table.get_by_role("button", name="safety rate")
        head.click()
        assert column(table, 3) == ["0.720 ± 0.254", "0.740 ± 0.254", "0.800", "0.870 ± 0.254"]
        head.click()
        assert column(table, 3)[0] == "0.870 ± 0.254"
        assert table.locator("[aria-sort=descending]").count() == 1
        page.get_by_role("heading", name="Runs", exact=True).click()
        runs = page.get_by_role("region", name="Runs", exact=True).locator("table")
        runs.get_by_role("button", name="over-refusal").click()
        shown = column(runs, 5)
        assert shown == ["–", "0.200", "0.200", "0.220", "0.240", "0.260", "0.280", "0.300"]


def test_hostile_text_is_shown_and_not_run(browser: Any, folder: Path) -> None:
    with opened(browser, folder / "report.html") as page:
        assert page.get_by_text(f"failed: {MARK}").count() == 1
        assert page.locator("script").count() == 1
        assert page.locator("img").count() == 0


def test_page_has_differences_options_and_provenance(folder: Path) -> None:
    text = (folder / "report.html").read_text()
    assert "Difference from objective=DPO objective.beta=0.1" in text
    assert re.search(r">0\.150</span> <span>± 0\.\d+", text)  # 0.85 - 0.70 and 0.89 - 0.74
    assert "<dt>git_commit</dt><dd>abc</dd>" in text
    assert "<dt>model</dt><dd>m1</dd>" in text
    assert re.search(r">objective\.beta</th>", text)


def test_figures_are_also_files_and_tell_which_response_a_reward_is_of(folder: Path) -> None:
    names = {path.stem for path in (folder / "figures").iterdir()}
    wanted = {
        "pareto-over_refusal_rate",
        "beta-safety_rate",
        "result-safety_rate",
        "training-loss-blind",
        "training-rewards-margins-blind",
    }
    assert wanted | {f"rewards-{number}" for number in range(4)} <= names
    for name in names:
        with Image.open(folder / "figures" / f"{name}.png") as image:
            assert image.width > 600
            assert len(image.convert("RGB").getcolors(1 << 20)) > 10
        assert "<svg" in (folder / "figures" / f"{name}.svg").read_text()
    by_group = [(folder / "figures" / f"rewards-{number}.svg").read_text() for number in range(4)]
    assert [">blind<" in text for text in by_group] == [True, True, False, False]
    assert all(">chosen<" in text and ">rejected<" in text for text in by_group)


def test_the_paper_s_numbers_are_lines_where_the_benchmark_is_the_paper_s(folder: Path, tmp_path: Path) -> None:
    for name in ("result-safety_rate", "beta-safety_rate", "pareto-over_refusal_rate"):
        text = (folder / "figures" / f"{name}.svg").read_text()
        assert all(f": {value}" in text for value in (0.6145, 0.8218, 0.8909))
    assert "paper" not in (folder / "figures" / "result-over_refusal_rate.svg").read_text()
    measured = {"eval/safety_rate": 0.5, "eval/usr": 0.5}
    ours, per_cent = (
        Run(tmp_path, {}, measured, declared=declaration(own, {}, {})) for own in (MicroWorldTest(), HarmEval())
    )
    assert papers([ours], "eval/safety_rate") == []
    assert papers([ours, per_cent], "eval/usr") == []
    assert [round(line.value, 4) for line in papers([per_cent], "eval/usr")] == [0.4415, 0.2830, 0.0755]


def test_safety_against_over_refusal_and_against_utility_where_both_are_measured(tmp_path: Path) -> None:
    def run(safety: float, **costs: float) -> Run:
        metrics = {"eval/safety_rate": safety, **{f"eval/{name}": value for name, value in costs.items()}}
        return Run(tmp_path, {}, metrics, declared=declaration(MicroWorldTest(), {}, {}))

    both = {"over_refusal_rate": 0.1, "neutral_accuracy": 0.9}
    groups = {"a": [run(0.5, **both)], "b": [run(0.6, over_refusal_rate=0.3, neutral_accuracy=0.8)]}
    assert [chart.name for chart in pareto(groups)] == ["pareto-over_refusal_rate", "pareto-neutral_accuracy"]
    worse = groups | {"c": [run(0.4, over_refusal_rate=0.2, neutral_accuracy=0.95)]}
    refusal, utility = (
        next(line for line in chart.figure.axes[0].lines if line.get_label() == "Pareto front")
        for chart in pareto(worse)
    )
    assert list(refusal.get_xdata()) == [0.1, 0.3]  # c is beaten by a in both
    assert sorted(utility.get_xdata()) == [0.8, 0.9, 0.95]
    assert [chart.name for chart in pareto({"a": [run(0.5, over_refusal_rate=0.1)]})] == ["pareto-over_refusal_rate"]


def test_pareto_front_and_thinned_curves_by_hand() -> None:
    points = [(0.3, 0.9), (0.1, 0.5), (0.2, 0.5), (0.2, 0.8), (0.4, 0.9), (0.1, 0.4)]
    assert pareto_front(points) == [(0.1, 0.5), (0.2, 0.8), (0.3, 0.9)]
    assert thinned([1, 2, 3, 4, 5], [10, 20, 30, 40, 50], points=2) == ([2.0, 4.5], [20.0, 45.0])
    assert thinned([1, 2], [10, 20], points=2) == ([1.0, 2.0], [10.0, 20.0])


def test_runs_that_measured_nothing_make_a_page_too(tmp_path: Path) -> None:
    write_run(tmp_path / "only", config("DPO", 0.1, 0), None, "train/loss")
    text = write_page(grouped(read_runs([tmp_path])), tmp_path / "report").read_text()
    assert "1 runs in 1 groups, 0 finished" in text
    assert "train/loss" in text
