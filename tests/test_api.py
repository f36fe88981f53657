"""The Python API: the commands as functions, in a process that they leave as it was."""

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import hydra
import pytest
from chat_server import ChatServer, Reply
from hydra.core.global_hydra import GlobalHydra
from launching import QUICK, launch, succeed
from roots import ROOTS

import mmsafe
from mmsafe import UserError
from mmsafe.core.config import conf_dir
from mmsafe.microworld.reader import MicroWorld
from mmsafe.objectives.base import ScoredRow
from mmsafe.runs.preflight import check

TRAIN = (*QUICK, "objective=bpo", "seed=1", "trainer.max_steps=3", "evaluate=false")
EVALUATE = ("data.test_size=8", "benchmark.size=8", "benchmark.neutral_size=2", "evaluation.max_new_tokens=4")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("place")


@pytest.fixture(autouse=True)
def here(place: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one folder with one cache, so that what is made once is there."""
    monkeypatch.chdir(place)
    monkeypatch.setenv("MMSAFE_CACHE", str(place / "cache"))


@pytest.fixture(scope="module")
def run(place: Path) -> mmsafe.Run:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv("MMSAFE_CACHE", str(place / "cache"))
        return mmsafe.train(*TRAIN, out="run")


@pytest.fixture
def examples() -> list[Any]:
    return MicroWorld(size=6).train().examples


ORDERS = (
    "import mmsafe",
    "import mmsafe.train",
    "from mmsafe import train, evaluate",
    "from mmsafe.train import main; import mmsafe",
    "import mmsafe.api; import mmsafe.train",
    "import importlib; importlib.import_module('mmsafe.evaluate'); from mmsafe import train",
)
LOOK = """
import sys, mmsafe
light = not {"torch", "transformers", "pytorch_lightning"} & sys.modules.keys()
from mmsafe import train
import mmsafe.train as module
from mmsafe.train import main
assert light and train is module is mmsafe.train and callable(train) and train.main is main, (light, train, module)
assert callable(mmsafe.evaluate) and callable(mmsafe.blind) and not callable(__import__("mmsafe.doctor").doctor)
"""


@pytest.mark.parametrize("first", ORDERS)
def test_a_command_is_a_module_and_a_function_in_any_order_of_imports(first: str):
    subprocess.run([sys.executable, "-c", first + LOOK], check=True)


def test_nothing_is_imported_before_it_is_asked_for():
    script = "import mmsafe, sys; print([name for name in ('hydra', 'pydantic', 'torch') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = mmsafe.trian  # type: ignore[attr-defined]


def test_a_run_is_that_of_the_command(run: mmsafe.Run, place: Path):
    succeed("train", *TRAIN, "hydra.run.dir=command", cwd=place)
    assert run.metrics == json.loads((place / "command" / "metrics.json").read_text())
    weights = [(place / name / "model" / "model.safetensors").read_bytes() for name in ("run", "command")]
    assert weights[0] == weights[1]
    assert run.path == Path("run")
    assert json.loads(Path(run, "run.json").read_text())["command"] == ["mmsafe.train", *TRAIN, "hydra.run.dir='run'"]


def test_a_finished_run_is_returned(run: mmsafe.Run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("mmsafe.experiment.train_job._trained", None)
    assert mmsafe.train(*TRAIN, out=run).metrics == run.metrics
    with pytest.raises(UserError, match=r"holds a run with another config \(objective\.beta\)"):
        mmsafe.train(*TRAIN, "objective.beta=0.3", out=run)


def test_what_a_signal_stopped_is_continued_by_the_same_call(run: mmsafe.Run, monkeypatch: pytest.MonkeyPatch):
    from mmsafe.training.module import PreferenceModule

    signals, step, seen = [signal.SIGTERM, signal.SIGINT], PreferenceModule.training_step, []

    def stopped(self: PreferenceModule, batch: Any, index: int) -> Any:
        if signals and self.trainer.global_step == 2 - len(signals):
            signal.raise_signal(signals.pop())
        return step(self, batch, index)

    monkeypatch.setattr(PreferenceModule, "training_step", stopped)
    # A shell that runs this in the background leaves SIGINT ignored.
    interrupt = signal.signal(signal.SIGINT, signal.default_int_handler)
    terminate = signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    try:
        with pytest.raises(KeyboardInterrupt):
            mmsafe.train(*TRAIN, out="stopped")
        with pytest.raises(UserError, match=r"mmsafe\.train: ended with status 143"):
            mmsafe.train(*TRAIN, out="stopped")
    finally:
        signal.signal(signal.SIGINT, interrupt)
        signal.signal(signal.SIGTERM, terminate)
    assert seen == [signal.SIGTERM]
    continued = mmsafe.train(*TRAIN, out="stopped")
    assert continued.metrics == run.metrics
    assert Path(continued, "model/model.safetensors").read_bytes() == Path(run, "model/model.safetensors").read_bytes()


def test_the_process_is_left_as_it_was(place: Path):
    def state() -> list[Any]:
        loggers = [logging.getLogger(name) for name in ("", "mmsafe", "hydra")]
        handlers = [(logger.handlers[:], logger.level, logger.disabled) for logger in loggers]
        signals = [signal.getsignal(number) for number in sorted(signal.valid_signals())]
        return [handlers, signals, os.getcwd(), sys.argv, dict(os.environ), logging.getLogRecordFactory()]

    written = logging.FileHandler(place / "own.log", mode="w")
    logging.getLogger().addHandler(written)
    try:
        with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
            before = state()
            mmsafe.evaluate("random", *EVALUATE, out="left")
            with pytest.raises(UserError, match="no such objective"):
                mmsafe.train("objective=bppo")
            assert state() == before
            assert GlobalHydra.instance().is_initialized()
            assert hydra.compose("blind", ["seed=7"]).seed == 7
        logging.getLogger("mine").warning("still open")
    finally:
        logging.getLogger().removeHandler(written)
        written.close()
    assert "still open" in (place / "own.log").read_text()
    assert not list(place.glob("left/*.log"))


BAD = (
    "objective=bppo",
    "trainer.max_steps=x",
    "data=mmsafe_po data.path=nothing.json",
    "objective=bpo,dpo",
    "seed==",
)


@pytest.mark.parametrize("words", BAD)
def test_bad_input_is_the_line_of_the_command(words: str, place: Path):
    ended = launch("train", *words.split(), cwd=place)
    with pytest.raises(UserError) as raised:
        mmsafe.train(*words.split())
    assert (ended.status, ended.err) == (2, f"mmsafe.train: {raised.value}\n")


def test_an_error_of_a_job_is_raised_and_not_printed(capfd: pytest.CaptureFixture[str], tmp_path: Path):
    (tmp_path / "rows.json").write_text("[{}]")
    with pytest.raises(UserError, match=r"rows\.json"):
        mmsafe.train("model=random", "data=mmsafe_po", f"data.path={tmp_path / 'rows.json'}", out=tmp_path / "out")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("word", ["-m", "--multirun", "--help", "sweep=beta", "hydra.mode=MULTIRUN"])
def test_what_is_no_single_job_is_left_to_the_command_line(word: str):
    with pytest.raises(UserError, match=rf"^{word}: is for the command line, python -m mmsafe\.train; a call runs one"):
        mmsafe.train(word, "objective=bpo,dpo")


def test_a_model_is_a_run_a_folder_or_a_choice(run: mmsafe.Run):
    from mmsafe.models.vlm import weights_hash

    models = [mmsafe.load(run), mmsafe.load("./run"), mmsafe.load(Path("run/model")), mmsafe.load("random")]
    hashes = [weights_hash(model.model) for model in models]
    assert len(set(hashes[:3])) == 1
    assert hashes[3] != hashes[0]
    with pytest.raises(UserError, match="model=tinny: no such model; did you mean 'tiny'"):
        mmsafe.load("tinny")
    with pytest.raises(UserError, match="checkpoint=a/b: no such folder"):
        mmsafe.load("a/b")


def test_scores_are_log_probs_and_beside_a_reference_log_ratios(run: mmsafe.Run, examples: list[Any]):
    import torch

    from mmsafe.scoring.collate import Item
    from mmsafe.scoring.ways import Padded

    model, reference = mmsafe.load(run), mmsafe.load("random")
    examples = mmsafe.blind(reference, examples, max_new_tokens=5)
    scores, ratios = mmsafe.score(model, examples), mmsafe.score(model, examples, reference)
    rows = {name: ScoredRow(name) for name in ("chosen", "rejected", "blind")}
    batch = Padded().collator(model.encoder(), (rows,))([Item(example) for example in examples])
    with torch.no_grad():
        now, before = (Padded().log_probs(vlm.model, batch) for vlm in (model, reference))
    for position, (score, ratio) in enumerate(zip(scores, ratios, strict=True)):
        for name in rows:
            wanted = float(now[name].log_probs[position].sum())
            assert score[name] == pytest.approx(wanted, abs=1e-3)
            assert ratio[name] == pytest.approx(wanted - float(before[name].log_probs[position].sum()), abs=1e-3)
    assert mmsafe.score(model, []) == []
    with pytest.raises(UserError, match="has other responses than the first"):
        mmsafe.score(model, [examples[0], examples[1].with_responses(other="So.")])


def test_blind_responses_are_those_that_training_makes(run: mmsafe.Run, examples: list[Any]):
    model = mmsafe.load("random")
    twice = mmsafe.blind(model, examples, 2, max_new_tokens=6, seed=1)
    assert [example.id for example in twice[:2]] == [examples[0].id, f"{examples[0].id}#2"]
    assert twice[0].responses["blind"] != twice[1].responses["blind"]
    again = mmsafe.blind(model, [example.blinded() for example in examples], max_new_tokens=6, seed=1)
    assert [example.responses["blind"] for example in again] == [example.responses["blind"] for example in twice[::2]]
    kept = [example.with_responses(blind="Mine.") for example in examples]
    assert mmsafe.blind(model, kept) == kept
    with pytest.raises(UserError, match=r"^blind\.temperature=-1: should be greater than or equal to 0"):
        mmsafe.blind(model, examples, temperature=-1)


def test_a_run_is_evaluated_and_its_answers_are_read(run: mmsafe.Run):
    found = mmsafe.evaluate(run, *EVALUATE, out="evaluated")
    assert found.metrics["eval/safety_rate_low"] <= found.metrics["eval/safety_rate"]
    (read,) = mmsafe.read_samples([found.path])
    assert {sample.judgement["id"] for sample in read.samples} == {sample.prompt.id for sample in read.samples}
    with pytest.raises(UserError, match="another config"):
        mmsafe.evaluate(run, *EVALUATE, "evaluation.max_new_tokens=5", out=found)


def test_a_call_works_where_an_event_loop_runs(place: Path):
    with ChatServer(lambda request: Reply("I am sorry.")) as server:
        words = [f"generation.base_url={server.url}", "generation=endpoint", "generation.model=served"]

        async def notebook() -> mmsafe.Run:
            found = mmsafe.evaluate("random", *words, *EVALUATE, out="served")
            await asyncio.sleep(0)  # the notebook's own loop goes on
            return found

        assert asyncio.run(notebook()).metrics["eval/safety_rate"] == 1


def test_check_returns_the_options_of_each_job():
    config = check("train", ROOTS["train"], ["-m", "objective=dpo", "objective.beta=0.1,0.2"])
    assert [options.objective.beta for options in config] == [0.1, 0.2]
