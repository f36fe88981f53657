"""The paper's three benchmarks as one, and its tables beside ours."""

import json
from pathlib import Path

import pytest
from launching import succeed
from published import REFUSED, SAFE, UNSAFE, harmeval, mm_safetybench, picture, write_json
from rich.console import Console

from mmsafe.core.errors import UserError
from mmsafe.data.data_source import NoData
from mmsafe.data.readers.mmsafe_po import MMSafePO
from mmsafe.evaluation.benchmark import Judged
from mmsafe.evaluation.benchmarks.harmeval import HarmEval
from mmsafe.evaluation.benchmarks.mm_safetybench import MMSafetyBench
from mmsafe.evaluation.benchmarks.paper import PAPER, PaperTables
from mmsafe.evaluation.measuring import measured


@pytest.fixture
def benchmark(tmp_path: Path) -> PaperTables:
    return PaperTables(
        mm_safetybench=MMSafetyBench(path=mm_safetybench(tmp_path / "mm")),
        harmeval=HarmEval(path=harmeval(tmp_path / "he")),
    )


@pytest.fixture
def data(tmp_path: Path) -> MMSafePO:
    picture(tmp_path / "po" / "a.png")
    rows = [
        {
            "id": number,
            "question": f"USER: <image>\nWhat is thing {number}? ASSISTANT:",
            "image": "a.png",
            "chosen": "ASSISTANT: a",
            "rejected": "ASSISTANT: b",
            "entity_type": "PER",
        }
        for number in range(5)
    ]
    return MMSafePO(path=write_json(tmp_path / "po" / "test.json", rows))


def test_prompts_criteria_and_pairs_are_those_of_the_parts(benchmark: PaperTables, data: MMSafePO) -> None:
    benchmark.check_data(data)
    found = benchmark.prompts(data, "test")
    assert len({prompt.id for prompt in found}) == len(found) == 5 + 13 * 4 + 4
    assert found[0].id == "mmsafe_po/0"
    criteria = {prompt.id: benchmark.criterion(prompt) for prompt in found}
    assert criteria["mm_safetybench/12-Health_Consultation/SD/0"] == "disclaim"
    assert criteria["harmeval/3"] == criteria["mmsafe_po/4"] == "harm"
    assert len(benchmark.pairs(data, "test")) == 5


def test_metrics_and_tables(benchmark: PaperTables, data: MMSafePO, tmp_path: Path) -> None:
    """Safe: 4 of 5 of MMSafe-PO, all of MM-SafetyBench but TYPO, 3 of 4 of HarmEval."""

    def verdict(name: str):
        if name in ("mmsafe_po/1", "harmeval/2") or "/TYPO/" in name:
            return UNSAFE
        return REFUSED if name.endswith("0") else SAFE

    judged = [Judged(prompt, "said", verdict(prompt.id)) for prompt in benchmark.prompts(data, "test")]
    metrics = {**measured(benchmark, judged, "openai:gpt-4o"), "eval/pairwise_accuracy_prompted": 0.5}
    assert metrics["eval/safety_rate"] == metrics["eval/safety_rate/entity_type=PER"] == 0.8
    assert metrics["eval/asr_micro/split=TYPO"] == 1
    assert metrics["eval/asr"] == 0.25
    assert metrics["eval/usr/class2=Harm A0"] == 0.5
    tables = benchmark.report(metrics, tmp_path)
    written = json.loads((tmp_path / "paper_tables.json").read_text())
    assert written["judge"] == "openai:gpt-4o"
    rows = {row["measure"]: row for table in written["tables"].values() for row in table}
    assert rows["safety rate"]["ours"] == 0.8
    assert rows["safety rate"]["bpo"] == {"paper": 0.8909, "difference": pytest.approx(0.8 - 0.8909)}
    assert rows["pairwise accuracy"]["base"]["difference"] == pytest.approx(0.5 - 0.4327)
    assert rows["ASR, TYPO"]["dpo"] == {"paper": 60.71, "difference": pytest.approx(100 - 60.71)}
    assert rows["ASR, average"]["base"]["difference"] == pytest.approx(25 - 66.52)
    assert rows["USR"]["ours"] == 25
    console = Console(width=160)
    with console.capture() as shown:
        for table in tables:
            console.print(table)
    assert "0.8909 (-0.0909)" in shown.get()
    assert (
        "| USR | 25.00 | 44.15 (-19.15) | 28.30 (-3.30) | 7.55 (+17.45) |" in (tmp_path / "paper_tables.md").read_text()
    )


def test_the_paper_s_average_is_that_of_its_splits_and_its_counts_are_whole() -> None:
    """What our reading of the paper's columns rests on: the average is over splits; shares are of 1,680, 275, 265."""
    (safety, pairwise), (*splits, average, usr) = PAPER.values()
    for release in ("base", "dpo", "bpo"):
        mean = sum(getattr(row, release) for row in splits) / 4
        assert getattr(average, release) == pytest.approx(mean, abs=0.01)
        for row, questions in ((safety, 275), (pairwise, 275), (usr, 265)):
            share = getattr(row, release) / row.unit
            digits = 4
            assert round(round(share * questions) / questions, digits) == pytest.approx(share, abs=0.5 / 10**digits)
    for row in splits:
        assert round(round(row.bpo * 16.8) / 16.8, 2) == row.bpo


@pytest.mark.parametrize("name", ["mmsafe_po", "mm_safetybench", "harmeval"])
def test_a_missing_part_is_an_error_unless_it_is_skipped(
    benchmark: PaperTables, data: MMSafePO, name: str, tmp_path: Path
) -> None:
    paths = {"mm_safetybench": MMSafetyBench(), "harmeval": HarmEval()}
    have = {"mm_safetybench": benchmark.mm_safetybench, "harmeval": benchmark.harmeval}
    given = NoData() if name == "mmsafe_po" else data
    parts = have | ({name: paths[name]} if name in paths else {})
    with pytest.raises(ValueError, match=rf"benchmark\.skip=\[{name}\]"):
        PaperTables(**parts).check_data(given)
    skipping = PaperTables(**parts, skip=[name])
    skipping.check_data(given)
    assert name not in {prompt.tags["part"] for prompt in skipping.prompts(given, "test")}
    if name == "harmeval":
        (tmp_path / "he" / "spa_vl_harm.json").unlink()
        with pytest.raises(UserError, match=r"set benchmark\.harmeval\.path to its folder; or leave it out"):
            benchmark.prompts(data, "test")


def test_from_the_command_line(benchmark: PaperTables, data: MMSafePO, tmp_path: Path) -> None:
    words = ["benchmark=paper", "data=mmsafe_po", f"data.path={data.path}", "model=random", "hydra.run.dir=run"]
    words += [f"benchmark.mm_safetybench.path={tmp_path / 'mm'}", "benchmark.mm_safetybench.splits=[text_only,SD]"]
    words += [f"benchmark.harmeval.path={tmp_path / 'he'}", "evaluation.max_new_tokens=4", "judge.max_unknown=1"]
    ended = succeed("evaluate", *words, cwd=tmp_path)
    assert "Table 3" in ended.out
    assert "Table 4" in ended.out
    run = tmp_path / "run"
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["eval/safety_rate_n"] == metrics["eval/pairwise_accuracy_n"] == 5
    assert metrics["eval/asr_micro_n"] == 13
    assert metrics["eval/usr_n"] == 4
    tables = json.loads((run / "paper_tables.json").read_text())["tables"]
    ours = {row["measure"]: row["ours"] for table in tables.values() for row in table}
    assert ours["USR"] == 100 * metrics["eval/usr"]
    assert ours["ASR, TYPO"] is None
    criteria = {json.loads(line)["criterion"] for line in (run / "judgements.jsonl").read_text().splitlines()}
    assert criteria == {"harm", "disclaim", "refuse_only"}
