"""`mmsafe.evaluate` with models behind endpoints: one that answers, one that judges, and a process that is killed."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from chat_server import ChatServer, Reply, text_of, verdict
from judged_runs import write_data
from launching import launch, refuse, succeed
from published import safemt

from mmsafe.reporting.run_samples import read_samples

ROWS = 24
NUMBER = re.compile(r"thing number (\d+)")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A file in MMSafe-PO's format, with its images."""
    return write_data(tmp_path / "data", [f"How do I use thing number {number}?" for number in range(ROWS)], first=0)


def number_of(request: dict[str, Any]) -> int:
    found = NUMBER.search(text_of(request))
    assert found
    return int(found[1])


def judging(request: dict[str, Any]) -> Reply:
    """Even numbers are refused, the others unsafe."""
    odd = number_of(request) % 2 == 1
    return Reply(verdict(unsafe=odd, refused=not odd))


def answering(request: dict[str, Any]) -> Reply:
    return Reply(f"This is how: {number_of(request)}")


def words(data: Path, judge: ChatServer, *more: str) -> list[str]:
    """As a user would type them."""
    return [
        *("model=random", "benchmark=mmsafe_po", f"data.path={data}", "evaluation.max_new_tokens=6", "hydra.run.dir=x"),
        *("judge=openai", f"judge.base_url={judge.url}", "judge.model=m", "judge.max_retries=0", *more),
    ]


def served(server: ChatServer) -> list[str]:
    return [
        "generation=endpoint",
        f"generation.base_url={server.url}",
        "generation.model=p",
        "generation.max_retries=0",
    ]


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def metrics_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "metrics.json").read_text()))


def test_what_the_judge_says_is_measured_and_errors_alone_are_asked_again(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first time a reply is no verdict and two requests fail, one of them with the key in its message."""
    monkeypatch.setenv("MY_KEY", "sk-planted")
    bad = {3: Reply("unsafe? safe!"), 5: Reply(status=503), 7: Reply(status=400, message="sk-planted is your key")}
    with ChatServer(lambda request: bad.get(number_of(request)) or judging(request)) as judge:
        options = words(data, judge, "judge.api_key_env=MY_KEY", "hydra.verbose=true")
        first = launch("evaluate", *options, cwd=tmp_path)
        assert first.status == 2
        assert "3 of 24 verdicts are unknown, 2 of them errors such as: HTTP 503" in first.err.splitlines()[-1]
        assert not (tmp_path / "x" / "metrics.json").exists()
        assert set(map(number_of, judge.requests)) == set(range(ROWS))
        assert judge.keys == {"Bearer sk-planted"}
        assert rows(tmp_path / "x" / "judgements.jsonl")[5]["error"] == "HTTP 503"
        bad.clear()
        judge.requests.clear()
        again = succeed("evaluate", *options, cwd=tmp_path)
        assert sorted(map(number_of, judge.requests)) == [5, 7]
    found = rows(tmp_path / "x" / "judgements.jsonl")
    assert [row["id"] for row in found] == [str(number) for number in range(ROWS)]
    assert [row["unknown"] for row in found] == [number == 3 for number in range(ROWS)]
    assert found[3]["reply"] == "unsafe? safe!"
    assert {row["judge"] for row in found} == {"openai:m"}
    assert len({row["prompt_hash"] for row in found}) == 1
    metrics = metrics_of(tmp_path / "x")
    assert metrics["eval/safety_rate"] == metrics["eval/safety_rate_if_bad"] == 12 / 24  # the even ones
    assert metrics["eval/safety_rate_if_good"] == 13 / 24
    assert metrics["eval/unknown_rate"] == 1 / 24
    assert "planted" not in first.out + first.err + again.out + again.err
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"run.json", "judgements.jsonl", "evaluate.log"} <= {path.name for path in files}
    assert [path for path in files if b"planted" in path.read_bytes()] == []


def test_a_served_model_is_asked_and_none_is_loaded(data: Path, tmp_path: Path) -> None:
    """Those whose prompt got no answer are asked again by the same command, after all others are kept."""
    failing = {2: Reply(status=500), 3: Reply(None), 4: Reply("", finish_reason="content_filter")}
    special = {5: Reply(""), 6: Reply("cut", finish_reason="length"), 7: Reply(None, refusal="I will not.")}
    with ChatServer(judging) as judge, ChatServer(answering) as model:
        model.answer = lambda r: (failing | special).get(number_of(r)) or answering(r)
        options = words(data, judge, *served(model))
        first = launch("evaluate", *options, cwd=tmp_path)
        assert first.status == 2
        assert "3 of 24 prompts got no answer, such as " in first.err.splitlines()[-1]
        assert judge.requests == []
        assert sorted(map(number_of, model.requests)) == list(range(ROWS))
        for request in model.requests:
            assert (request["model"], request["max_tokens"], request["temperature"]) == ("p", 6, 0)
            (message,) = request["messages"]
            assert message["content"][0]["image_url"]["url"].startswith("data:image/png;base64,")
            assert message["content"][1]["text"] == f"How do I use thing number {number_of(request)}?"
        failing.clear()
        model.requests.clear()
        succeed("evaluate", *options, cwd=tmp_path)
        assert sorted(map(number_of, model.requests)) == [2, 3, 4]
        assert sum(f"This is how: {number_of(r)}\n" in text_of(r) for r in judge.requests) == ROWS - len(special)
        moved = [*options, "hydra.run.dir=y", "generation.concurrency=2"]
        succeed("evaluate", *moved, cwd=tmp_path)
        assert (len(model.requests), len(judge.requests)) == (3, ROWS)  # all from the cache
    generations = [(row["response"], row["finished"]) for row in rows(tmp_path / "x" / "generations.jsonl")]
    assert generations[5:8] == [("", True), ("cut", False), ("I will not.", True)]
    assert generations[8:] == [(f"This is how: {number}", True) for number in range(8, ROWS)]
    metrics = metrics_of(tmp_path / "x")
    assert metrics["eval/safety_rate"] == 0.5
    assert not [name for name in metrics if "pairwise" in name]
    assert "model.safetensors" not in {path.name for path in tmp_path.rglob("*")}


def test_a_served_model_is_asked_turn_by_turn(tmp_path: Path) -> None:
    """Each turn shows it its own answers; one that fails is asked again from there, and pages show the dialogue."""
    folder = safemt(tmp_path / "safemt")

    def turn(request: dict[str, Any]) -> str:
        return f"own answer {sum(message['role'] == 'user' for message in request['messages'])}"

    def fails(request: dict[str, Any]) -> bool:
        return "question 2 about fraud" in text_of(request)

    own = ("benchmark=safemt", "benchmark.turns=[1,4]", "benchmark.earlier_answers=own", f"benchmark.path={folder}")
    with ChatServer(lambda r: Reply(verdict(unsafe=True))) as judge, ChatServer(lambda r: Reply(turn(r))) as model:
        options = [*(word for word in words(folder, judge, *served(model)) if "mmsafe_po" not in word), *own]
        options = [word for word in options if not word.startswith(("data.", "model="))]
        model.answer = lambda request: Reply(status=500) if fails(request) else Reply(turn(request))
        first = launch("evaluate", *options, cwd=tmp_path, cache=tmp_path / "cache")
        assert first.status == 2
        assert "1 of 2 prompts got no answer, such as 4/mllm_fraud_1 " in first.err.splitlines()[-1]
        assert len(model.requests) == 2 + 2 + 2  # both lengths have the same first turn
        model.answer = lambda request: Reply(turn(request))
        model.requests.clear()
        again = launch("evaluate", *options, cwd=tmp_path, cache=tmp_path / "cache")
        assert again.status == 0, again.err
        assert len(model.requests) == 1 + 2
        said = [message["content"] for message in model.requests[-1]["messages"]]
        assert said[0][0]["image_url"]["url"].startswith("data:image/png;base64,")
        assert said[1::2] == ["own answer 1", "own answer 2", "own answer 3"]
        assert [text.partition(" about")[0] for text in said[2::2]] == ["question 1", "question 2", "question 3"]
        assert len(judge.requests) == 4
        assert sum("ASSISTANT: own answer 3" in text for text in judge.asked()) == 2
    written = {row["id"]: row for row in rows(tmp_path / "x" / "generations.jsonl")}
    assert written["4/mllm_fraud_1"]["earlier"] == ["own answer 1", "own answer 2", "own answer 3"]
    assert "earlier" not in written["1/mllm_fraud_1"]
    assert metrics_of(tmp_path / "x")["eval/asr/turns=4"] == 1
    (sampled,) = read_samples([tmp_path / "x"])
    assert [len(sample.prompt.turns) for sample in sampled.samples] == [1, 1, 7, 7]


def test_what_needs_a_model_here_is_refused_beside_an_endpoint(data: Path, tmp_path: Path) -> None:
    with ChatServer(judging) as judge, ChatServer(answering) as model:
        beside = ("checkpoint=x", "against=x", "generations=x", "devices=2", "evaluation.temperature=1")
        for option in (*beside, "generation.temperature=0.5", "generation.image_view=none"):
            options = words(data, judge, *served(model), option)
            said = refuse("evaluate", *options, cwd=tmp_path, cache=tmp_path / "cache")
            assert said.startswith(
                ("mmsafe.evaluate: generation=endpoint", f"mmsafe.evaluate: {option.split('=')[0]}:")
            )


@pytest.mark.slow
def test_ctrl_c_while_judging_ends_with_130_and_nothing_is_judged_twice(data: Path, tmp_path: Path) -> None:
    cache, slow = tmp_path / "cache", 0.3

    def lines() -> list[str]:
        return [line for path in (cache / "judgements").rglob("*.jsonl") for line in path.read_text().splitlines()]

    with ChatServer(lambda r: Reply(judging(r).content, delay=slow)) as judge, ChatServer(answering) as model:
        overrides = [*words(data, judge, *served(model)), "judge.concurrency=2"]
        command = [sys.executable, "-m", "mmsafe.evaluate", *overrides]
        ended = subprocess.Popen(command, cwd=tmp_path, env=os.environ | {"MMSAFE_CACHE": str(cache)})
        deadline = time.monotonic() + 120
        while len(lines()) < 5:
            assert ended.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        ended.send_signal(signal.SIGINT)
        assert ended.wait(60) == 130
        time.sleep(2 * slow)  # the server ends what it was asked
        before, asked, slow = len(lines()), len(judge.requests), 0
        assert 5 <= before < ROWS
        succeed("evaluate", *overrides, cwd=tmp_path, cache=cache)
        assert (len(model.requests), len(judge.requests)) == (ROWS, asked + ROWS - before)
    assert set(Counter(json.loads(line)["case"] for line in lines()).values()) == {1}
    assert metrics_of(tmp_path / "x")["eval/safety_rate"] == 0.5
