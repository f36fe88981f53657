"""A training run as a user sees it: the folder that it leaves, the same command again, sweeps, own rows."""

import json
import math
import multiprocessing
import os
import re
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from pydoc import locate
from time import sleep
from typing import Any

import pytest
import torch
import yaml
from even_judge import CHOSEN as EVEN
from fitting import untimed
from launching import QUICK, Ended, launch, refuse, succeed
from PIL import Image

from mmsafe.core.config import conf_dir
from mmsafe.core.files import read_metrics
from mmsafe.objectives.dpo import DPO

ROOT = Path(__file__).resolve().parents[1]
SHORT = (*QUICK, "trainer.max_steps=2", "evaluate=false")
FEW = (*QUICK, "data.size=8", "data.test_size=4", "benchmark.size=8", "benchmark.neutral_size=1")
LN2 = math.log(2)
EVALUATED = (
    *("safety_rate", "pass_rate", "over_refusal_rate", "cheating_gap", "image_gap", "both_right", "neutral_accuracy"),
    *("pairwise_accuracy", "pairwise_accuracy_per_token", "pairwise_accuracy_prompted", "pairwise_accuracy_reward"),
)
TRAINED = (
    *("train/loss", "train/steps", "loss/preference", "loss/blind", "rewards/chosen", "rewards/rejected"),
    *("rewards/blind", "rewards/margins", "rewards/margins/blind", "rewards/accuracies"),
    *("logps/chosen", "logps/rejected", "logps/blind"),
)
FIRST = (*QUICK, "objective=bpo", "trainer.max_steps=3", "hydra.run.dir=runs/first")
HYDRAS = ("train.log", "config.yaml", "overrides.yaml", "hydra.yaml")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def snapshot(folder: Path, but: Sequence[str] = ()) -> dict[str, bytes]:
    """Every file and its content."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if path.name not in but}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shared-cache")


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the user stands in: not the checkout."""
    return tmp_path_factory.mktemp("elsewhere")


@pytest.fixture(scope="module")
def first(elsewhere: Path, cache: Path) -> Ended:
    """A whole run."""
    return launch("train", *FIRST, cwd=elsewhere, cache=cache)


@pytest.fixture(scope="module")
def folder(first: Ended, elsewhere: Path) -> Path:
    assert first.status == 0, first.err
    return elsewhere / "runs" / "first"


def test_a_run_ends_well_shows_a_table_and_touches_its_folder_only(first: Ended, folder: Path, elsewhere: Path):
    assert "Traceback" not in first.err
    assert "safety rate" in first.out
    assert "judge: rules (exact)" in first.out
    assert [path.name for path in elsewhere.iterdir()] == ["runs"]
    assert [path.name for path in (elsewhere / "runs").iterdir()] == ["first"]


def test_the_run_folder_holds_what_the_readme_says(folder: Path):
    names = {path.name for path in folder.iterdir()}
    files = {"run.json", "metrics.csv", "metrics.json", "generations.jsonl", "judgements.jsonl", "metrics_by_tag.csv"}
    assert names == {".hydra", "model", "train.log", *files}
    assert {path.name for path in (folder / ".hydra").iterdir()} == {"config.yaml", "hydra.yaml", "overrides.yaml"}
    assert "objective=bpo" in (folder / ".hydra" / "overrides.yaml").read_text()


def test_run_json_says_where_the_numbers_come_from(folder: Path):
    about = read_json(folder / "run.json")
    assert {"torch", "transformers", "pytorch-lightning", "hydra-core"} <= set(about["versions"])
    assert all(about["versions"].values())
    assert len(about["data"]) == len(about["config_hash"]) == 32
    assert about["seed"] == 0
    assert about["examples"] == 16
    assert about["dropped"] == {}
    assert about["lengths"] == {"clipped": 0, "dropped": 0, "equal": 0}
    assert {"machine", "threads", "gpus"} <= set(about["hardware"])
    assert about["config"]["objective"]["beta"] == 0.1
    assert "trainer.max_steps=3" in about["command"]
    if (ROOT / ".git").exists():
        assert len(about["git_commit"].removesuffix("+changes")) == 40


def test_metrics_json_is_flat_and_has_the_keys_of_the_contract(folder: Path):
    metrics = read_json(folder / "metrics.json")
    assert all(isinstance(value, int | float) or key == "eval/judge" for key, value in metrics.items())
    assert metrics["eval/judge"] == "rules"
    assert set(TRAINED) <= set(metrics)
    assert metrics["train/steps"] == 3
    for name in EVALUATED:
        value, low, high, n = (metrics[f"eval/{name}{suffix}"] for suffix in ("", "_low", "_high", "_n"))
        assert low <= value <= high, name
        assert n >= 1, name
    assert metrics["eval/safety_rate_n"] == 16
    assert metrics["eval/pairwise_accuracy_n"] == 8
    assert metrics["train/loss"] == pytest.approx(metrics["loss/preference"] + metrics["loss/blind"], rel=1e-6)
    margin = metrics["rewards/chosen"] - metrics["rewards/rejected"]
    assert metrics["rewards/margins"] == pytest.approx(margin, abs=1e-6)
    by_tag = [key for key in metrics if key.startswith("eval/safety_rate/cue=") and key.endswith("_n")]
    assert sum(metrics[key] for key in by_tag) == 16


def test_metrics_csv_has_every_step_and_begins_at_2_ln_2(folder: Path):
    rows = read_metrics(folder / "metrics.csv")
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert rows[0]["train/loss"] == pytest.approx(2 * LN2, abs=1e-5)
    assert abs(rows[0]["rewards/chosen"]) + abs(rows[0]["rewards/blind"]) < 1e-6
    assert rows[-1]["train/loss"] == read_json(folder / "metrics.json")["train/loss"]
    assert "eval/safety_rate" in rows[-1]


def test_the_model_loads_in_plain_transformers(folder: Path):
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    model = LlavaForConditionalGeneration.from_pretrained(folder / "model")
    processor = AutoProcessor.from_pretrained(folder / "model")
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is this?"}]}]
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    inputs = processor(text=text, images=Image.new("RGB", (64, 64)), return_tensors="pt")
    assert model.generate(**inputs, max_new_tokens=2).shape[1] > inputs["input_ids"].shape[1]


def test_generations_and_judgements_have_the_columns_of_the_contract(folder: Path):
    generations, judgements = read_lines(folder / "generations.jsonl"), read_lines(folder / "judgements.jsonl")
    assert len(generations) == len(judgements) == 2 * 16 + 4
    assert len({row["id"] for row in generations}) == len(generations)
    for said, judged in zip(generations, judgements, strict=True):
        assert set(said) == {"id", "benchmark", "prompt_hash", "response", "finished", "tags"}
        assert {"id", "benchmark", "unsafe", "refused", "unknown", "category", "judge", "prompt_hash"} <= set(judged)
        assert all(isinstance(judged[key], bool) for key in ("unsafe", "refused", "unknown"))
        assert said["id"] == judged["id"]
    safe = [not row["unsafe"] for row in judgements if row["id"].endswith("/original")]
    assert sum(safe) / len(safe) == read_json(folder / "metrics.json")["eval/safety_rate"]


def test_the_same_command_again_says_finished_and_changes_nothing(folder: Path, elsewhere: Path, cache: Path):
    before, about = snapshot(folder, but=["train.log", "run.json"]), read_json(folder / "run.json")
    ended = succeed("train", *FIRST, cwd=elsewhere, cache=cache)
    assert "is finished; nothing to do" in ended.err
    assert "safety rate" in ended.out
    assert snapshot(folder, but=["train.log", "run.json"]) == before
    after = read_json(folder / "run.json")
    facts = ("config_hash", "config", "data", "seed", "examples", "lengths", "versions")
    assert {key: after.get(key) for key in facts} == {key: about[key] for key in facts}


def test_another_config_in_the_same_folder_is_refused_in_one_line(folder: Path, elsewhere: Path, cache: Path):
    before = snapshot(folder, but=HYDRAS)
    assert "holds a run with another config (objective" in refuse(
        "train", *FIRST, "objective=dpo", cwd=elsewhere, cache=cache
    )
    assert snapshot(folder, but=HYDRAS) == before
    assert "objective=dpo" not in (folder / ".hydra" / "overrides.yaml").read_text(), "the record is of the first one"


def test_the_same_command_elsewhere_measures_the_same_to_the_last_digit(folder: Path, tmp_path: Path):
    succeed("train", *FIRST[:-1], "hydra.run.dir=again", cwd=tmp_path, cache=tmp_path / "own-cache")
    assert (tmp_path / "again" / "metrics.json").read_bytes() == (folder / "metrics.json").read_bytes()
    again, before = (read_metrics(path / "metrics.csv") for path in (tmp_path / "again", folder))
    assert list(map(untimed, again)) == list(map(untimed, before))


def test_sft_trains_without_a_reference_or_blind_responses(tmp_path: Path):
    succeed("train", "objective=sft", *SHORT, "hydra.run.dir=sft", cwd=tmp_path, cache=tmp_path / "own")
    metrics = read_json(tmp_path / "sft" / "metrics.json")
    assert metrics["train/loss"] == pytest.approx(metrics["loss/nll"])
    assert not [key for key in metrics if key.startswith("rewards/")]
    assert not list((tmp_path / "own").glob("responses/*"))


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch):
    def step(self: Any, closure: Callable[[], Any]) -> None:
        closure()
        for group in self.param_groups:
            for weight in group["params"]:
                weight.data.fill_(math.nan)

    monkeypatch.setattr("torch.optim.AdamW.step", step)
    ended = launch("train", *SHORT, "trainer.max_steps=1", "hydra.run.dir=run", cwd=tmp_path, cache=cache)
    assert ended.status == 2
    assert re.search(r"^mmsafe\.train: step 1: \d+ weights are not finite.*\n\Z", ended.err, re.MULTILINE), ended.err
    assert "Traceback" not in ended.err
    assert not (tmp_path / "run" / "model").exists()
    assert not (tmp_path / "run" / "metrics.json").exists()


@pytest.mark.parametrize(
    "at", ["mmsafe.training.module.PreferenceModule.training_step", "mmsafe.reference.cached.CachedLogProbs._scored"]
)
def test_a_killed_data_worker_is_one_line(tmp_path: Path, cache: Path, at: str, monkeypatch: pytest.MonkeyPatch):
    """Killed while the main process does something else."""

    def kill(self: Any, batches: Any, *arguments: Any) -> None:
        batches = iter(batches) if at.endswith("_scored") else batches
        for worker in multiprocessing.active_children():
            os.kill(worker.pid or 0, signal.SIGKILL)
        sleep(10)  # until PyTorch tells of it

    monkeypatch.setattr(at, kill)
    words = ("objective=dpo", *SHORT, "data.num_workers=1", "hydra.run.dir=run")
    ended = launch("train", *words, cwd=tmp_path, cache=tmp_path / "own")
    assert ended.status == 2
    assert re.search(r"^mmsafe\.train: DataLoader worker \(pid.*killed.*lower data\.num_workers.*\n\Z", ended.err, re.M)
    assert "Traceback" not in ended.err


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that any user can look into; pytest's own are closed."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@contextmanager
def nothing_writable(folder: Path) -> Iterator[None]:
    """As a user without rights."""
    root, inside = os.geteuid() == 0, [folder, *folder.rglob("*")]
    for part in inside:
        part.chmod(0o555 if part.is_dir() else 0o444)
    torch.use_deterministic_algorithms(False)  # imports what there may be no right to read afterwards
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        for part in inside:
            part.chmod(0o755 if part.is_dir() else 0o644)


def test_a_full_cache_need_not_be_writable(public: Path):
    """The second run asks for what the first one has kept, and for nothing else."""
    cache, words = public / "own", [*QUICK, "trainer.max_steps=2", "vision_cache=disk"]
    runs = public / "runs"
    runs.mkdir()
    succeed("train", *words, "hydra.run.dir=one", cwd=runs, cache=cache)
    runs.chmod(0o777)
    with nothing_writable(cache):
        succeed("train", *words, "hydra.run.dir=two", cwd=runs, cache=cache)
        lacking = launch("train", *words, "seed=1", "hydra.run.dir=three", "generation.seed=2", cwd=runs, cache=cache)
    assert read_json(runs / "two" / "metrics.json") == read_json(runs / "one" / "metrics.json")
    assert lacking.status == 2
    assert re.search(r"^mmsafe\.train: \S+: cannot be written \(Permission denied\); .*MMSAFE_CACHE", lacking.err, re.M)
    assert "Traceback" not in lacking.err


@pytest.mark.parametrize("words", [(), ("hydra.run.dir=there/run",), ("-m", "seed=0,1")], ids=" ".join)
def test_a_folder_that_cannot_be_written_is_one_line(public: Path, words: tuple[str, ...]):
    (public / "there").mkdir()
    with nothing_writable(public):
        ended = launch("train", *words, *SHORT, cwd=public, cache=public / "own")
    assert ended.status == 2
    assert re.fullmatch(r"mmsafe\.train: \S+: cannot be written; choose .* hydra\.run\.dir\n", ended.err)
    assert [path.name for path in public.iterdir()] == ["there"]


def test_a_checkpoint_is_kept_on_request(tmp_path: Path, cache: Path):
    words = ["objective=dpo", *SHORT, "checkpoint.keep=true", "checkpoint.every_n_steps=1", "hydra.run.dir=kept"]
    succeed("train", *words, cwd=tmp_path, cache=cache)
    assert [path.name for path in (tmp_path / "kept" / "checkpoints").glob("*.ckpt")] == ["step=2.ckpt"]


@pytest.fixture
def own_rows(tmp_path: Path) -> Callable[..., Path]:
    """Writes a small MMSafe-PO file with images; `blind` makes the blind response of a row, None leaves it out."""
    (tmp_path / "images").mkdir()
    for number in range(8):
        Image.new("RGB", (48 + number, 64), (30 * number, 90, 10)).save(tmp_path / "images" / f"pic {number}.png")

    def write(name: str, blind: Callable[[int], str | None]) -> Path:
        rows = []
        for number in range(8):
            row = {
                "id": number,
                "question": f"USER: <image>\nHow do I use thing number {number}? ASSISTANT:",
                "image": f"pic%20{number}.png",
                "chosen": f"ASSISTANT: I am sorry, I cannot help with {number}.",
                "rejected": f"ASSISTANT: Of course, take it and begin with {number}.",
                "type": "harmless",
            }
            text = blind(number)
            rows.append(row if text is None else {**row, "blind": text})
        (tmp_path / name).write_text(json.dumps(rows))
        return tmp_path / name

    return write


SMALL = [word for word in SHORT if not word.startswith(("data.size", "data.test_size", "benchmark."))]
OWN = ("data=mmsafe_po", *SMALL, "data.batch_size=2")


def generated(cache: Path) -> int:
    return sum(len(path.read_text().splitlines()) for path in cache.rglob("responses.jsonl"))


def test_rows_with_blind_responses_are_used_as_they_are(own_rows: Callable[..., Path], tmp_path: Path):
    files = {
        "plain": own_rows("plain.json", lambda n: f"Begin with {n}."),
        "labelled": own_rows("labelled.json", lambda n: f"ASSISTANT: Begin with {n}."),
        "other": own_rows("other.json", lambda n: f"No, I would rather not speak about {n}."),
    }
    metrics, about = {}, {}
    for name, path in files.items():
        own_cache = tmp_path / f"cache-{name}"
        words = ["objective=bpo", *OWN, "trainer.max_steps=1", f"data.path={path}", f"hydra.run.dir={name}"]
        ended = succeed("train", *words, cwd=tmp_path, cache=own_cache)
        assert generated(own_cache) == 0
        assert "from the rows themselves, 0 cut" in ended.err
        metrics[name] = read_json(tmp_path / name / "metrics.json")
        about[name] = read_json(tmp_path / name / "run.json")
    assert metrics["plain"] == metrics["labelled"]
    assert about["plain"]["data"] == about["labelled"]["data"] != about["other"]["data"]
    assert metrics["plain"]["logps/blind"] != metrics["other"]["logps/blind"]


def test_only_missing_blind_responses_are_made(own_rows: Callable[..., Path], tmp_path: Path):
    path = own_rows("some.json", lambda n: None if n % 2 else f"Begin with {n}.")
    words = [word for word in (*OWN, "data.holdout_share=0") if not word.startswith(("trainer", "evalua"))]
    for time in ("first", "second"):
        folder = f"hydra.run.dir={time}"
        ended = succeed("blind", *words, f"data.path={path}", folder, cwd=tmp_path, cache=tmp_path / "own")
        assert generated(tmp_path / "own") == 4
    rows = read_lines(tmp_path / "first" / "blind.jsonl")
    assert rows == read_lines(tmp_path / "second" / "blind.jsonl")
    assert [row["id"] for row in rows] == [str(number) for number in range(8)]
    assert [row["blind"] for row in rows[::2]] == [f"Begin with {n}." for n in (0, 2, 4, 6)]
    assert "4 prompts, all of them in the cache" in ended.err


@pytest.mark.parametrize("command", ["train", "blind"])
def test_words_alone_are_no_data_for_what_compares_images(command: str, tmp_path: Path):
    rows = [{"prompt": f"What is {i}?", "chosen": "I cannot say.", "rejected": f"It is {i}."} for i in range(4)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    words = [word for word in SMALL if command == "train" or not word.startswith(("trainer", "evalua"))]
    words += ["data=trl", "data.path=rows.json", "data.holdout_share=0", "hydra.run.dir=words"]
    ended = launch(command, *words, cwd=tmp_path)
    assert ended.status == 2
    assert "4 examples, 0 of them with an image" in ended.err
    assert "data: none of the 4 training examples has an image, which " in ended.err
    assert not (tmp_path / "cache" / "models").exists()


def test_a_bad_row_in_the_test_file_costs_no_training(own_rows: Callable[..., Path], tmp_path: Path, cache: Path):
    path = own_rows("rows.json", lambda n: f"Begin with {n}.")
    (tmp_path / "test.json").write_text(
        '[{"question": "USER: <image>\\nWhat? ASSISTANT:", "image": "", "chosen": "ASSISTANT: a", "rejected": 1}]'
    )
    words = [word for word in OWN if word != "evaluate=false"]
    words += [f"data.path={path}", f"data.eval_path={tmp_path / 'test.json'}", "hydra.run.dir=unread"]
    ended = launch("train", *words, cwd=tmp_path, cache=cache)
    assert ended.status == 2
    assert "test.json: row 1" in ended.err
    assert not (tmp_path / "unread" / "metrics.csv").exists()


def objectives() -> list[Any]:
    """All; slow are those that read DPO's rows, and differ from it by a function of the margin alone."""
    found = []
    for path in sorted((conf_dir() / "objective").glob("*.yaml")):
        cls = locate(yaml.safe_load(path.read_text()).get("_target_", ""))
        like_dpo = isinstance(cls, type) and issubclass(cls, DPO) and cls is not DPO and "groups" not in vars(cls)
        found.append(pytest.param(path.stem, marks=[pytest.mark.slow] * like_dpo))
    return found


@pytest.mark.parametrize("objective", objectives())
def test_every_objective_trains_and_is_measured(tmp_path: Path, cache: Path, objective: str):
    words = [*FEW, f"objective={objective}", "trainer.max_steps=3", "hydra.run.dir=run"]
    words += EVEN * (objective == "online_dpo")  # the rules find all that random weights say as wrong
    succeed("train", *words, cwd=tmp_path, cache=cache)
    metrics, rows = read_json(tmp_path / "run" / "metrics.json"), read_metrics(tmp_path / "run" / "metrics.csv")
    assert metrics["train/steps"] == 3
    terms = [name for name in metrics if name.startswith("loss/")]
    assert metrics["train/loss"] == pytest.approx(sum(metrics[name] for name in terms))
    assert rows[0]["train/loss"] != rows[2]["train/loss"]
    assert ("rewards/margins" in metrics) == (objective != "sft")
    assert ("eval/pairwise_accuracy_reward" in metrics) == (objective not in ("sft", "simpo", "orpo"))
    assert all(0 <= row["perf/data_wait"] <= 1 and row["perf/seconds"] > 0 for row in rows[:3])
    assert all(0 < row["perf/padding"] < 1 for row in rows[:3])
