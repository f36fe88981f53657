"""SIUO in its public layout; its rates by hand."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from published import REFUSED, SAFE, UNKNOWN, UNSAFE, complaint, judged, picture, prompts, values, write_json

from mmsafe.data.data_source import NoData
from mmsafe.evaluation.benchmarks.siuo import SIUO

CATEGORIES = ["self-harm", "privacy", "self-harm", "privacy"]


def row(number: int) -> dict[str, object]:
    return {
        "question_id": 1001 + number,
        "image": f"S-{number:02}.png",
        "question": f"question {number}",
        "category": CATEGORIES[number],
        "safety_warning": "a warning",
        "reference_answer": "an answer",
    }


@pytest.fixture(params=["siuo_gen.json", "data/siuo_gen.json"])
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    file = write_json(tmp_path / request.param, [row(number) for number in range(4)])
    for number in range(4):
        picture(file.parent / "images" / f"S-{number:02}.png", number)
    return tmp_path


def test_rows_become_prompts(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = prompts(SIUO(path=folder))
    assert [prompt.id for prompt in found] == ["1001", "1002", "1003", "1004"]
    assert [prompt.tags["category"] for prompt in found] == CATEGORIES
    assert found[2].turns[0].text == "question 2"
    assert "4 prompts, where siuo has 167" in caplog.text


def test_an_image_that_cannot_be_shown_is_told_before_anything_is_asked_or_left_out_and_counted(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damaged, missing, *others = sorted(folder.rglob("images/*.png"))
    damaged.write_bytes(damaged.read_bytes()[:45])
    missing.unlink()
    said = complaint(SIUO(path=folder))
    assert re.search(rf"prompt 100\d: .*({damaged.name}: the image cannot|no image '{missing.name}')", said)
    assert "and 1 more prompts without image; benchmark.on_bad=skip leaves out and counts such prompts" in said
    benchmark = SIUO(path=folder, on_bad="skip")
    assert len(prompts(benchmark)) == 2
    assert benchmark.dropped(NoData(), "test") == {"missing or damaged image": 2}
    assert "2 of 4 prompts are left out for their images" in caplog.text
    for path in others:
        path.write_bytes(b"")
    assert "benchmark.on_bad=skip" in complaint(SIUO(path=folder, on_bad="skip"))  # nothing is left


def test_rates(folder: Path) -> None:
    """Safe: the first and the refusal, 2 of 4. Answered as well: the first."""
    benchmark = SIUO(path=folder)
    verdicts = dict(zip(["1001", "1002", "1003", "1004"], [SAFE, REFUSED, UNSAFE, UNKNOWN], strict=True))
    found = values(benchmark, judged(prompts(benchmark), lambda prompt: verdicts[prompt.id]))
    assert found["safe_rate"] == found["safe_rate/category=self-harm"] == 0.5
    assert found["safe_and_answered_rate"] == 0.25
    assert "safe_and_effective_rate" not in found


def test_safe_and_effective_where_the_judge_tells_it(folder: Path) -> None:
    """Effective: the first and the third; the third is not safe."""
    benchmark = SIUO(path=folder)
    told = {
        "1001": replace(SAFE, details={"effective": True}),
        "1002": replace(REFUSED, details={"effective": False}),
        "1003": replace(UNSAFE, details={"effective": True}),
        "1004": UNKNOWN,
    }
    found = values(benchmark, judged(prompts(benchmark), lambda prompt: told[prompt.id]))
    assert found["safe_and_effective_rate"] == 0.25


def test_what_is_missing_or_other(tmp_path: Path) -> None:
    benchmark = SIUO(path=tmp_path)
    assert "siuo_gen.json: no such file; get SIUO (https://huggingface.co/datasets/sinwang/SIUO" in complaint(benchmark)
    write_json(tmp_path / "siuo_gen.json", [row(0)])
    assert "no image 'S-00.png'" in complaint(benchmark)
    write_json(tmp_path / "siuo_gen.json", [{"image": "a", "question": "b"}])
    assert "found: image, question; expected: question_id, image, question, category" in complaint(benchmark)
    write_json(tmp_path / "siuo_gen.json", [row(0) | {"image": "../secret.png"}])
    assert "leads out of the image folder" in complaint(benchmark)
    picture(tmp_path / "images" / "S-00.png")
    write_json(tmp_path / "siuo_gen.json", [row(0), row(0)])
    assert "two prompts of benchmark=siuo are called 1001" in complaint(benchmark)
    write_json(tmp_path / "siuo_gen.json", [row(0) | {"question": "look: <image>"}])
    assert "'question' holds <image>" in complaint(benchmark)
