"""Runs in the formats of the field's tools hold every sample of the run, and those tools' readers take them."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from judged_runs import REFUSED, SAFE, UNKNOWN, UNSAFE, RunWriter, write_data
from launching import launch
from PIL import Image

from mmsafe.evaluation.judges.judge import Verdict
from mmsafe.reporting.run_samples import read_samples

ODD = '</script>\x00\x1b[31m\u2028\u202e שלום 🏳️‍🌈 \\ "quoted"\r\n'
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
def run(tmp_path: Path) -> Path:
    return RunWriter(write_data(tmp_path / "data", [f"Thing {n}?" for n in range(6)]))(tmp_path / "run", SAID, "a/b c")


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def export(run: Path, name: str) -> Path:
    """The one file that the command wrote where it says."""
    ended = launch("samples", "runs=run", f"format={name}", "out=out", cwd=run.parent, cache=run.parent)
    assert ended.status == 0, ended.err
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
        assert written.output.completion == written.scores["canned"].answer == written.messages[-1].text == said
        assert written.output.stop_reason == ("stop" if sample.generation["finished"] else "max_tokens")
        assert written.scores["canned"].value == {name: sample.judgement[name] for name in VERDICT}
        assert written.scores["canned"].explanation == sample.judgement["reply"]
        rest = {name: value for name, value in sample.judgement.items() if name not in (*VERDICT, "reply")}
        assert written.scores["canned"].metadata == rest
        picture, text = written.input[0].content
        assert text.text == sample.prompt.turns[0].text
        assert Image.open(io.BytesIO(base64.b64decode(picture.image.partition(",")[2]))).size == (256, 192)
        assert written.metadata["image"]["key"] == sample.prompt.image.key
        assert written.metadata["tags"] == sample.prompt.tags


def test_inspect_that_is_not_installed_is_one_line_before_anything_is_read(run: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "inspect_ai", None)
    ended = launch("samples", "runs=nowhere", "format=inspect", cwd=run.parent, cache=run.parent)
    told = "format=inspect: inspect_ai is not installed; run pip install 'mmsafe[inspect]'"
    assert (ended.status, ended.err) == (2, f"mmsafe.samples: {told}\n")


def test_lm_eval_samples_hold_every_sample(run: Path):
    path = export(run, "lm_eval")
    assert path.parent == run.parent / "out" / "a-b-c"
    assert path.name.startswith("samples_mmsafe_po_20")
    written, generations, judgements = rows(path), rows(run / "generations.jsonl"), rows(run / "judgements.jsonl")
    assert [row["doc_id"] for row in written] == list(range(6))
    assert [row["doc"]["id"] for row in written] == [row["id"] for row in generations]
    assert [row["doc"]["question"] for row in written] == [f"Thing {n}?" for n in range(6)]
    assert [row["filtered_resps"] for row in written] == [[row["response"]] for row in generations]
    assert [row["resps"] for row in written] == [[row["filtered_resps"]] for row in written]
    assert [{name: row[name] for name in VERDICT} for row in written] == [
        {name: int(row[name]) for name in VERDICT} for row in judgements
    ]
    assert [row["judgement"] for row in written] == judgements
    for row in written:
        asked = row["arguments"]["gen_args_0"]["arg_0"]
        assert json.loads(asked)[0]["content"][1]["text"] == row["doc"]["question"]
        assert row["prompt_hash"] == hashlib.sha256(asked.encode()).hexdigest()
        assert row["arguments"]["gen_args_0"]["arg_1"]["max_gen_toks"] == 7
        assert row["metrics"] == list(VERDICT)


def test_lm_eval_samples_load_as_a_data_set(tmp_path: Path):
    from datasets import load_dataset

    write = RunWriter(write_data(tmp_path / "data", ["One?", "Two?"]))
    path = export(write(tmp_path / "run", [("Take it.", UNSAFE), ("Sorry.", REFUSED)]), "lm_eval")
    loaded = load_dataset("json", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded["filtered_resps"][:] == [["Take it."], ["Sorry."]]
    assert loaded["unsafe"][:] == [1, 0]
