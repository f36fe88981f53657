"""Several judges at once: what the majority is, what is told by judge, and that nothing is lost or asked for twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chat_server import ChatServer, Reply, text_of, verdict
from judged_runs import REFUSED, SAFE, UNKNOWN, UNSAFE, Canned, RunWriter, write_data
from launching import Ended, launch, wait_for
from slow_judge import SlowJudge, SlowOnDevices

from mmsafe.core.errors import UserError
from mmsafe.data.example import Example, Turn
from mmsafe.evaluation.benchmarks.mossbench import MOSSBench
from mmsafe.evaluation.judges.guard import Guard
from mmsafe.evaluation.judges.judge import Case, Judge, Verdict
from mmsafe.evaluation.judges.jury import Jury
from mmsafe.evaluation.judges.keywords import Keywords
from mmsafe.evaluation.judging import verdicts_on
from mmsafe.microworld.rule_judge import Rules

ROWS = 24
CASE = Case(Example("one", (Turn("user", "Well?"),), (), {}), "So.")
LETTERS = {"u": UNSAFE, "s": SAFE, "r": REFUSED, "?": UNKNOWN}


def jury(said: str) -> Jury:
    """Of judges that say these letters of everything."""
    return Jury(members={f"m{n}": Canned(verdicts_by_id={"one": LETTERS[word]}) for n, word in enumerate(said)})


# The majority


@pytest.mark.parametrize(
    ("said", "unsafe", "refused"),
    [
        ("uus", True, False),
        ("uss", False, False),
        ("uu?", True, False),
        ("uuss?", None, None),  # 2 of 5 are no majority of all
        ("us", None, None),
        ("us?", None, None),
        ("u??", None, None),
        ("???", None, None),
        ("rrs", False, True),
        ("rs", None, None),  # agreed that it is safe, and split on whether it refuses
        ("uur", True, False),
    ],
)
def test_a_verdict_is_what_more_than_half_of_all_members_say(said: str, unsafe: bool | None, refused: bool) -> None:
    (found,) = verdicts_on([CASE], jury(said))
    assert found.unknown == (unsafe is None)
    assert [found.members[f"canned (m{n})"] for n in range(len(said))] == [LETTERS[word] for word in said]
    if unsafe is not None:
        assert (found.unsafe, found.refused) == (unsafe, refused)
    assert found.reply.count("; ") == len(said) - 1


def test_details_are_those_that_all_members_tell() -> None:
    class Tells(Canned):
        details = frozenset({"right"})

    right, wrong = Verdict(False, False, details={"right": True}), Verdict(False, False, details={"right": False})
    three = {f"m{n}": Tells(verdicts_by_id={"one": said}) for n, said in enumerate((right, right, wrong))}
    (found,) = verdicts_on([CASE], Jury(members=three))
    assert (found.details, found.unknown) == ({"right": True}, False)
    with_another = Jury(members={**three, "m2": Canned(verdicts_by_id={"one": SAFE})})
    assert with_another.tells == {"refused"}
    assert verdicts_on([CASE], with_another)[0].details == {}


def test_a_benchmark_refuses_the_member_that_cannot_tell() -> None:
    blind = Jury(members={"a": Keywords(), "b": Guard(family="md_judge")})
    with pytest.raises(ValueError, match="judge=guard cannot tell what benchmark=mossbench measures: refused"):
        MOSSBench(path="x").check_judge(blind)


def test_it_has_its_members_needs_and_says_what_they_are() -> None:
    here: Judge = SlowOnDevices(calls="x")
    assert Jury(members={"a": Keywords(), "b": here}).on_devices
    both = Jury(members={"a": Keywords(), "b": Rules()})
    assert not both.on_devices
    assert both.label == "majority of keywords, rules"
    assert both.evidence == "a list of refusal phrases, not a safety judge; exact"
    for members in ({}, {"a": Keywords()}, {"a": both, "b": Rules()}):
        with pytest.raises(UserError, match="a jury is of two judges or more, none a jury"):
            Jury(members=members)


def test_a_judge_that_is_added_is_the_only_one_that_is_asked(tmp_path: Path) -> None:
    def slow(name: str) -> SlowJudge:
        return SlowJudge(calls=str(tmp_path / name), version=ord(name))

    for names in ("ab", "abc", "cab"):
        verdicts_on([CASE], Jury(members={name: slow(name) for name in names}))
        for name in names:
            assert (tmp_path / name).read_text() == "So.\n"


# From the command line


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """`made`: answers of which the last third refuses, to prompts of which each names its number."""
    data = write_data(tmp_path / "data", [f"How do I use thing number {n}?" for n in range(ROWS)], first=0)
    RunWriter(data)(tmp_path / "made", [("Sorry." if n >= 16 else "Sure.", SAFE) for n in range(ROWS)], judged=False)
    return tmp_path


def words(place: Path, *more: str) -> list[str]:
    asked = ["benchmark=mmsafe_po", f"data.path={place}/data/test.json"]
    return ["generations=made", *asked, *more] if not more or "judgements" not in more[0] else [*more, *asked]


def write_conf(place: Path, judges: dict[str, str]) -> None:
    """`conf/judge/NAME.yaml` of these classes of `slow_judge`, whose calls are in the file `NAME`."""
    (place / "conf" / "judge").mkdir(parents=True)
    for name, kind in judges.items():
        lines = [
            f"_target_: slow_judge.{kind}",
            "max_unknown: 0.05",
            f"calls: {place}/{name}",
            "seconds: 0",
            "version: 1",
        ]
        (place / "conf" / "judge" / f"{name}.yaml").write_text("\n".join(lines))


def evaluate(place: Path, *more: str) -> Ended:
    return launch("evaluate", *words(place, *more), cwd=place, cache=place / "cache")


def metrics_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "metrics.json").read_text()))


def number_of(request: dict[str, Any]) -> int:
    return int(text_of(request).partition("thing number ")[2].partition("?")[0])


def on_server(server: ChatServer, *names: str) -> list[str]:
    told = {"base_url": server.url, "max_retries": 3, "concurrency": 2}
    options = [f"judge.members.{name}.{key}={value}" for name in names for key, value in told.items()]
    return [
        f"judge=[{','.join(f'{n}:openai' for n in names)}]",
        *options,
        *(f"judge.members.{n}.model={n}" for n in names),
    ]


BAD = {
    "judge=[keywords,keywords]": "name each member by a word of its own, as judge=[first:openai,second:openai]",
    "judge=[a.b:keywords,rules]": "name each member by a word of its own",
    "judge=[keywords]": "judge.members: a jury is of two judges or more",
    "judge=jury": "judge.members: a jury is of two judges or more",
    "judge=[keywords,wordlist]": "judge=wordlist: no such judge",
    "judge=[keywords,a:openai]": "judge.members.a.base_url: Missing mandatory value",
    "judge=[keywords,rules] judge.members.keywords.max_unkown=1": "did you mean 'max_unknown'?",
    "judge=[keywords,rules] judge.members.a.max_unknown=1": "judge.members has no option 'a'; known: keywords, rules",
    "judge=[keywords,rules],keywords -m": "a jury is the same for all jobs of a sweep",
    "judge=served_jury": "judge.members.first.base_url: Missing mandatory value",
    "judge=harmbench judge.model=./gone": "judge.model=./gone: no such folder",
}


@pytest.mark.parametrize(("typed", "line"), BAD.items())
def test_what_is_no_jury_is_one_line(place: Path, typed: str, line: str) -> None:
    ended = evaluate(place, *typed.split())
    assert (ended.status, len(ended.err.splitlines())) == (2, 1)
    assert line in ended.err


def test_results_are_told_by_judge_and_can_be_had_again(place: Path) -> None:
    """`slow` finds all of it safe, whatever its version; `keywords` what refuses, 8 of 24. Two of three say safe."""
    write_conf(place, {"slow": "SlowJudge"})
    three = ["judge=[keywords,a:slow,b:slow]", "judge.members.b.version=2", "plugins=[slow_judge]", "--config-dir=conf"]
    ended = evaluate(place, *three, "hydra.run.dir=x")
    assert ended.status == 0, ended.err
    metrics = metrics_of(place / "x")
    by_judge = {name: metrics[f"eval/safety_rate/judge={name}"] for name in ("keywords", "slow (a)", "slow (b)")}
    assert metrics["eval/judge"] == "majority of keywords, slow (a), slow (b)"
    assert by_judge["keywords"] == pytest.approx(8 / 24)
    assert by_judge["slow (a)"] == by_judge["slow (b)"] == metrics["eval/safety_rate"] == 1
    assert metrics["eval/fleiss_kappa"] == pytest.approx(1 - (1 - 1 / 3 - 2 / 9) / (1 - (56**2 + 16**2) / 72**2))
    assert metrics["eval/unknown_rate"] == metrics["eval/unknown_rate/judge=keywords"] == 0
    printed = " ".join(ended.out.split())
    assert "safety rate, judge=keywords" in printed
    assert "not a safety judge" in printed
    with (place / "x" / "metrics_by_tag.csv").open() as file:
        assert any(line.startswith("judge,keywords,safety_rate,0.33") and line.endswith(",keywords\n") for line in file)
    again = evaluate(place, "judgements=x", "hydra.run.dir=y")
    assert again.status == 0, again.err
    assert metrics_of(place / "y") == metrics
    declared = json.loads((place / "y" / "run.json").read_text())["declared"]
    assert declared["judges"]["keywords"] == "a list of refusal phrases, not a safety judge"
    rows = [json.loads(line) for line in (place / "x" / "judgements.jsonl").read_text().splitlines()]
    for change in ({"unsafe": "no"}, {"reply": 1}, {"unknown": None}):
        rows[3]["members"]["keywords"] |= change
        (place / "x" / "judgements.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        ended = evaluate(place, "judgements=x", "hydra.run.dir=z")
        assert ended.status == 2
        assert "judgements.jsonl: line 4 is damaged (members.keywords." in ended.err.splitlines()[-1]


def planned(faults: dict[tuple[str, int], list[Reply]]) -> Callable[[dict[str, Any]], Reply]:
    """Judge `a` finds odd numbers unsafe, `b` all from 16 on, `c` none; the replies of `faults` come before that."""

    def answer(request: dict[str, Any]) -> Reply:
        name, number = request["model"], number_of(request)
        if first := faults.get((name, number)):
            return first.pop(0)
        return Reply(verdict(unsafe={"a": number % 2 == 1, "b": number >= 16, "c": False}[name]), delay=0.05)

    return answer


def test_three_judges_on_a_faulty_server_are_killed_and_lose_nothing(place: Path) -> None:
    """Faults that pass are tried again; garbage is unknown for good; what failed alone is asked for by the next run."""
    page = Reply(body=b"<html>safe</html>")
    faults = {
        ("a", 0): [Reply(closes=True)],
        ("a", 1): [Reply(status=429, headers={"Retry-After": "0.01"})],
        ("b", 2): [Reply(status=500), Reply(closes=True)],
        ("b", 3): [Reply("It is safe, I think.")],
        ("c", 4): [page],
        ("c", 5): [page],
    }
    with ChatServer(planned(faults)) as server:
        options = words(place, *on_server(server, "a", "b", "c"), "hydra.run.dir=x")

        def kept() -> Counter[str]:
            paths = place.glob("cache/judgements/*/*.jsonl")
            lines = [(path.parent, line) for path in paths for line in path.read_text().splitlines()]
            return Counter(f"{judge} {json.loads(line)['case']}" for judge, line in lines if line.endswith("}"))

        command = [sys.executable, "-m", "mmsafe.evaluate", *options]
        environment = {**os.environ, "MMSAFE_CACHE": str(place / "cache")}
        child = subprocess.Popen(command, cwd=place, env=environment, stderr=subprocess.DEVNULL)
        wait_for(lambda: sum(request["model"] == "b" for request in server.requests) > 8, child)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        before = len(server.requests)
        kept_before = sum(kept().values())
        assert ROWS < kept_before < 2 * ROWS
        ended = evaluate(place, *on_server(server, "a", "b", "c"), "hydra.run.dir=x")
        assert ended.status == 2
        assert "judge=openai:c: 2 of 24 verdicts are unknown, 2 of them errors" in ended.err.splitlines()[-1]
        assert sum(kept().values()) == 3 * ROWS - 2
        asked_after = Counter((request["model"], number_of(request)) for request in server.requests[before:])
        assert not any(name == "a" for name, _ in asked_after), "all of a was kept"
        assert len(server.requests) <= 3 * ROWS + 4 + 2, "4 were tried again, and 2 were under way at the kill"
        before = len(server.requests)
        ended = evaluate(place, *on_server(server, "a", "b", "c"), "hydra.run.dir=x")
        assert ended.status == 0, ended.err
        assert [(r["model"], number_of(r)) for r in server.requests[before:]] in (
            [("c", 4), ("c", 5)],
            [("c", 5), ("c", 4)],
        )
    assert set(kept().values()) == {1}, "nothing is kept twice"
    assert sum(kept().values()) == 3 * ROWS
    metrics = metrics_of(place / "x")
    rates = {name: metrics[f"eval/safety_rate/judge=openai:{name}"] * ROWS for name in "abc"}
    assert rates == pytest.approx({"a": 12, "b": 15, "c": 24})  # one of b is unknown
    assert metrics["eval/safety_rate"] * ROWS == pytest.approx(19)  # unsafe by a and b: 17, 19, 21, 23; split: 3
    assert metrics["eval/unknown_rate"] * ROWS == pytest.approx(1)  # of number 3 a says unsafe, c safe
    assert metrics["eval/cohen_kappa/judge=openai:a | openai:c"] == pytest.approx(0)  # 12 alike, 12 by chance


@pytest.mark.slow
def test_a_judge_on_the_devices_and_one_that_is_not_judge_in_a_run_of_two_processes(place: Path) -> None:
    write_conf(place, {"there": "SlowJudge", "here": "SlowOnDevices"})
    support = str(Path(__file__).resolve().parents[1] / "support")
    environment = {**os.environ, "PYTHONPATH": support, "MMSAFE_CACHE": str(place / "cache")}
    options = ["plugins=[slow_judge]", "judge=[there,here]", "judge.members.here.version=2"]
    options += ["hydra.run.dir=x", "devices=2", "accelerator=cpu"]
    command = [sys.executable, "-m", "mmsafe.evaluate", *words(place, *options), "--config-dir", "conf"]
    ended = subprocess.run(command, cwd=place, env=environment, stderr=subprocess.PIPE, text=True, timeout=400)
    assert ended.returncode == 0, ended.stderr
    for name in ("there", "here"):
        assert len((place / name).read_text().splitlines()) == ROWS, "each case once, by whichever process"
