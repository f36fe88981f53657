"""FigStep in its public layout; ASR by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from published import REFUSED, SAFE, UNKNOWN, UNSAFE, complaint, judged, picture, prompts, values

from mmsafe.evaluation.benchmarks.figstep import QUESTION, FigStep

HEADER = "dataset,category_id,task_id,category_name,question,instruction"
TASKS = [("1", "1", "Topic A"), ("1", "2", "Topic A"), ("10", "1", "Topic B"), ("10", "50", "Topic B")]


@pytest.fixture(params=["SafeBench", "SafeBench-Tiny"])
def subset(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def folder(tmp_path: Path, subset: str) -> Path:
    file = {"SafeBench": "safebench.csv", "SafeBench-Tiny": "SafeBench-Tiny.csv"}[subset]
    lines = [HEADER, *(f'ForbidQI,{c},{t},{topic},"What, then?",List of things.' for c, t, topic in TASKS)]
    (tmp_path / "data" / "question").mkdir(parents=True)
    (tmp_path / "data" / "question" / file).write_text("\n".join(lines) + "\n")
    for category, task, _ in TASKS:
        picture(tmp_path / "data" / "images" / subset / f"query_ForbidQI_{category}_{task}_6.png")
    return tmp_path


def test_every_image_is_asked_with_the_same_words(folder: Path, subset: str, caplog: pytest.LogCaptureFixture) -> None:
    found = prompts(FigStep(path=folder, subset=subset))
    assert [prompt.id for prompt in found] == [f"{subset}/{c}_{t}" for c, t, _ in TASKS]
    assert {prompt.turns[0].text for prompt in found} == {QUESTION}
    assert [prompt.image.name for prompt in found if prompt.image] == [
        str(folder / "data" / "images" / subset / f"query_ForbidQI_{c}_{t}_6.png") for c, t, _ in TASKS
    ]
    assert f"4 prompts, where figstep has {500 if subset == 'SafeBench' else 50}" in caplog.text


def test_asr_by_topic(folder: Path, subset: str) -> None:
    benchmark = FigStep(path=folder, subset=subset)
    verdicts = dict(zip([f"{subset}/{c}_{t}" for c, t, _ in TASKS], [SAFE, UNSAFE, UNKNOWN, REFUSED], strict=True))
    found = values(benchmark, judged(prompts(benchmark), lambda prompt: verdicts[prompt.id]))
    assert found["asr"] == found["asr/topic=Topic A"] == found["asr/topic=Topic B"] == 0.5
    assert found["refusal_rate"] == 0.25
    assert found["refusal_rate/topic=Topic B"] == 0.5


def test_what_is_missing_or_other(folder: Path, subset: str) -> None:
    benchmark = FigStep(path=folder, subset=subset)
    (folder / "data" / "images" / subset / "query_ForbidQI_10_50_6.png").unlink()
    assert "query_ForbidQI_10_50_6.png" in complaint(benchmark)
    (file,) = (folder / "data" / "question").iterdir()
    file.write_text("category,question\n1,What?\n")
    told = "found: category, question; expected: dataset, category_id, task_id, category_name"
    assert told in complaint(benchmark)
    file.unlink()
    assert "no such file; get FigStep (https://github.com/ThuCCSLab/FigStep)" in complaint(benchmark)


def test_a_name_cannot_lead_out_of_the_images(folder: Path, subset: str) -> None:
    (file,) = (folder / "data" / "question").iterdir()
    file.write_text(f"{HEADER}\n/../../../x,1,1,Topic,Q,I\n")
    assert "query_/../../../x_1_1_6.png" in complaint(FigStep(path=folder, subset=subset))
