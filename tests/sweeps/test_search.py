"""A search by Optuna: what it asks, what it keeps, how it goes on. A launcher that needs no training stands in."""

import csv
import json
import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf

from mmsafe.core.errors import UserError
from mmsafe.experiment.train_config import TrainConfig
from mmsafe.runs.expansion import SweepPlan, plan
from mmsafe.runs.hydra_state import composed_for_sweep, composing
from mmsafe.runs.preflight import check
from mmsafe.sweeps.search import search


class Formula:
    """Answers at once: safer with a larger β, refusing more, too, and fails for `seed=13`."""

    def __init__(self, folder: Path, dies_at: int | None = None) -> None:
        self.folder, self.dies_at = folder, dies_at
        self.asked: list[list[str]] = []

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        found = []
        for words in job_overrides:
            if self.dies_at is not None and len(self.asked) == self.dies_at:
                raise KeyboardInterrupt  # as abrupt as a kill: nothing is told to the study
            self.asked.append(list(words))
            found.append(self._answer(dict(word.split("=", 1) for word in words)))
        return found

    def _answer(self, options: dict[str, str]) -> JobReturn:
        beta = float(options.get("objective.beta", "0"))
        run = self.folder / f"job-{options['objective']}-{beta:.6f}-{options.get('seed', 0)}"
        run.mkdir(exist_ok=True)
        metrics = {"eval/safety_rate": beta, "eval/over_refusal_rate": beta**2, "train/loss": 1.0}
        metrics["eval/neutral_accuracy"] = 0.5
        (run / "metrics.json").write_text(json.dumps(metrics))
        hydra_cfg = OmegaConf.create({"hydra": {"runtime": {"output_dir": str(run)}}})
        status = JobStatus.FAILED if options.get("seed") == "13" else JobStatus.COMPLETED
        return JobReturn(overrides=[], hydra_cfg=hydra_cfg, working_dir=str(run), status=status)


@contextmanager
def asked(folder: Path, *words: str) -> Iterator[tuple[Any, SweepPlan]]:
    """The config of `sweep=optuna` with these words, and what it asks for."""
    folder.mkdir(exist_ok=True)
    given = ["sweep=optuna", *words, f"hydra.sweep.dir={folder}"]
    with composing("train", None):
        yield composed_for_sweep("train", given), plan("train", given)


def searched(folder: Path, *words: str, dies_at: int | None = None) -> tuple[Formula, list[JobReturn]]:
    """`sweep=optuna` with these words."""
    launcher = Formula(folder, dies_at)
    with asked(folder, *words) as (config, wanted):
        return launcher, search(config, wanted, launcher)  # type: ignore[arg-type]


def betas(launcher: Formula) -> list[float]:
    return [float(dict(word.split("=", 1) for word in words)["objective.beta"]) for words in launcher.asked]


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "pareto.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_front_holds_what_no_other_trial_beats(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Safety grows with β and so does refusing, so that every trial is on the front; but of one objective the best."""
    launcher, returns = searched(tmp_path / "two", "objective=dpo", "search.n_trials=4")
    assert len(returns) == 4
    assert all(0.01 <= beta <= 1.0 for beta in betas(launcher))
    rates = [float(row["eval/safety_rate"]) for row in rows(tmp_path / "two")]
    assert sorted(rates) == pytest.approx(sorted(betas(launcher)))
    assert "Pareto front" in capsys.readouterr().out
    launcher, _ = searched(tmp_path / "one", "objective=dpo", "search.n_trials=5", "search.minimize=[]")
    (best,) = rows(tmp_path / "one")
    assert float(best["objective.beta"]) == max(betas(launcher))


def test_the_same_search_again_has_nothing_to_do_and_a_longer_one_goes_on(tmp_path: Path):
    first, _ = searched(tmp_path / "s", "objective=dpo", "search.n_trials=3")
    same, _ = searched(tmp_path / "s", "objective=dpo", "search.n_trials=3")
    longer, _ = searched(tmp_path / "s", "objective=dpo", "search.n_trials=5")
    assert [len(launcher.asked) for launcher in (first, same, longer)] == [3, 0, 2]
    assert not set(betas(first)) & set(betas(longer))


def test_a_trial_that_was_interrupted_is_asked_again(tmp_path: Path):
    with pytest.raises(KeyboardInterrupt):
        searched(tmp_path / "s", "objective=dpo", "search.n_trials=4", "search.batch=2", dies_at=3)
    launcher, _ = searched(tmp_path / "s", "objective=dpo", "search.n_trials=4", "search.batch=2")
    assert len(launcher.asked) == 2
    done = [float(path.name.split("-")[2]) for path in (tmp_path / "s").glob("job-*")]
    assert len(done) == 4, "of the batch that was cut off one job had run, and is not another one now"


class Killed:
    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> None:
        Path("asked").write_text(job_overrides[0][-1])
        os.kill(os.getpid(), signal.SIGKILL)


def search_and_die(folder: Path) -> None:
    os.chdir(folder)
    with asked(folder, "objective=dpo", "search.n_trials=2") as (config, wanted):
        search(config, wanted, Killed())  # type: ignore[arg-type]


def test_after_kill_9_the_running_trial_is_asked_first(tmp_path: Path):
    process = multiprocessing.get_context("fork").Process(target=search_and_die, args=(tmp_path,))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    launcher, _ = searched(tmp_path, "objective=dpo", "search.n_trials=2")
    assert len(launcher.asked) == 2
    assert (tmp_path / "asked").read_text() in launcher.asked[0]


def test_failed_trials_count_and_are_asked_again_on_request_only(tmp_path: Path):
    words = ("objective=dpo", "objective.beta=0.1", "seed=12,13", "search.n_trials=8")
    first, returns = searched(tmp_path / "s", *words)
    failed = sum(returned.status == JobStatus.FAILED for returned in returns)
    assert 0 < failed < 8
    again, _ = searched(tmp_path / "s", *words)
    assert again.asked == []
    retried, _ = searched(tmp_path / "s", *words, "launcher.retry_failed=true")
    assert all("seed=13" in job for job in retried.asked)
    assert 0 < len(retried.asked) <= failed
    assert len(first.asked) == 8


def test_a_choice_is_made_without_the_options_that_it_lacks(tmp_path: Path):
    launcher, _ = searched(tmp_path / "s", "objective=sft,dpo", "search.n_trials=8")
    by_objective = {word: words for words in launcher.asked for word in words if word.startswith("objective=")}
    assert set(by_objective) == {"objective=sft", "objective=dpo"}
    for words in launcher.asked:
        assert any(word.startswith("objective.beta=") for word in words) == ("objective=dpo" in words)


def test_a_metric_that_is_not_measured_is_named_with_those_that_are(tmp_path: Path):
    with pytest.raises(UserError, match=r"search: eval/usr is not measured here; .*eval/safety_rate"):
        searched(tmp_path / "s", "objective=dpo", "search.minimize=[eval/usr]")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data=mmsafe_po", "data.path=a.json", "data.eval_path=b.json"], "data.eval_path: a search would tune on it"),
        (["data=mmsafe_po", "data.path=a", "data.eval_split=test"], "data.eval_split: a search would tune on it"),
        (["data=mmsafe_po", "data.path=a", "benchmark=harmeval", "benchmark.path=b"], "would tune on this test set"),
        (["evaluate=false"], "evaluate=false: a search needs the evaluation"),
        (["objective.beta=0.1", "objective=dpo"], "sweep=optuna: nothing is left open"),
        (["objective.beta=interval(1,0.1)"], "objective.beta=interval(1,0.1): needs low < high"),
        (["objective.beta=tag(log,interval(0,1))"], "low > 0 with tag(log"),
        (["objective.beta=interval(-1,1)"], "objective.beta=-1.0: should be greater than 0"),
        (["search.n_trials=0"], "search.n_trials=0: should be greater than or equal to 1"),
        (["search.ntrials=1"], "search.ntrials: search has no option 'ntrials'; did you mean 'n_trials'?"),
        (["benchmark=own_prompts", "search.maximize=[]"], "maximize and minimize are empty"),
        (["search.minimize=[]", "search.maximize=[]"], "maximize and minimize are empty"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_a_search_cannot_use_is_refused_before_the_first_trial(words: list[str], message: str):
    with pytest.raises(UserError) as caught:
        check("train", TrainConfig, ["sweep=optuna", *words])
    assert message in str(caught.value)


def test_ranges_and_integers_keep_their_kind(tmp_path: Path):
    words = ("objective=dpo", "objective.beta=0.1", "seed=range(2,9,3)", "data.size=int(interval(8,12))")
    launcher, _ = searched(tmp_path / "s", *words, "search.n_trials=6")
    drawn = [dict(word.split("=", 1) for word in job) for job in launcher.asked]
    assert {int(job["seed"]) for job in drawn} <= {2, 5, 8}
    assert {int(job["data.size"]) for job in drawn} <= set(range(8, 13))
