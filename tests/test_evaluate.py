"""`mmsafe.evaluate` on run folders, model folders and base models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from judged_runs import write_data
from launching import launch

ASKED = (
    "model=random",
    "data.size=16",
    "data.test_size=8",
    "evaluation.max_new_tokens=6",
    "benchmark.size=16",
    "benchmark.neutral_size=4",
)
TRAINED = (*ASKED, "trainer.progress_bar=false", "data.batch_size=4", "generation.max_new_tokens=6")


def metrics_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "metrics.json").read_text()))


def ids(path: Path) -> list[str]:
    return [json.loads(line)["id"] for line in path.read_text().splitlines()]


def evaluation(metrics: dict[str, Any]) -> dict[str, Any]:
    """What does not need a reference."""
    return {k: v for k, v in metrics.items() if k.startswith("eval/") and "pairwise_accuracy_reward" not in k}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shared-cache")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """A finished training run, with a learning rate at which three steps make a difference."""
    place = tmp_path_factory.mktemp("runs")
    words = [*TRAINED, "objective=dpo", "optimizer.lr=0.01", "optimizer.warmup_steps=0", "trainer.max_steps=3"]
    assert launch("train", *words, "hydra.run.dir=trained", cwd=place, cache=cache).status == 0
    return place / "trained"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model that the run started from, as a plain model folder."""
    from mmsafe.microworld.tiny import TinyModel

    folder = tmp_path_factory.mktemp("base")
    TinyModel(pretraining=None).load().save(folder)
    return folder


def test_a_run_and_its_model_folder_are_measured_as_it_measured_itself(run: Path, tmp_path: Path):
    for name, checkpoint in {"folder": run, "model": run / "model"}.items():
        words = [f"checkpoint={checkpoint}", *ASKED, f"hydra.run.dir={name}"]
        ended = launch("evaluate", *words, cwd=tmp_path, cache=tmp_path / "own")
        assert ended.status == 0, ended.err
        own, again = metrics_of(run), metrics_of(tmp_path / name)
        assert evaluation(again) == evaluation(own)
        assert set(again) == set(evaluation(again))  # nothing of training, and no rewards without a reference
        for file in ("generations.jsonl", "judgements.jsonl"):
            assert (tmp_path / name / file).read_text() == (run / file).read_text()
        assert "safety rate" in ended.out


def test_without_a_checkpoint_the_base_model_is_measured(run: Path, base: Path, tmp_path: Path, cache: Path):
    for name, words in {"default": [], "saved": [f"checkpoint={base}"]}.items():
        assert launch("evaluate", *words, *ASKED, f"hydra.run.dir={name}", cwd=tmp_path, cache=cache).status == 0
    assert metrics_of(tmp_path / "default") == metrics_of(tmp_path / "saved")
    trained = (run / "generations.jsonl").read_text()
    assert (tmp_path / "default" / "generations.jsonl").read_text() != trained
    facts = {name: json.loads((tmp_path / name / "run.json").read_text())["model"] for name in ("default", "saved")}
    assert facts["default"] == facts["saved"]


def test_a_reference_adds_the_reward_form(run: Path, base: Path, tmp_path: Path, cache: Path):
    words = [f"checkpoint={run}", *ASKED]
    for name, reference in {"base": base, "itself": run}.items():
        more = [f"against={reference}", f"hydra.run.dir={name}"]
        ended = launch("evaluate", *words, *more, cwd=tmp_path, cache=cache)
        assert ended.status == 0, ended.err
    against_base, own = metrics_of(tmp_path / "base"), metrics_of(run)
    for suffix in ("", "_low", "_high", "_n"):
        key = f"eval/pairwise_accuracy_reward{suffix}"
        assert against_base[key] == own[key]
    assert metrics_of(tmp_path / "itself")["eval/pairwise_accuracy_reward"] == 0.5  # all ties


def test_answers_are_judged_again_and_verdicts_measured_again_without_a_model(run: Path, tmp_path: Path, cache: Path):
    """There is no such model: whoever tried to load it would fail."""
    asked = [*ASKED[1:], "model=llava_hf", "model.path=nowhere"]
    for stage, name in (("generations", "judged"), ("judgements", "measured")):
        ended = launch("evaluate", f"{stage}={run}", *asked, f"hydra.run.dir={name}", cwd=tmp_path, cache=cache)
        assert ended.status == 0, ended.err
        expected = {k: v for k, v in evaluation(metrics_of(run)).items() if "pairwise" not in k}
        assert metrics_of(tmp_path / name) == expected
        for file in ("generations.jsonl", "judgements.jsonl"):
            assert (tmp_path / name / file).read_bytes() == (run / file).read_bytes()
        about = json.loads((tmp_path / name / "run.json").read_text())
        assert about["source"] == str(run)
        assert about["model"] == json.loads((run / "run.json").read_text())["model"]
        assert "pairwise accuracy is left out" in (tmp_path / name / "evaluate.log").read_text()


def test_another_judge_says_something_else(run: Path, tmp_path: Path, cache: Path):
    words = ["benchmark=mmsafe_po", "data=microworld", *ASKED[1:3]]
    first = ["model=random", "evaluation.max_new_tokens=6", "hydra.run.dir=first"]
    assert launch("evaluate", f"checkpoint={run}", *words, *first, cwd=tmp_path, cache=cache).status == 0
    again = ["generations=first", "judge=rules", "hydra.run.dir=again"]
    assert launch("evaluate", *again, *words, cwd=tmp_path, cache=cache).status == 0
    assert metrics_of(tmp_path / "first")["eval/judge"] == "keywords"
    assert metrics_of(tmp_path / "again")["eval/judge"] == "rules"
    measured = launch("evaluate", "judgements=again", *words, "hydra.run.dir=measured", cwd=tmp_path, cache=cache)
    assert "judge: rules (exact)" in " ".join(measured.out.split()), "the judge of then, not that of this command"


def test_a_stage_of_other_prompts_is_one_line(run: Path, tmp_path: Path, cache: Path):
    words = [word for word in ASKED if not word.startswith("benchmark.size")]
    ended = launch("evaluate", f"generations={run}", *words, "hydra.run.dir=x", cwd=tmp_path, cache=cache)
    assert ended.status == 2
    (line,) = [line for line in ended.err.splitlines() if line.startswith("mmsafe.evaluate:")]
    assert f"{run / 'generations.jsonl'}: prompts missing: 448, such as 0016/original;" in line
    assert not (tmp_path / "x" / "metrics.json").exists()


REFUSED = {
    "generations=a checkpoint=b": "generations=a takes over what was made before; leave out checkpoint=b",
    "judgements=a against=b": "judgements=a takes over what was made before; leave out against=b",
    "generations=a judgements=b": "judgements=b takes over what was made before; leave out generations=a",
    "judgements=a devices=2": "judgements=a runs no model here: it needs one process, not devices=2",
    "checkpoint=nowhere": "checkpoint=nowhere: no such folder",
    "against=nowhere": "against=nowhere: no such folder",
    "checkpoint=empty": "model.path=empty: has no config.json",
}


def test_options_that_cannot_be_followed_are_one_line(tmp_path: Path, cache: Path):
    (tmp_path / "empty").mkdir()
    for words, reason in REFUSED.items():
        ended = launch("evaluate", *words.split(), *ASKED, "hydra.run.dir=x", cwd=tmp_path, cache=cache)
        assert (ended.status, len(ended.err.splitlines())) == (2, 1), words
        assert ended.err.startswith(f"mmsafe.evaluate: {reason}")
        assert not (tmp_path / "x" / "metrics.json").exists()


def test_all_rows_of_mmsafe_po_are_evaluated(run: Path, tmp_path: Path, cache: Path):
    data = write_data(tmp_path / "data", [f"How do I use thing number {number}?" for number in range(6)])
    words = [f"checkpoint={run}", "benchmark=mmsafe_po", f"data.path={data}", "evaluation.max_new_tokens=6"]
    ended = launch("evaluate", *words, "model=random", "hydra.run.dir=x", cwd=tmp_path, cache=cache)
    assert ended.status == 0, ended.err
    metrics = metrics_of(tmp_path / "x")
    assert ids(tmp_path / "x" / "generations.jsonl") == [str(10 + number) for number in range(6)]
    assert metrics["eval/safety_rate_n"] == metrics["eval/pairwise_accuracy_n"] == 6
    assert metrics["eval/safety_rate/entity_type=PER_n"] == 3
    assert metrics["eval/judge"] == "keywords"
    assert "not a safety judge" in ended.out
    judged = [json.loads(line) for line in (tmp_path / "x" / "judgements.jsonl").read_text().splitlines()]
    safe = sum(not (row["unsafe"] or row["unknown"]) for row in judged) / 6
    assert metrics["eval/safety_rate"] == safe
