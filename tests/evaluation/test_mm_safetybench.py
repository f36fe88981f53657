"""MM-SafetyBench in its public layout; ASRs by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from published import REFUSED, SAFE, UNKNOWN, UNSAFE, complaint, judged, mm_safetybench, prompts, values

from mmsafe.evaluation.benchmarks.mm_safetybench import MMSafetyBench

GAPS = {"05": ["0", "2", "10"]}  # ids have gaps, and are no positions


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return mm_safetybench(tmp_path, GAPS)


def test_every_question_is_asked_in_every_split_by_its_own_wording(folder: Path) -> None:
    found = prompts(MMSafetyBench(path=folder))
    assert len(found) == (12 + 3) * 4
    ten = {
        prompt.tags["split"]: prompt
        for prompt in found
        if prompt.id.startswith("05-EconomicHarm/") and prompt.id.endswith("/10")
    }
    assert [prompt.id for prompt in ten.values()] == [
        f"05-EconomicHarm/{s}/10" for s in ("text_only", "SD", "TYPO", "SD_TYPO")
    ]
    assert {split: prompt.turns[0].text for split, prompt in ten.items()} == {
        "text_only": "question 10",
        "SD": "the image shows a phrase 10",
        "TYPO": "the bottom of the image shows a phrase 10",
        "SD_TYPO": "the bottom of the image shows a phrase 10",
    }
    assert ten["text_only"].image is None
    names = {split: prompt.image.name for split, prompt in ten.items() if prompt.image is not None}
    assert names == {
        s: str(folder / "data" / "imgs" / "05-EconomicHarm" / s / "10.jpg") for s in ("SD", "TYPO", "SD_TYPO")
    }


def test_text_only_by_the_changed_question_and_one_split_alone(folder: Path) -> None:
    found = prompts(MMSafetyBench(path=folder, splits=["text_only"], text_question="Changed Question"))
    assert len(found) == 15
    assert {prompt.turns[0].text.split()[0] for prompt in found} == {"changed"}


def test_the_upstream_spelling_and_the_folder_named_directly(folder: Path) -> None:
    found = prompts(MMSafetyBench(path=folder / "data", splits=["SD"]))
    assert found[0].id == "01-Illegal_Activitiy/SD/0"


def test_three_criteria_by_scenario(folder: Path) -> None:
    benchmark = MMSafetyBench(path=folder)
    found = {prompt.tags["scenario"][:2]: benchmark.criterion(prompt) for prompt in prompts(benchmark)}
    assert found == {
        **{f"{number:02}": "harm" for number in (*range(1, 8), 9)},
        **dict.fromkeys(("08", "13"), "refuse_only"),
        **dict.fromkeys(("10", "11", "12"), "disclaim"),
    }


def test_asr_is_the_mean_over_scenarios_and_asr_micro_over_questions(folder: Path) -> None:
    """Beside SD all three of 05 are unsafe, one for being unknown, and in words alone the one of 01; no others are.

    SD: 3 of 15 questions, 1 of 13 scenarios. text_only: 1 of 15, 1 of 13. Over all four splits, a quarter of each.
    """
    benchmark = MMSafetyBench(path=folder)

    def verdict(prompt):
        scenario, split, key = prompt.id.split("/")
        if (scenario[:2], split) == ("05", "SD"):
            return UNKNOWN if key == "0" else UNSAFE
        return UNSAFE if (scenario[:2], split) == ("01", "text_only") else (REFUSED if key == "0" else SAFE)

    rows = judged(prompts(benchmark), verdict)
    found = values(benchmark, rows)
    assert found["asr/split=SD"] == pytest.approx(1 / 13)
    assert found["asr_micro/split=SD"] == pytest.approx(3 / 15)
    assert found["asr/split=text_only"] == pytest.approx(1 / 13)
    assert found["asr_micro/split=text_only"] == pytest.approx(1 / 15)
    assert found["asr/split=TYPO"] == found["asr_micro/split=SD_TYPO"] == 0
    assert found["asr"] == pytest.approx((1 / 13 + 1 / 13) / 4)
    assert found["asr_micro"] == pytest.approx((3 / 15 + 1 / 15) / 4)
    assert found["asr/scenario=05-EconomicHarm"] == 1 / 4
    estimate = benchmark.metrics(rows)["asr_micro"]
    assert estimate is not None
    assert estimate.n == 15  # a question is one observation, however often it is asked


def test_a_count_other_than_the_published_is_said(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    prompts(MMSafetyBench(path=folder, splits=["SD", "TYPO"]))
    assert "30 prompts, where mm_safetybench has 3360" in caplog.text


def test_what_is_missing_is_named_with_where_to_get_it(folder: Path) -> None:
    (folder / "data" / "imgs" / "02-HateSpeech" / "SD" / "0.jpg").unlink()
    told = complaint(MMSafetyBench(path=folder))
    assert "02-HateSpeech/SD/0.jpg" in told
    assert "github.com/isXinLiu/MM-SafetyBench" in told
    assert "benchmark.path" in told
    prompts(MMSafetyBench(path=folder, splits=["text_only"]))  # which needs no image
    (folder / "data" / "processed_questions" / "13-Gov_Decision.json").unlink()
    assert "13-Gov_Decision.json: no such file; get MM-SafetyBench" in complaint(
        MMSafetyBench(path=folder, splits=["TYPO"])
    )


def test_other_fields_are_listed(folder: Path) -> None:
    file = folder / "data" / "processed_questions" / "06-Fraud.json"
    file.write_text(json.dumps({"0": {"Question": "q", "Rephrased": "r"}}))
    told = complaint(MMSafetyBench(path=folder, splits=["SD"]))
    assert "found: Question, Rephrased; expected: Rephrased Question(SD)" in told


@pytest.mark.parametrize("key", ["../../../../secret", "/etc/passwd"])
def test_a_key_cannot_lead_out_of_the_images(folder: Path, key: str) -> None:
    file = folder / "data" / "processed_questions" / "06-Fraud.json"
    (row,) = json.loads(file.read_text()).values()
    file.write_text(json.dumps({key: row}))
    assert "06-Fraud" in complaint(MMSafetyBench(path=folder))
