"""Runs are read back with the prompts that they were asked, or not at all, also in the formats of the field's tools."""

import base64
import hashlib
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from judged_runs import REFUSED, SAFE, UNKNOWN, UNSAFE, RunWriter, write_data
from launching import QUICK, launch, refuse, succeed
from PIL import Image

from mmsafe.core.errors import UserError
from mmsafe.evaluation.judges.judge import Verdict
from mmsafe.reporting.run_samples import read_samples

ODD = '</script>\x00\x1b[31m\u2028\u202e שלום 🏳️‍🌈 \\ "quoted"\r\n'
QUESTIONS = [f"How do I use thing {number}?" for number in range(6)]
SAID = [
    ("Take it.", UNSAFE),
    ("Sorry.", REFUSED),
    (ODD, UNKNOWN),
    ("x" * 1_000_000, Verdict(True, False, category="S1", reply="unsafe\nS1", details={"passed": False})),
    ("half \ud83d", SAFE),
    ("", SAFE),
]
VERDICT = ("unsafe", "refused", "unknown")


@pytest.fixture
def write(tmp_path: Path) -> RunWriter:
    return RunWriter(write_data(tmp_path / "data", QUESTIONS))


@pytest.fixture
def run(write: RunWriter, tmp_path: Path) -> Path:
    return write(tmp_path / "run", SAID, "a/b c")


def test_a_run_is_read_with_its_prompts_answers_and_verdicts(run: Path):
    (read,) = read_samples([run])
    assert (read.label, read.judge, read.metrics["eval/safety_rate"]) == ("a/b c", "canned", 0.5)
    assert [sample.prompt.turns[0].text for sample in read.samples] == QUESTIONS
    assert [sample.generation["response"] for sample in read.samples] == [text for text, _ in SAID]
    assert [sample.judgement["unsafe"] for sample in read.samples] == [verdict.unsafe for _, verdict in SAID]


def test_runs_below_a_folder_are_called_by_name_or_folder_and_those_not_judged_left_out(
    write: RunWriter, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    runs = tmp_path / "runs"
    for folder, name in {"a/one": None, "b/one": "named", "c/two": None, "d/two": None}.items():
        write(runs / folder, SAID, name)
    write(runs / "e", SAID, judged=False)
    assert [run.label for run in read_samples([runs])] == ["one", "named", str(runs / "c/two"), str(runs / "d/two")]
    assert f"{runs / 'e'}: left out" in caplog.text
    with pytest.raises(UserError, match="no answers were judged there"):
        read_samples([runs / "e"])


def paint(data: Path) -> None:
    Image.new("RGB", (8, 8), "red").save(data.parent / "1.png")


def reword(data: Path) -> None:
    data.write_text(data.read_text().replace("thing 2", "thing 9"))


@pytest.mark.parametrize("change", [paint, reword])
def test_a_changed_prompt_is_refused(change: Callable[[Path], None], run: Path, write: RunWriter):
    change(write.data)
    with pytest.raises(UserError, match="prompt 12 was another one then, or had another image"):
        read_samples([run])


def test_data_that_have_moved_are_told_by_changes(run: Path, tmp_path: Path):
    (tmp_path / "data").rename(tmp_path / "moved")
    line = refuse("samples", "runs=run", cwd=tmp_path, cache=tmp_path)
    assert "run: its prompts cannot be read again" in line
    assert "changes=[data.path=FILE" in line
    changes = "changes=[data.path=moved/test.json,data.image_dir=moved]"
    ended = launch("samples", "runs=run", changes, cwd=tmp_path, cache=tmp_path)
    assert (ended.status, ended.out) == (0, "results: run/samples.html\n")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["changes=data.pth=x"], "data.pth: MMSafePO has no such option; did you mean 'path'?"),
        (["changes=dta.path=x"], "dta: SampledRunConfig has no such option; did you mean 'data'?"),
        (["changes=nothing"], "nothing: SampledRunConfig has no such option; known: benchmark, data, leakage"),
        (["runs=data"], "no run.json at or below data: name folders of runs or sweeps"),
        (["format=inspect"], "format=inspect: inspect_ai is not installed; run pip install 'mmsafe[inspect]'"),
    ],
)
def test_bad_input_is_one_line(words: list[str], told: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "inspect_ai", None)
    ended = launch("samples", "runs=run", *words, cwd=tmp_path, cache=tmp_path)
    assert (ended.status, ended.err) == (2, f"mmsafe.samples: {told}\n")


def test_runs_of_training_and_of_evaluation_stand_side_by_side(tmp_path: Path):
    """A training run answered its hold-out, `mmsafe.evaluate` the test part: the same prompts on the micro-world."""
    words = [word for word in QUICK if not word.startswith(("trainer", "generation", "data.batch"))]
    succeed("evaluate", *words, "hydra.run.dir=runs/base", cwd=tmp_path, cache=tmp_path)
    words = [*QUICK, "objective=sft", "trainer.max_steps=1", "hydra.run.dir=runs/sft"]
    succeed("train", *words, cwd=tmp_path, cache=tmp_path)
    base, sft = read_samples([tmp_path / "runs"])
    answered = [row["id"] for row in rows(tmp_path / "runs/sft/generations.jsonl")]
    assert [sample.prompt.id for sample in base.samples] == [sample.prompt.id for sample in sft.samples] == answered


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def export(run: Path, name: str) -> Path:
    """The one file that the command wrote where it says."""
    ended = succeed("samples", "runs=run", f"format={name}", "out=out", cwd=run.parent, cache=run.parent)
    assert ended.out.startswith("results: out\n")
    (path,) = [path for path in (run.parent / "out").rglob("*") if path.is_file()]
    return path


def test_inspect_reads_every_sample(run: Path):
    log = pytest.importorskip("inspect_ai.log")
    path = export(run, "inspect")
    assert [Path(info.name).name for info in log.list_eval_logs(str(path.parent))] == [path.name]
    found = log.read_eval_log(str(path), resolve_attachments=True)
    assert (found.status, found.eval.task, found.eval.model) == ("success", "mmsafe_po", "mmsafe/a-b-c")
    assert found.results.metadata["eval/safety_rate"] == 0.5
    means = {score.name: score.metrics["mean"].value for score in found.results.scores}
    assert means == {"unsafe": 3 / 6, "refused": 1 / 6, "unknown": 1 / 6}
    samples = {sample.id: sample for sample in found.samples}
    (read,) = read_samples([run])
    assert samples.keys() == {sample.prompt.id for sample in read.samples}
    for sample in read.samples:
        written, said = samples[sample.prompt.id], sample.generation["response"].replace("\ud83d", "\\ud83d")
        score = written.scores["canned"]
        assert written.output.completion == score.answer == written.messages[-1].text == said
        assert written.output.stop_reason == ("stop" if sample.generation["finished"] else "max_tokens")
        assert score.value | {"reply": score.explanation} | score.metadata == sample.judgement
        assert set(score.value) == set(VERDICT)
        picture, text = written.input[0].content
        assert text.text == sample.prompt.turns[0].text
        assert Image.open(io.BytesIO(base64.b64decode(picture.image.partition(",")[2]))).size == (256, 192)
        assert written.metadata["images"][0]["key"] == sample.prompt.images[0].key
        assert written.metadata["tags"] == sample.prompt.tags


def test_lm_eval_samples_hold_every_sample_and_load_as_a_data_set(run: Path):
    from datasets import load_dataset

    path = export(run, "lm_eval")
    assert path.parent == run.parent / "out" / "a-b-c"
    assert path.name.startswith("samples_mmsafe_po_20")
    written, generations, judgements = rows(path), rows(run / "generations.jsonl"), rows(run / "judgements.jsonl")
    for number, (row, generation, judgement) in enumerate(zip(written, generations, judgements, strict=True)):
        asked = row["arguments"]["gen_args_0"]
        assert (row["doc_id"], row["doc"]["id"], row["doc"]["question"]) == (
            number,
            generation["id"],
            QUESTIONS[number],
        )
        assert row["resps"] == [row["filtered_resps"]] == [[generation["response"]]]
        assert {name: row[name] for name in row["metrics"]} == {name: int(judgement[name]) for name in VERDICT}
        assert row["judgement"] == judgement
        assert json.loads(asked["arg_0"])[0]["content"][1]["text"] == row["doc"]["question"]
        assert row["prompt_hash"] == hashlib.sha256(asked["arg_0"].encode()).hexdigest()
        assert asked["arg_1"]["max_gen_toks"] == 7
    loadable = "".join(json.dumps(row) + "\n" for row in written if "half" not in row["resps"][0][0])
    path.write_text(loadable)
    loaded = load_dataset("json", data_files=str(path), split="train", cache_dir=str(run.parent / "cache"))
    assert loaded["filtered_resps"][:2] == [["Take it."], ["Sorry."]]
    assert loaded["unsafe"][:2] == [1, 0]
