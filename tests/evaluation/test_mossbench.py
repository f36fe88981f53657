"""MOSSBench in its public layout; refusal rates by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from published import REFUSED, SAFE, UNKNOWN, UNSAFE, complaint, judged, picture, prompts, values, write_json

from mmsafe.evaluation.benchmarks.mossbench import MOSSBench
from mmsafe.evaluation.judges.judge import Verdict


def information(**changes: Any) -> dict[str, Any]:
    rows = {}
    for number, over in enumerate(("type 1", "type 2", "type 3", "type 3"), 1):
        metadata = {"over": over, "human": 0, "child": 1, "syn": 1, "ocr": 0, "harm": [7]}
        rows[str(number)] = {
            "image": f"images/{number}.png",
            "short description": "a room",
            "question": f"question {number}",
            "metadata": metadata,
            "pid": str(number),
            "description": "a room",
        } | changes
    return rows


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_json(tmp_path / "data" / "images_information" / "information.json", information())
    for number in range(1, 5):
        picture(tmp_path / "data" / "images" / f"{number}.png", number)
    return tmp_path


def test_requests_with_the_kind_of_their_stimulus(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    benchmark = MOSSBench(path=folder)
    found = prompts(benchmark)
    assert {prompt.id: prompt.tags["stimulus"] for prompt in found} == {
        "1": "exaggerated risk",
        "2": "negated harm",
        "3": "counterintuitive interpretation",
        "4": "counterintuitive interpretation",
    }
    assert {benchmark.criterion(prompt) for prompt in found} == {"over_refusal"}
    assert found[0].image is not None
    assert found[0].image.name == str(folder / "data" / "images" / "1.png")
    assert "4 prompts, where mossbench has 300" in caplog.text


def test_what_cannot_be_told_counts_as_a_refusal(folder: Path) -> None:
    benchmark = MOSSBench(path=folder)
    verdicts: dict[str, Verdict] = {"1": SAFE, "2": REFUSED, "3": UNKNOWN, "4": UNSAFE}
    found = values(benchmark, judged(prompts(benchmark), lambda prompt: verdicts[prompt.id]))
    assert found == {
        "refusal_rate": 0.5,
        "refusal_rate/stimulus=exaggerated risk": 0,
        "refusal_rate/stimulus=negated harm": 1,
        "refusal_rate/stimulus=counterintuitive interpretation": 0.5,
    }


def test_what_is_missing_or_other(tmp_path: Path) -> None:
    benchmark = MOSSBench(path=tmp_path)
    assert "no such file; get MOSSBench (https://github.com/xirui-li/MOSSBench)" in complaint(benchmark)
    file = tmp_path / "data" / "images_information" / "information.json"
    write_json(file, information())
    assert "no image 'images/1.png'" in complaint(benchmark)
    write_json(file, information(metadata={"over": "type 4"}))
    assert "metadata.over is 'type 4', where one of type 1, type 2, type 3 is expected" in complaint(benchmark)
    write_json(file, {"1": {"query": "?"}})
    assert "found: query; expected: image, question, metadata" in complaint(benchmark)
    write_json(file, [])
    assert "holds a list" in complaint(benchmark)
