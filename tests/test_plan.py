"""Plans written before the runs: what is a plan, which runs it holds, and that a run is held to it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from launching import launch
from omegaconf import OmegaConf

from mmsafe.core.errors import UserError
from mmsafe.evaluation.benchmarks.mmsafe_po_test import MMSafePOTest
from mmsafe.runs.plan import read_plan
from mmsafe.runs.run_folder import RunFolder

BOOK = Path(__file__).resolve().parents[1] / "experiments"
TEXT = """\
question: Does it help?
primary: eval/safety_rate
arms: [dpo, bpo, base]
seeds: [1, 2]
analysis: {contrasts: [bpo - dpo], margin: 0.05}
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
    assert (found.analysis.correction, found.analysis.margin) == ("holm", 0.05)
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
        ("0.05", "0", "analysis.margin=0"),
        ("bpo - dpo", "bpo - sft", "contrast 'bpo - sft': should be 'A - B' of two of the arms dpo, bpo, base"),
        ("bpo - dpo", "bpo - bpo", "contrast 'bpo - bpo'"),
        ("margin: 0.05", "correction: bonferroni", "must be one of holm, benjamini_hochberg"),
        (TEXT, "", "question: must be set (and 4 more)"),
        (TEXT, "- a list", "is no plan in YAML"),
        (TEXT, "[", "is no plan in YAML"),
        (TEXT, "? [a, b]\n: 1\n", "is no plan in YAML"),
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
        ((), "plan=plan.yaml: name=null is none of its arms; name one of dpo, bpo, base"),
        (("name=sft", "seed=1"), "name=sft is none of its arms"),
        (("name=bpo", "seed=3"), "seed=3 is none of its seeds 1, 2"),
        (("-m", "name=bpo", "seed=1,2,3"), "seed=3 is none of its seeds 1, 2"),
    ],
)
@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_a_run_that_is_not_planned_is_refused_before_it_begins(
    plan: Path, command: str, words: tuple[str, ...], said: str
) -> None:
    ended = launch(command, "plan=plan.yaml", *words, cwd=plan.parent, cache=plan.parent / "cache")
    assert ended.status == 2
    assert said in ended.err
    assert len(ended.err.splitlines()) == 1
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
