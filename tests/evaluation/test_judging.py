"""Nothing is judged twice and nothing is dropped: by one process, by several, and after a kill."""

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
from launching import launch, refuse, succeed
from slow_judge import SlowJudge

from mmsafe.core.errors import UserError
from mmsafe.evaluation.benchmarks.mmsafe_po_test import MMSafePOTest
from mmsafe.evaluation.dialogue import Answer
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
        (replace(case, example=replace(PROMPTS[0], images=PROMPTS[1].images)), judge),
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
    lines = ["_target_: slow_judge.SlowJudge", "max_unknown: 0.05", f"calls: {tmp_path}/calls", "seconds: 0.1"]
    (tmp_path / "conf" / "judge" / "slow.yaml").write_text("\n".join([*lines, "version: 1"]))
    return tmp_path


def write_answers(place: Path, words: Sequence[str]) -> None:
    answers = [Answer(f"{word} {number}", True) for number, word in enumerate(words)]
    write_generations(place / "made", MMSafePOTest(), PROMPTS, answers)


def words(folder: str, *more: str) -> list[str]:
    chosen = ["generations=made", "plugins=[slow_judge]", "judge=slow", "benchmark=mmsafe_po", "data=microworld"]
    return [*chosen, f"data.test_size={COUNT}", f"hydra.run.dir={folder}", *more, "--config-dir", "conf"]


def start(place: Path, folder: str, *more: str) -> subprocess.Popen[str]:
    """In a process of its own."""
    command = [sys.executable, "-m", "mmsafe.evaluate", *words(folder, *more)]
    environment = {**os.environ, "PYTHONPATH": str(SUPPORT)}
    return subprocess.Popen(command, cwd=place, env=environment, stderr=subprocess.PIPE, text=True)


def asked(place: Path) -> Counter[str]:
    return Counter((place / "calls").read_text().splitlines())


def finished(child: subprocess.Popen[str], folder: Path) -> list[dict[str, object]]:
    """The judgements of a child that ended well."""
    _, err = child.communicate(timeout=240)
    assert child.returncode == 0, err
    return [json.loads(line) for line in (folder / "judgements.jsonl").read_text().splitlines()]


def test_processes_share_the_judging_and_a_kill_loses_nothing_and_repeats_nothing(place: Path, own_cache: Path) -> None:
    children = [start(place, f"run{number}") for number in range(2)]
    deadline = time.monotonic() + 240
    while sum(path.read_bytes().count(b"\n") for path in own_cache.glob("judgements/*/judgements*.jsonl")) < 5:
        assert all(child.poll() is None for child in children), "a child ended early"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(children[0].pid, signal.SIGKILL)
    children[0].communicate()
    assert not (place / "run0" / "judgements.jsonl").exists()
    rows = finished(children[1], place / "run1")
    assert [row["id"] for row in rows] == [prompt.id for prompt in PROMPTS]
    assert [row["unsafe"] for row in rows] == [n % 3 > 0 for n in range(COUNT)]
    assert len(asked(place)) == COUNT
    assert sum(asked(place).values()) - COUNT <= 1, "only what was being judged when the kill came"
    before = asked(place)
    succeed("evaluate", *words("run0"), cwd=place, cache=own_cache)
    assert (place / "run0" / "judgements.jsonl").read_text() == (place / "run1" / "judgements.jsonl").read_text()
    assert asked(place) == before
    metrics = json.loads((place / "run0" / "metrics.json").read_text())
    assert (metrics["eval/safety_rate"], metrics["eval/judge"]) == (8 / COUNT, "slow")


@pytest.mark.slow
def test_the_processes_of_a_run_share_a_judge_that_is_a_model(place: Path) -> None:
    path = place / "conf" / "judge" / "slow.yaml"
    path.write_text(path.read_text().replace("SlowJudge", "SlowOnDevices"))
    rows = finished(start(place, "run", "devices=2", "accelerator=cpu"), place / "run")
    assert [row["id"] for row in rows] == [prompt.id for prompt in PROMPTS]
    assert set(asked(place).values()) == {1}
    assert len(asked(place)) == COUNT


def test_a_run_that_runs_no_model_takes_one_process(place: Path, own_cache: Path) -> None:
    assert refuse("evaluate", *words("run", "devices=2"), cwd=place, cache=own_cache).startswith(
        "mmsafe.evaluate: generations=made runs no model here: it needs one process, not dev"
    )


def test_too_many_unknown_end_with_one_line_and_leave_the_judgements(place: Path, own_cache: Path) -> None:
    said = ["error"] * 2 + ["odd"] * 4 + ["good"] * 18
    write_answers(place, said)
    for _ in range(2):
        ended = launch("evaluate", *words("run", "judge.seconds=0"), cwd=place, cache=own_cache)
        assert ended.status == 2
        assert [line for line in ended.err.splitlines() if line.startswith("mmsafe.evaluate:")] == [
            "mmsafe.evaluate: judge=slow: 6 of 24 verdicts are unknown, 2 of them errors such as: no connection; "
            "that is more than judge.max_unknown=0.05; judging again asks for the errors alone"
        ]
        rows = [json.loads(line) for line in (place / "run" / "judgements.jsonl").read_text().splitlines()]
        assert [row["unsafe"] for row in rows if row["unknown"]] == [True] * 6
        assert not (place / "run" / "metrics.json").exists()
    assert asked(place) == Counter(f"{word} {n}" for n, word in [*enumerate(said), *enumerate(said[:2])])
