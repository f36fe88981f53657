"""Plans written before the runs: what is a plan, which runs it holds, and that a run is held to it."""

import hashlib
import json
import runpy
from pathlib import Path

import pytest
from launching import refuse
from omegaconf import OmegaConf

from mmsafe.core.errors import UserError
from mmsafe.evaluation.benchmarks.mmsafe_po_test import MMSafePOTest
from mmsafe.reporting.contrasts import contrasts
from mmsafe.reporting.report_page import write_page
from mmsafe.reporting.summary import grouped, read_runs
from mmsafe.runs.plan import read_plan
from mmsafe.runs.run_folder import RunFolder

BOOK = Path(__file__).resolve().parents[1] / "experiments"
TEXT = """\
question: Does it help?
primary: eval/safety_rate
arms: [dpo, bpo, base]
seeds: [1, 2]
contrasts: [bpo - dpo]
margin: 0.05
"""


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    (tmp_path / "plan.yaml").write_text(TEXT)
    return tmp_path / "plan.yaml"


def test_the_plans_of_the_lab_book_can_be_read() -> None:
    plans = {path: read_plan(path)[0] for path in BOOK.glob("*/plan.yaml")}
    paper = plans[BOOK / "paper_bpo" / "plan.yaml"]
    assert paper.primary in {metric.key for metric in MMSafePOTest.measures}
    assert paper.holds("dpo", "bpo", paper.primary)


def test_only_the_primary_metric_of_a_planned_contrast_is_planned(plan: Path) -> None:
    found, fingerprint = read_plan(plan)
    assert fingerprint == hashlib.sha256(TEXT.encode()).hexdigest()
    assert (found.correction, found.margin) == ("holm", 0.05)
    assert found.holds("bpo", "dpo", "eval/safety_rate")
    assert found.holds("dpo", "bpo", "eval/safety_rate")
    assert not found.holds("bpo", "dpo", "eval/over_refusal_rate")
    assert not found.holds("bpo", "base", "eval/safety_rate")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("question: Does it help?\n", "", "question: must be set"),
        ("primary", "metric: x\nprimary", "metric: Plan has no such option"),
        ("[1, 2]", "[-1]", "seeds.0=-1"),
        ("[1, 2]", "[]", "seeds"),
        ("0.05", "0", "margin=0"),
        ("bpo - dpo", "bpo - sft", "contrast 'bpo - sft': should be 'A - B' of two of the arms dpo, bpo, base"),
        ("bpo - dpo", "bpo - bpo", "contrast 'bpo - bpo'"),
        ("margin: 0.05", "correction: bonferroni", "must be one of holm, benjamini_hochberg"),
        (TEXT, "", "question: must be set (and 4 more)"),
        (TEXT, "- a list", "is no plan: "),
        (TEXT, "[", "is no plan: "),
        (TEXT, "? [a, b]\n: 1\n", "is no plan: "),
    ],
)
def test_what_is_no_plan_is_refused_in_one_line(plan: Path, old: str, new: str, said: str) -> None:
    plan.write_text(TEXT.replace(old, new))
    with pytest.raises(UserError) as caught:
        read_plan(plan)
    assert str(caught.value).startswith(f"{plan}: ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "plan=plan.yaml: has no run of name=null, seed=0; arms: dpo, bpo, base; seeds: 1, 2"),
        (("name=sft", "seed=1"), "has no run of name=sft, seed=1;"),
        (("name=bpo", "seed=3"), "has no run of name=bpo, seed=3;"),
        (("-m", "name=bpo", "seed=1,2,3"), "has no run of name=bpo, seed=3;"),
    ],
)
@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_a_run_that_is_not_planned_is_refused_before_it_begins(
    plan: Path, command: str, words: tuple[str, ...], said: str
) -> None:
    assert said in refuse(command, "plan=plan.yaml", *words, cwd=plan.parent)
    assert [path.name for path in plan.parent.iterdir()] == ["plan.yaml"]


def test_a_run_records_its_plan_and_goes_on_by_no_other(plan: Path) -> None:
    cfg = OmegaConf.create({"name": "bpo", "seed": 1, "plan": str(plan)})
    (run := plan.parent / "run").mkdir()
    RunFolder(run, cfg).claim()
    assert json.loads((run / "run.json").read_text())["plan"] == hashlib.sha256(TEXT.encode()).hexdigest()
    RunFolder(run, cfg).claim()
    plan.write_text(TEXT.replace("0.05", "0.5"))
    with pytest.raises(UserError, match="the plan changed since this run began, so it cannot be continued"):
        RunFolder(run, cfg).claim()
    (run / "metrics.json").write_text("{}")
    assert RunFolder(run, cfg).claim() == {}, (
        "what is finished stays as it is; mmsafe.report tells that the plan changed"
    )


RATES = {"dpo": (0.5, 0.62), "bpo": (0.7, 0.8), "base": (0.3, 0.5)}


def write_runs(plan: Path) -> Path:
    """Two seeds of each arm, of which the base's second one had no plan."""
    for arm, rates in RATES.items():
        for seed, rate in enumerate(rates, 1):
            (folder := plan.parent / "runs" / f"{arm}-{seed}").mkdir(parents=True)
            about = {"config": {"name": arm, "seed": seed, "plan": str(plan)}, "plan": read_plan(plan)[1]}
            if (arm, seed) == ("base", 2):
                about = {"config": {"name": arm, "seed": seed}}
            (folder / "run.json").write_text(json.dumps(about))
            metrics = {"eval/safety_rate": rate, "eval/refusal_rate": rate**2, "eval/judge": "rules"}
            (folder / "metrics.json").write_text(json.dumps(metrics))
    return plan.parent / "runs"


def test_a_report_corrects_planned_contrasts_by_themselves_and_calls_others_exploratory(plan: Path) -> None:
    """The one that is planned keeps its p, and has the plan's margin; of the three others the least p is tripled."""
    groups = grouped(read_runs([write_runs(plan)]))
    rows = [[cell.text for cell in row] for row in contrasts(groups, "dpo").rows]
    found = {(group, metric): rest for group, metric, *rest in rows}
    assert {key: rest[-1] for key, rest in found.items()} == {
        ("bpo", "safety rate"): "yes",
        ("bpo", "refusal rate"): "exploratory",
        ("base", "safety rate"): "exploratory",
        ("base", "refusal rate"): "exploratory",
    }
    planned = found["bpo", "safety rate"]
    assert planned[1] == planned[2] != "–"
    assert planned[4] != "–"
    others = [rest for rest in found.values() if rest[-1] == "exploratory"]
    least = min(others, key=lambda rest: float(rest[1]))
    assert float(least[2]) == pytest.approx(min(1, 3 * float(least[1])), rel=0.05)
    assert {rest[4] for rest in others} == {"–"}
    assert contrasts(groups, "dpo", margin=0.1).rows[1][-2].text != "–"


def test_a_report_says_which_runs_were_planned_and_whether_the_plan_is_as_it_was(plan: Path) -> None:
    runs, told = write_runs(plan), f"{plan.parent.name}/plan.yaml"
    assert {run.path.name: run.plan[0] for run in read_runs([runs])} == {
        **{f"{arm}-{seed}": told for arm in RATES for seed in (1, 2)},
        "base-2": "",
    }
    groups = grouped(read_runs([runs]))
    assert told in write_page(groups, plan.parent / "report").read_text()
    plan.write_text(TEXT + "# later\n")
    groups = grouped(read_runs([runs]))
    assert {row[-1].text for row in contrasts(groups, "dpo").rows} == {"exploratory"}, "nobody knows what was planned"
    assert f"{told}, changed since or not there" in write_page(groups, plan.parent / "report").read_text()


def test_a_page_of_the_book_marks_what_its_plan_has(plan: Path) -> None:
    page = runpy.run_path(str(BOOK / "page.py"))
    rows = [
        {
            "group": arm,
            "seed": str(seed),
            "status": "finished",
            **dict.fromkeys(page["MAIN"], str(rate + seed)),
        }
        for arm, rates in RATES.items()
        for seed, rate in enumerate(rates, 1)
    ]
    read = read_plan(plan)[0]
    told = page["corrected"](rows, [["bpo", "dpo"], ["base", "dpo"]], read)
    assert [line.partition(", at 5 %")[0] for line in told] == [
        "In bold are 3 of 7; after Holm's correction for 7 exploratory ones"
    ]
    head, _, *planned = page["planned"](rows, read)
    assert head.startswith("| planned contrast | safety rate ↑ | p | corrected (holm) | found from |")
    assert [line.split(" | ")[0] for line in planned] == ["| bpo − dpo"]
