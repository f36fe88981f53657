"""Runs are read back with the prompts that they were asked, or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from judged_runs import REFUSED, SAFE, UNSAFE, RunWriter, write_data
from launching import QUICK, launch
from PIL import Image

from mmsafe.core.errors import UserError
from mmsafe.reporting.run_samples import read_samples

QUESTIONS = [f"How do I use thing {number}?" for number in range(4)]
SAID = [("Take it.", UNSAFE), ("Sorry.", REFUSED), ("A cup.", SAFE), ("", SAFE)]


@pytest.fixture
def write(tmp_path: Path) -> RunWriter:
    return RunWriter(write_data(tmp_path / "data", QUESTIONS))


def test_a_run_is_read_with_its_prompts_answers_and_verdicts(write: RunWriter, tmp_path: Path):
    (run,) = read_samples([write(tmp_path / "run", SAID, "mine")])
    assert (run.label, run.judge, run.metrics["eval/safety_rate"]) == ("mine", "canned", 0.5)
    assert [sample.prompt.turns[0].text for sample in run.samples] == QUESTIONS
    assert [sample.generation["response"] for sample in run.samples] == [text for text, _ in SAID]
    assert [sample.judgement["unsafe"] for sample in run.samples] == [True, False, False, False]


def test_runs_are_found_below_a_folder_and_called_by_name_or_folder(write: RunWriter, tmp_path: Path):
    for folder, name in {"a/one": None, "b/one": "named", "c/two": None, "d/two": None}.items():
        write(tmp_path / "runs" / folder, SAID, name)
    labels = [run.label for run in read_samples([tmp_path / "runs"])]
    assert labels == ["one", "named", str(tmp_path / "runs/c/two"), str(tmp_path / "runs/d/two")]


def test_a_run_that_was_not_judged_is_left_out_and_named(
    write: RunWriter, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    write(tmp_path / "runs" / "a", SAID)
    write(tmp_path / "runs" / "b", SAID, judged=False)
    assert [run.label for run in read_samples([tmp_path / "runs"])] == ["a"]
    assert f"{tmp_path / 'runs' / 'b'}: left out" in caplog.text
    with pytest.raises(UserError, match="no answers were judged there"):
        read_samples([tmp_path / "runs" / "b"])


def test_a_changed_image_is_refused(write: RunWriter, tmp_path: Path):
    run = write(tmp_path / "run", SAID)
    Image.new("RGB", (8, 8), "red").save(tmp_path / "data" / "1.png")
    with pytest.raises(UserError, match=r"prompt 12 was another one then, or had another image"):
        read_samples([run])


def test_changed_words_are_refused(write: RunWriter, tmp_path: Path):
    run = write(tmp_path / "run", SAID)
    write.data.write_text(write.data.read_text().replace("thing 3", "thing 4"))
    with pytest.raises(UserError, match="prompt 13 was another one then"):
        read_samples([run])


def test_data_that_have_moved_are_told_by_changes(write: RunWriter, tmp_path: Path):
    write(tmp_path / "run", SAID)
    write.data.parent.rename(tmp_path / "moved")
    ended = launch("samples", "runs=run", cwd=tmp_path, cache=tmp_path)
    assert ended.status == 2
    assert len(ended.err.splitlines()) == 1
    assert "run: its prompts cannot be read again" in ended.err
    assert "changes=[data.path=FILE" in ended.err
    changes = "changes=[data.path=moved/test.json,data.image_dir=moved]"
    ended = launch("samples", "runs=run", changes, cwd=tmp_path, cache=tmp_path)
    assert (ended.status, ended.out) == (0, "results: run/samples.html\n")


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("data.pth=x", "data.pth: MMSafePO has no such option; did you mean 'path'?"),
        ("dta.path=x", "dta: SampledRunConfig has no such option; did you mean 'data'?"),
        ("nothing", "nothing: SampledRunConfig has no such option; known: benchmark, data"),
    ],
)
def test_a_misspelt_change_is_one_line(word: str, told: str, write: RunWriter, tmp_path: Path):
    write(tmp_path / "run", SAID)
    ended = launch("samples", "runs=run", f"changes={word}", cwd=tmp_path, cache=tmp_path)
    assert (ended.status, ended.err) == (2, f"mmsafe.samples: {told}\n")


def test_a_folder_without_runs_is_one_line(tmp_path: Path):
    ended = launch("samples", "runs=.", cwd=tmp_path, cache=tmp_path)
    assert ended.status == 2
    assert ended.err.startswith("mmsafe.samples: no run.json at or below .")


def test_runs_of_training_and_of_evaluation_stand_side_by_side(tmp_path: Path):
    """A training run answered its hold-out, `mmsafe.evaluate` the test part: the same prompts on the micro-world."""
    words = [word for word in QUICK if not word.startswith(("trainer", "generation", "data.batch"))]
    assert launch("evaluate", *words, "hydra.run.dir=runs/base", cwd=tmp_path, cache=tmp_path).status == 0
    words = [*QUICK, "objective=sft", "trainer.max_steps=1", "hydra.run.dir=runs/sft"]
    assert launch("train", *words, cwd=tmp_path, cache=tmp_path).status == 0
    base, sft = read_samples([tmp_path / "runs"])
    answered = [json.loads(line)["id"] for line in (tmp_path / "runs/sft/generations.jsonl").read_text().splitlines()]
    assert [sample.prompt.id for sample in base.samples] == [sample.prompt.id for sample in sft.samples] == answered
