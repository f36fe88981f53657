"""Nothing is judged twice and nothing is dropped: by one process, by several, and after a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from slow_judge import SlowJudge

from mmsafe.core.errors import UserError
from mmsafe.evaluation.benchmarks.mmsafe_po_test import MMSafePOTest
from mmsafe.evaluation.judges.judge import Case, Verdict, unknown
from mmsafe.evaluation.judges.keywords import Keywords
from mmsafe.evaluation.judging import case_key, verdicts_on
from mmsafe.evaluation.stages import write_generations
from mmsafe.microworld.reader import MicroWorld

COUNT = 24
PROMPTS = MicroWorld(test_size=COUNT).test().examples
SUPPORT = Path(__file__).resolve().parents[1] / "support"


def cases(*responses: str) -> list[Case]:
    return [Case(prompt, response) for prompt, response in zip(PROMPTS, responses, strict=False)]


@pytest.fixture
def judge(tmp_path: Path) -> SlowJudge:
    return SlowJudge(calls=str(tmp_path / "calls"))


def calls(judge: SlowJudge) -> list[str]:
    path = Path(judge.calls)
    return path.read_text().splitlines() if path.exists() else []


# One process


def test_a_verdict_is_asked_for_once(judge: SlowJudge) -> None:
    asked = cases("good", "bad", "odd")
    first = verdicts_on(asked, judge)
    assert first == [
        Verdict(unsafe=False, refused=False, category="c", reply="said"),
        Verdict(unsafe=True, refused=False, category="c", reply="said"),
        unknown("?"),
    ]
    assert verdicts_on(asked[::-1], judge) == first[::-1]
    assert verdicts_on([asked[1], asked[1]], judge) == [first[1]] * 2
    assert calls(judge) == ["good", "bad", "odd"]


def test_an_error_is_asked_for_again_and_everything_else_is_not(judge: SlowJudge) -> None:
    asked = cases("good", "error", "bad")
    for _ in range(2):
        assert [verdict.error for verdict in verdicts_on(asked, judge)] == ["", "no connection", ""]
    assert Counter(calls(judge)) == {"good": 1, "bad": 1, "error": 2}


def test_what_changes_a_verdict_changes_its_place_in_the_cache(judge: SlowJudge) -> None:
    class ByCriterion(SlowJudge):
        criteria = frozenset({"harm", "refuse_only"})

    class OtherPrompt(SlowJudge):
        def template(self, criterion: str) -> str:
            return f"Version 2. {criterion}?"

    case = cases("good")[0]
    asked = [
        (case, judge),
        (replace(case, response="good."), judge),
        (replace(case, example=PROMPTS[1]), judge),
        (replace(case, example=replace(PROMPTS[0], image=PROMPTS[1].image)), judge),
        (case, replace(judge, version=2)),
        (case, OtherPrompt(calls=judge.calls)),
        (replace(case, criterion="refuse_only"), ByCriterion(calls=judge.calls)),
        (replace(case, criterion="harm"), ByCriterion(calls=judge.calls, version=3)),
    ]
    for number, (one, by) in enumerate(asked, 1):
        verdicts_on([one], by)
        assert len(calls(judge)) == number
    harm, refuse_only = (case_key(replace(case, criterion=c), ByCriterion(calls="")) for c in ("harm", "refuse_only"))
    assert harm != refuse_only, "the same prompt may be read in two ways"
    verdicts_on([replace(case, criterion="refuse_only")], replace(judge, max_unknown=0.5, seconds=0.01))
    assert len(calls(judge)) == len(asked), "one standard for all, and options that change nothing"


def test_a_judge_that_leaves_out_a_case_is_an_error(judge: SlowJudge) -> None:
    class Forgetful(SlowJudge):
        def verdicts(self, cases: Sequence[Case]) -> Iterator[tuple[int, Verdict]]:
            yield from list(super().verdicts(cases))[1:]

    class ForgetfulAtOnce(Keywords):
        def verdicts(self, cases: Sequence[Case]) -> Iterator[tuple[int, Verdict]]:
            yield from list(super().verdicts(cases))[1:]

    for forgetful in (Forgetful(calls=judge.calls), ForgetfulAtOnce()):
        with pytest.raises(UserError, match="gave no verdict on 1 of 2 cases"):
            verdicts_on(cases("good", "bad"), forgetful)


def test_a_damaged_line_in_the_cache_is_named(judge: SlowJudge, own_cache: Path) -> None:
    verdicts_on(cases("good"), judge)
    (path,) = own_cache.glob("judgements/*/judgements.jsonl")
    whole = path.read_text()
    for damaged in ("{}\n", "[]\n", "x\n", whole.replace('"unsafe"', '"usafe"')):
        path.write_text(damaged)
        with pytest.raises(UserError, match=r"judgements\.jsonl: a line is damaged .* delete the file"):
            verdicts_on(cases("good"), judge)
    path.write_text(whole[:-5])
    assert verdicts_on(cases("good"), judge)
    assert path.read_text() == whole, "a line that was cut by a kill is made again"


# Several processes, and kills


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A run folder `made` with answers of which each third is good, and `conf/judge/slow.yaml`."""
    write_answers(tmp_path, ["bad" if n % 3 else "good" for n in range(COUNT)])
    (tmp_path / "conf" / "judge").mkdir(parents=True)
    lines = ["_target_: slow_judge.SlowJudge", "max_unknown: 0.05", "calls: calls", "seconds: 0.1", "version: 1"]
    (tmp_path / "conf" / "judge" / "slow.yaml").write_text("\n".join(lines))
    return tmp_path


def write_answers(place: Path, words: Sequence[str]) -> None:
    answers = [(f"{word} {number}", True) for number, word in enumerate(words)]
    write_generations(place / "made", MMSafePOTest(), PROMPTS, answers)


def start(place: Path, folder: str, *words: str) -> subprocess.Popen[str]:
    """`mmsafe.evaluate generations=made judge=slow` with all calls in one file."""
    command = [
        sys.executable,
        "-m",
        "mmsafe.evaluate",
        "generations=made",
        "plugins=[slow_judge]",
        "judge=slow",
        f"judge.calls={place / 'calls'}",
    ]
    chosen = ["benchmark=mmsafe_po", "data=microworld", f"data.test_size={COUNT}", f"hydra.run.dir={folder}"]
    return subprocess.Popen(
        [*command, *chosen, *words, "--config-dir", "conf"],
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(SUPPORT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def asked(place: Path) -> Counter[str]:
    path = place / "calls"
    return Counter(path.read_text().splitlines() if path.exists() else [])


def kept(cache: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in cache.glob("judgements/*/judgements*.jsonl"))


def wait_for(cache: Path, count: int, *children: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while kept(cache) < count:
        assert all(child.poll() is None for child in children), "a child ended early"
        assert time.monotonic() < deadline
        time.sleep(0.01)


def finished(child: subprocess.Popen[str], folder: Path) -> list[dict[str, object]]:
    """The judgements of a child that ended well."""
    _, err = child.communicate(timeout=120)
    assert child.returncode == 0, err
    return [json.loads(line) for line in (folder / "judgements.jsonl").read_text().splitlines()]


def test_a_kill_in_mid_judging_loses_nothing_and_repeats_nothing(place: Path, own_cache: Path) -> None:
    killed = start(place, "run")
    wait_for(own_cache, 5, killed)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert 5 <= sum(asked(place).values()) < COUNT
    assert not (place / "run" / "judgements.jsonl").exists()
    rows = finished(start(place, "run"), place / "run")
    assert [row["id"] for row in rows] == [prompt.id for prompt in PROMPTS]
    assert [row["unsafe"] for row in rows] == [n % 3 > 0 for n in range(COUNT)]
    assert len(asked(place)) == COUNT
    assert sum(asked(place).values()) - COUNT <= 1, "only what was being judged when the kill came"
    metrics = json.loads((place / "run" / "metrics.json").read_text())
    assert metrics["eval/safety_rate"] == 8 / COUNT
    assert metrics["eval/judge"] == "slow"


def test_processes_that_judge_the_same_share_it(place: Path, own_cache: Path) -> None:
    children = [start(place, f"run{number}") for number in range(3)]
    wait_for(own_cache, 3, *children)
    os.kill(children[0].pid, signal.SIGKILL)
    children[0].communicate()
    first, second = (finished(child, place / f"run{number}") for number, child in enumerate(children[1:], 1))
    assert first == second
    assert len(asked(place)) == COUNT
    assert sum(asked(place).values()) - COUNT <= 1, "only what the killed one was judging"


def test_the_processes_of_a_run_share_a_judge_that_is_a_model(place: Path) -> None:
    path = place / "conf" / "judge" / "slow.yaml"
    path.write_text(path.read_text().replace("SlowJudge", "SlowOnDevices"))
    rows = finished(start(place, "run", "devices=2", "accelerator=cpu"), place / "run")
    assert [row["id"] for row in rows] == [prompt.id for prompt in PROMPTS]
    assert asked(place) == Counter(str(row) for row in asked(place))
    assert len(asked(place)) == COUNT


def test_a_run_that_runs_no_model_takes_one_process(place: Path) -> None:
    child = start(place, "run", "devices=2")
    _, err = child.communicate(timeout=120)
    assert (child.returncode, len(err.splitlines())) == (2, 1)
    assert err.startswith("mmsafe.evaluate: generations=made runs no model here: it needs one process, not devices=2")


def test_too_many_unknown_end_with_one_line_and_leave_the_judgements(place: Path) -> None:
    words = ["error"] * 2 + ["odd"] * 4 + ["good"] * 18
    write_answers(place, words)
    child = start(place, "run", "judge.seconds=0")
    _, err = child.communicate(timeout=120)
    assert child.returncode == 2
    assert [line for line in err.splitlines() if line.startswith("mmsafe.evaluate:")] == [
        "mmsafe.evaluate: judge=slow: 6 of 24 verdicts are unknown, 2 of them errors such as: no connection; "
        "that is more than judge.max_unknown=0.05; judging again asks for the errors alone"
    ]
    rows = [json.loads(line) for line in (place / "run" / "judgements.jsonl").read_text().splitlines()]
    assert sum(row["unknown"] for row in rows) == 6
    assert all(row["unsafe"] for row in rows if row["unknown"])
    assert not (place / "run" / "metrics.json").exists()
    child = start(place, "run", "judge.seconds=0")
    child.communicate(timeout=120)
    assert child.returncode == 2
    assert asked(place) == Counter(f"{word} {n}" for n, word in [*enumerate(words), *enumerate(words[:2])])
