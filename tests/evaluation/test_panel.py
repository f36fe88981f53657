"""A panel: each member asked, judged and measured as it is alone, and all of it in one run."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from launching import QUICK, succeed
from published import REFUSED, SAFE, UNKNOWN, harmeval, mossbench, pope, siuo

from mmsafe.core.errors import UserError
from mmsafe.data.data_source import NoData
from mmsafe.data.example import Example
from mmsafe.evaluation.benchmark import Judged
from mmsafe.evaluation.benchmarks.harmeval import HarmEval
from mmsafe.evaluation.benchmarks.mossbench import MOSSBench
from mmsafe.evaluation.benchmarks.panel import Panel
from mmsafe.evaluation.benchmarks.paper import PaperTables
from mmsafe.evaluation.benchmarks.pope import POPE
from mmsafe.evaluation.benchmarks.siuo import SIUO
from mmsafe.evaluation.dialogue import Answer
from mmsafe.evaluation.judges.keywords import Keywords
from mmsafe.evaluation.judging import refuse_unknown
from mmsafe.evaluation.measuring import measured
from mmsafe.evaluation.stages import judge_answers, read_judgements, write_generations
from mmsafe.microworld.reader import MicroWorld
from mmsafe.microworld.rule_judge import Rules
from mmsafe.microworld.scene_benchmark import MicroWorldTest
from mmsafe.runs.search_options import Search, check_search

WORLD = MicroWorld(size=8, test_size=8, seed=3)
REFUSAL = "Sorry, I cannot help with that request."


@pytest.fixture
def panel(tmp_path: Path) -> Panel:
    members = {
        "world": MicroWorldTest(size=4, neutral_size=2),
        "moss": MOSSBench(path=mossbench(tmp_path / "moss")),
        "pope": POPE(path=pope(tmp_path / "pope")),
    }
    return Panel(members=members, judges={"world": Rules()})


def answered(panel: Panel, folder: Path) -> tuple[list[Example], list[Judged]]:
    """Every prompt refused, judged into files of `folder`."""
    prompts = panel.prompts(WORLD, "test")
    answers = [Answer(REFUSAL, True)] * len(prompts)
    write_generations(folder, panel, prompts, answers)
    return prompts, judge_answers(folder, panel, panel.judge_for(Keywords()), prompts, answers)


def test_each_member_is_judged_by_its_own_judge_and_measured_as_alone(panel: Panel, tmp_path: Path) -> None:
    panel.check_data(WORLD)
    panel.check_judge(Keywords())
    prompts, judged = answered(panel, tmp_path)
    assert len({prompt.id for prompt in prompts}) == len(prompts) == 4 + 4 + 2 + 4 + 6
    assert {p.id.partition("/")[0]: panel.criterion(p) for p in prompts} == {
        "world": "harm",
        "moss": "over_refusal",
        "pope": "harm",
    }
    metrics = measured(panel, judged, panel.judge_for(Keywords()).label)
    assert metrics["eval/judge"] == "rules, keywords, rule"
    assert metrics["eval/world.safety_rate"] == metrics["eval/world.over_refusal_rate"] == 1
    assert metrics["eval/world.neutral_accuracy"] == 0
    assert metrics["eval/moss.refusal_rate"] == metrics["eval/moss.refusal_rate/stimulus=negated harm"] == 1
    assert metrics["eval/pope.accuracy"] == metrics["eval/pope.accuracy/split=random"] == 0.5  # no comma, no `no`: yes
    alone = [row for row in judged if row.example.id.startswith("moss/")]
    assert panel.metrics(judged)["moss.refusal_rate"] == panel.members["moss"].metrics(alone)["refusal_rate"]  # type: ignore[union-attr]
    again, judge = read_judgements(tmp_path, panel, prompts)
    assert measured(panel, again, judge) == metrics
    assert panel.outcomes(prompts[0].tags, judged[0].verdict) == {"world.safety_rate": True}


def test_what_the_members_declare_is_the_panel_s(panel: Panel) -> None:
    axes = {axis: [metric.name for metric in panel.measures if metric.axis == axis] for axis in ("safety", "utility")}
    assert axes == {"safety": ["world.safety_rate"], "utility": ["world.neutral_accuracy", "pope.accuracy"]}
    assert panel.is_test_set
    assert not Panel(members={"world": MicroWorldTest()}).is_test_set
    config = type("Config", (), {"evaluate": True, "benchmark": panel, "data": WORLD})
    with pytest.raises(UserError, match="would tune on this test set"):
        check_search(config, Search())
    units = {p.tags[panel.shared_tag] for p in panel.prompts(WORLD, "test") if p.tags.get("variant") != "neutral"}
    assert len(units) == 4 + 4 + 6  # a scene with both of its images is one


def test_too_many_unknown_verdicts_in_one_part_are_not_hidden_by_the_others(panel: Panel) -> None:
    rows = [Judged(p, "", SAFE) for p in panel.prompts(WORLD, "test")]
    rows[10] = replace(rows[10], verdict=UNKNOWN)
    with pytest.raises(UserError, match=r"1 of 4 verdicts of moss are unknown; that is more than .*0\.1;"):
        refuse_unknown(rows, "keywords", 0.1)
    refuse_unknown(rows, "keywords", 0.25)


def test_a_panel_of_what_is_composite_itself(tmp_path: Path) -> None:
    paper = PaperTables(harmeval=HarmEval(path=harmeval(tmp_path / "he")), skip=["mmsafe_po", "mm_safetybench"])
    panel = Panel(members={"paper": paper, "siuo": SIUO(path=siuo(tmp_path / "siuo"))})
    prompts = panel.prompts(NoData(), "test")
    assert prompts[0].id == "paper/harmeval/0"
    assert {panel.criterion(prompt) for prompt in prompts} == {"harm"}
    rows = [Judged(prompt, "", REFUSED) for prompt in prompts]
    assert panel.breakdown(rows)["paper.usr/class2=Harm A0"].value == 0
    assert panel.judge_for(judge := Keywords()) is judge


def test_what_cannot_be_a_panel_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"members is empty: add some, as \+benchmark@benchmark.members.NAME=pope"):
        Panel(members={"a": None})
    with pytest.raises(UserError, match=r"benchmark.judges.b: no such member; there are a"):
        Panel(members={"a": MicroWorldTest()}, judges={"b": Rules()})
    panel = Panel(members={"a": POPE(), "b": MicroWorldTest()})
    with pytest.raises(ValueError, match=r"^benchmark.members.a.path is not set: .*or leave it out: .*members.a=null"):
        panel.check_data(WORLD)
    with pytest.raises(ValueError, match=r"cannot tell what benchmark=microworld measures.*benchmark.members.b=null"):
        panel.check_judge(Keywords())


def test_from_the_command_line_and_again_by_another_judge(tmp_path: Path) -> None:
    sizes = ["benchmark.members.microworld.size=8", "benchmark.members.microworld.neutral_size=4"]
    words = ["benchmark=panel", "data=microworld", *sizes, "+benchmark@benchmark.members.pope=pope"]
    words += [f"benchmark.members.pope.path={pope(tmp_path / 'pope')}"]
    asked = [*words, "model=random", "evaluation.max_new_tokens=4", "hydra.run.dir=run"]
    ended = succeed("evaluate", *asked, cwd=tmp_path)
    assert "pope: accuracy" in ended.out
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["eval/pope.accuracy_n"] == 6
    assert metrics["eval/microworld.safety_rate_n"] == 8
    rows = [json.loads(line) for line in (tmp_path / "run" / "judgements.jsonl").read_text().splitlines()]
    assert len(rows) == 8 + 8 + 4 + 6
    succeed("evaluate", *words, "generations=run", "hydra.run.dir=again", cwd=tmp_path)
    assert json.loads((tmp_path / "again" / "metrics.json").read_text()) == {
        name: value for name, value in metrics.items() if "pairwise" not in name
    }
    told = json.loads((tmp_path / "again" / "run.json").read_text())["declared"]["judges"]
    assert told == {"rules, rule": "exact"}


def test_at_the_end_of_a_training_run(tmp_path: Path) -> None:
    quick = [word for word in QUICK if not word.startswith("benchmark.")]
    sizes = ["benchmark.members.microworld.size=8", "benchmark.members.microworld.neutral_size=4"]
    words = ["benchmark=panel", *sizes, "objective=sft", "hydra.run.dir=run", *quick]
    succeed("train", *words, cwd=tmp_path)
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["eval/microworld.neutral_accuracy_n"] == 4
