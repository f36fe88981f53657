"""What a person sees of a run, in three levels, and what is imported for it."""

import json
import logging
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from launching import QUICK, launch

from mmsafe.core.rates import note_rate, rates_of, rough_time
from mmsafe.core.terminal import shown

TINY = (*QUICK, "trainer.max_steps=2", "evaluate=false", "data.num_workers=0")
RUN = """
import json, sys
from mmsafe.train import main
main(json.loads(sys.argv[1]))
print(json.dumps(sorted(sys.modules)), file=open(sys.argv[2], "w"))
"""
NOT_NEEDED = {
    *("peft", "bitsandbytes", "wandb", "datasets", "sklearn", "pandas", "tensorboard"),
    *("torch._inductor.compile_fx", "torch.utils.tensorboard", "transformers.trainer_utils"),
}
NARRATIVE = (
    "16 examples, 16 of them with an image",
    "to do, unless cached: 1 blind responses for 16 examples",
    "blind responses: 16 prompts",
    "reference: 48 responses",
)
Run = Callable[[str], tuple[str, str, str]]


def words(level: str) -> list[str]:
    return [*(word for word in TINY if "progress_bar" not in word), f"verbosity={level}", f"hydra.run.dir={level}"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("levels")


@pytest.fixture(scope="module")
def run(folder: Path) -> Run:
    """A tiny training at a level: its stdout, its stderr and its log file."""

    @cache
    def started(level: str) -> tuple[str, str, str]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("COLUMNS", "400")
            ended = launch("train", *words(level), cwd=folder)
        assert ended.status == 0, ended.err
        return ended.out, ended.err, (folder / level / "train.log").read_text()

    return started


def test_quiet_shows_nothing_but_the_result_and_imports_what_it_uses(folder: Path):
    done = subprocess.run(
        [sys.executable, "-c", RUN, json.dumps(words("quiet")), "modules.json"],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "MMSAFE_CACHE": str(folder / "cache")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["results: quiet", "next: python -m mmsafe.report runs=quiet"]
    assert done.stderr == ""
    log = (folder / "quiet" / "train.log").read_text()
    assert all(line in log for line in NARRATIVE)
    assert NOT_NEEDED & set(json.loads((folder / "modules.json").read_text())) == set()


def test_normal_shows_what_is_done_in_which_order_without_times_and_names(run: Run):
    out, err, log = run("normal")
    assert "what is trained" in out
    assert out.endswith("results: normal\nnext: python -m mmsafe.report runs=normal\n")
    places = [err.index(line) for line in NARRATIVE]
    assert places == sorted(places)
    assert "epoch 1/1, loss" in err
    assert "2/2" in err
    assert "[mmsafe" not in out + err
    assert "arning" not in out + err
    assert all(line in log for line in NARRATIVE)


@pytest.mark.parametrize(("view", "label"), [("auto", "blind"), ("other", "other-image")])
def test_a_second_run_tells_rough_times_and_a_first_that_it_cannot(view: str, label: str, tmp_path: Path):
    def told_by(*words: str) -> str:
        return launch(
            "train", *TINY, f"generation.image_view={view}", *words, cwd=tmp_path, cache=tmp_path / "cache"
        ).err

    first = told_by("hydra.run.dir=first")
    assert "3 train 2 steps; no earlier run like this here tells the time of 1, 2, 3\n" in first
    kept = tmp_path / "cache" / "rates" / "seconds.json"
    assert sorted(key.split(" ", 1)[1] for key in json.loads(kept.read_text())) == [
        *(f"{label} responses", "reference", "steps")
    ]
    second = told_by("hydra.run.dir=second", "seed=1")
    about = r" \(about \d+ (s|min)\)"
    told = f"1 {label} responses for 16 examples{about} · 2 [^·]*{about} · 3 train 2 steps{about}\n"
    assert re.search(told, second)


@pytest.mark.parametrize("content", ["{", "[]", '{"like one blind": null}', "[" * 10**5, '{"like one blind": -1.0}'])
def test_a_damaged_file_of_rates_tells_no_time_and_is_written_anew(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MMSAFE_CACHE", str(tmp_path))
    with rates_of("like one"):
        note_rate("blind", seconds=60.0, count=30)
        assert [rough_time("blind", count) for count in (1, 30, 100, 3600)] == [
            *("about 2 s", "about 60 s", "about 3 min", "about 2.0 h")
        ]
        (tmp_path / "rates" / "seconds.json").write_text(content)
        assert rough_time("blind", 30) == ""
        note_rate("blind", seconds=60.0, count=30)
        assert rough_time("blind", 30) == "about 60 s"
    assert rough_time("blind", 30) == ""


def test_verbose_shows_what_the_file_has(run: Run):
    _, err, log = run("verbose")
    for line in filter(None, log.splitlines()):
        assert line.rpartition(" - ")[2] in err
    assert "[mmsafe.data.data_source] 16 examples" in err


def _said(level: str, capsys: pytest.CaptureFixture[str]) -> str:
    before = set(logging.getLogger().handlers)
    with shown(level, ["mine"]):
        logging.getLogger("mine.reader").warning("a row is odd")
        logging.getLogger("somebody").warning("memory is short")
        logging.getLogger("somebody").error("no room")
        logging.getLogger("matplotlib.font_manager").warning("Matplotlib is building the font cache; this may take…")
        logging.getLogger("DeepSpeed").warning("Setting accelerator to CPU. If you have a GPU, …")
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            logging.captureWarnings(True)
            warnings.warn("x will be y", FutureWarning, stacklevel=1)
            warnings.warn("the loss is large", UserWarning, stacklevel=1)
    assert set(logging.getLogger().handlers) == before
    return capsys.readouterr().err


def test_real_warnings_are_shown_and_noise_is_not(capsys: pytest.CaptureFixture[str]):
    quiet = _said("quiet", capsys)
    assert quiet == _said("normal", capsys)
    assert quiet.startswith("warning: a row is odd\nwarning: memory is short\nerror: no room\n")
    assert "UserWarning: the loss is large" in quiet
    assert len(quiet.splitlines()) == 4
    verbose = _said("verbose", capsys)
    for line in ("font cache", "accelerator to CPU", "x will be y", "the loss is large"):
        assert line in verbose


def test_another_level_is_refused(tmp_path: Path):
    ended = launch("train", "verbosity=loud", cwd=tmp_path, cache=tmp_path)
    assert ended.status == 2
    assert ended.err == "mmsafe.train: verbosity=loud: must be one of quiet, normal, verbose\n"
    assert list(tmp_path.iterdir()) == []
