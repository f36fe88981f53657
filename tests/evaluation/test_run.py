"""An evaluation leaves files from which its numbers can be had again."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scripted import Scripted

from mmsafe.core.errors import UserError
from mmsafe.core.settings import Evaluation, Lengths
from mmsafe.data.example import Example, Turn, digest
from mmsafe.evaluation.benchmarks.mmsafe_po_test import MMSafePOTest
from mmsafe.evaluation.evaluating import evaluate
from mmsafe.evaluation.judges.judge import Judge, Verdict
from mmsafe.evaluation.judges.keywords import Keywords
from mmsafe.evaluation.measuring import NO_LIMIT, EvaluationTask
from mmsafe.evaluation.stages import read_judgements
from mmsafe.generation.generate import Prompt, Response, generate
from mmsafe.microworld.reader import MicroWorld
from mmsafe.microworld.rule_judge import Rules, judge
from mmsafe.microworld.scene_benchmark import MicroWorldTest
from mmsafe.reference.policies import Model
from mmsafe.scoring.ways import Padded

WORLD = MicroWorld(size=8, test_size=8)
CONTRACT = {"id", "benchmark", "unsafe", "refused", "unknown", "category", "reply", "judge", "prompt_hash"}
NASTY = (
    "bell \x07 null \x00 escape \x1b[31m tab \t return \r feed \x0c",
    "a\nb\r\nc\x0bd\x1ce\x85f\u2028g\u2029h",
    '<script>alert("1")</script> &amp; \\',
    "שלום مرحبا 你好 🏳️‍🌈 \ufeff\u202e",
    "[bold]not markup[/bold] [/] and half a pair \ud83d",
    "",
    "Sorry, I cannot help with that request.",
)


@pytest.fixture
def run(llava: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Evaluates the tiny model, or with `say` one that says this, into `tmp_path`."""

    def evaluated(
        benchmark: Any,
        judge: Judge,
        say: Callable[[int, Example], str] | None = None,
        reference: Any = None,
        lengths: Lengths = NO_LIMIT,
    ) -> dict[str, Any]:
        def canned(llava: Any, prompts: Sequence[Example], *_: Any) -> list[Response]:
            assert say is not None
            return [Response(say(position, prompt), finished=True) for position, prompt in enumerate(prompts)]

        with monkeypatch.context() as patch:
            if say is not None:
                patch.setattr("mmsafe.evaluation.evaluating.responses", canned)
            settings = Evaluation(max_new_tokens=4, batch_size=8)
            task = EvaluationTask(benchmark, WORLD, "holdout", judge, Padded(), settings, lengths)
            return evaluate(llava, task, tmp_path, reference)

    return evaluated


def rows(path: Path) -> list[dict[str, Any]]:
    """JSON lines as any strict reader sees them: every line ends in a newline and is one object."""
    content = path.read_bytes()
    assert content.endswith(b"\n")
    return [json.loads(line.decode()) for line in content.split(b"\n")[:-1]]


def test_a_run_leaves_generations_judgements_and_flat_metrics(run: Any, llava: Any, tmp_path: Path) -> None:
    benchmark = MicroWorldTest(size=16, neutral_size=8)
    metrics = run(benchmark, Rules(), reference=Model(llava.model, Padded()))
    prompts = benchmark.prompts(WORLD, "holdout")
    generations, judgements = rows(tmp_path / "generations.jsonl"), rows(tmp_path / "judgements.jsonl")
    assert [row["id"] for row in generations] == [row["id"] for row in judgements] == [prompt.id for prompt in prompts]
    assert [row["prompt_hash"] for row in generations] == [prompt.prompt_key() for prompt in prompts]
    assert {row["prompt_hash"] for row in judgements} == {digest("")}, "rules have no prompt"
    assert len({row["response_hash"] for row in judgements}) == len(prompts)
    assert all(set(row) >= CONTRACT for row in judgements)
    assert all(set(row) >= {"id", "benchmark", "prompt_hash", "response", "finished", "tags"} for row in generations)
    assert {row["benchmark"] for row in (*generations, *judgements)} == {"microworld"}
    assert {row["judge"] for row in judgements} == {"rules"} == {metrics["eval/judge"]}
    assert {type(row[name]) for row in judgements for name in ("unsafe", "refused", "unknown")} == {bool}
    assert all(isinstance(row["response"], str) and isinstance(row["finished"], bool) for row in generations)
    numbers = {name: value for name, value in metrics.items() if name != "eval/judge"}
    main = {name for name in numbers if not name.endswith(("_low", "_high", "_n"))}
    assert {f"{name}{end}" for name in main for end in ("", "_low", "_high", "_n")} == set(numbers)
    assert {"eval/safety_rate", "eval/safety_rate/cue=friendly", "eval/pairwise_accuracy"} <= main
    assert metrics["eval/pairwise_accuracy_reward"] == 0.5
    assert metrics["eval/pairwise_accuracy_n"] == 8
    assert sorted(path.name for path in tmp_path.iterdir()) == ["generations.jsonl", "judgements.jsonl"]


def test_prompts_without_room_are_not_asked_and_count_as_unknown(run: Any, llava: Any, tmp_path: Path) -> None:
    """At every limit from the shortest prompt on; also when the verdicts are measured again."""
    benchmark, asked = MicroWorldTest(size=16, neutral_size=8), []

    def say(position: int, prompt: Example) -> str:
        asked.append(prompt.id)
        return "Sure!"

    prompts = benchmark.prompts(WORLD, "holdout")
    size = {prompt.id: len(llava.encoder().prompt_ids(prompt)) for prompt in prompts}
    limit = sorted(size.values())[len(size) // 2]
    metrics = run(benchmark, Rules(), say, lengths=Lengths(max_length=limit, on_overlong="drop"))
    long = [name for name in size if size[name] >= limit]
    assert 0 < len(long) < len(prompts)
    assert asked == [name for name in size if size[name] < limit]
    assert [row["id"] for row in rows(tmp_path / "generations.jsonl") if row.get("unasked")] == long
    assert metrics["eval/unknown_rate"] == len(long) / len(prompts)
    assert metrics.get("eval/pairwise_accuracy_n", 0) < 8, "pairs that do not fit whole are left out"
    again, _ = read_judgements(tmp_path, benchmark, prompts)
    assert [row.example.id for row in again if row.verdict.unknown] == long


@pytest.mark.parametrize(
    ("rule", "told"), [("error", r"example .*: \d+ tokens over"), ("drop", "no prompt of the eval")]
)
def test_a_limit_may_refuse(run: Any, rule: Any, told: str) -> None:
    with pytest.raises(UserError, match=told):
        run(MicroWorldTest(size=16, neutral_size=8), Keywords(), dice, lengths=Lengths(max_length=8, on_overlong=rule))


def test_a_dialogue_goes_on_from_the_models_own_answers(run: Any, llava: Any, tmp_path: Path) -> None:
    """As if each were asked by hand, one turn after the other; the verdict is on the last answer."""
    run(Scripted(), Keywords(max_unknown=1))
    prompts, settings = Scripted().prompts(WORLD, "holdout"), Evaluation(max_new_tokens=4).generation()
    for prompt, row in zip(prompts, rows(tmp_path / "generations.jsonl"), strict=True):
        first, second, third = prompt.turns[-3:]
        said: list[Turn] = list(prompt.turns[:-3])
        for turn in (first, second, third):
            said.append(turn)
            [[(_, answer)]] = generate(llava, [Prompt(replace(prompt, turns=tuple(said)))], settings)
            said.append(Turn("assistant", answer.text))
        answers = [turn.text for turn in said[-5:] if turn.role == "assistant"]
        assert [*row["earlier"], row["response"]] == answers
        assert row["prompt_hash"] == prompt.prompt_key()
    judged, _ = read_judgements(tmp_path, Scripted(), prompts)
    assert [row.verdict for row in judged] == [Keywords()(row.example, row.response) for row in judged]


def test_a_dialogue_that_outgrows_the_limit_is_not_judged(run: Any, tmp_path: Path) -> None:
    prompts, limit = Scripted().prompts(WORLD, "holdout"), Lengths(max_length=400, on_overlong="drop")
    long, shown = prompts[1].id, list[tuple[str, int]]()

    def say(position: int, prompt: Example) -> str:
        shown.append((prompt.id, len(prompt.turns)))
        return "very long " * 400 if prompt.id == long else "Sure \ud83d"

    metrics = run(Scripted(), Keywords(max_unknown=1), say, lengths=limit)
    asked = [[(it.id, len(it.turns) - 2 + 2 * turn) for it in prompts] for turn in range(3)]
    assert shown == [at for turn, row in enumerate(asked) for at in row if turn == 0 or at[0] != long]
    written = rows(tmp_path / "generations.jsonl")
    assert [row["id"] for row in written if row.get("unasked")] == [long]
    assert {tuple(row.get("earlier", ())) for row in written} == {(), ("Sure \ud83d",) * 2}
    assert metrics["eval/unknown_rate"] == 1 / 4
    with pytest.raises(UserError, match="no prompt of the evaluation fits"):
        run(Scripted(), Keywords(), lambda *_: "very long " * 400, lengths=limit)


def dice(position: int, prompt: Example) -> str:
    return ("Sorry, I cannot help with that request.", "Sure! Just pick a good moment and do it.", "Hm.")[position % 3]


def test_the_safety_rate_can_be_had_from_either_file(run: Any, tmp_path: Path) -> None:
    metrics = run(MicroWorldTest(size=32, neutral_size=4), Rules(), dice)
    judged = rows(tmp_path / "judgements.jsonl")
    unsafe = [row["unsafe"] for row in judged if row["id"].endswith("/original")]
    again = [
        judge(row["tags"], row["response"]).decision == "refuse"
        for row in rows(tmp_path / "generations.jsonl")
        if row["tags"]["harmful"] == "yes"
    ]
    assert len(unsafe) == len(again) == metrics["eval/safety_rate_n"] == 32
    assert metrics["eval/safety_rate"] == 1 - sum(unsafe) / 32 == sum(again) / 32
    assert 0 < metrics["eval/safety_rate"] < 1


def test_unknown_is_never_safe_whatever_else_the_judge_says(run: Any) -> None:
    class Unsure(Keywords):
        def __call__(self, example: Example, response: str) -> Verdict:
            return Verdict(unsafe=False, refused=False, unknown=True)

    metrics = run(MMSafePOTest(), Unsure(max_unknown=1), dice)
    assert (metrics["eval/safety_rate"], metrics["eval/unknown_rate"]) == (0, 1)


def test_unknown_counts_as_unsafe_is_told_and_refused_after_the_judgements_are_written(
    run: Any, tmp_path: Path
) -> None:
    """Of eight responses two refuse, four help and two are unknown: the rates lie between 2/8 and 4/8."""
    say = ["", "I’m sorry, I can’t.", "Sure!", "Sure!"]
    with pytest.raises(UserError, match=r"judge=keywords: 2 of 8 verdicts are unknown; .*max_unknown=0\.2"):
        run(MMSafePOTest(), Keywords(max_unknown=0.2), lambda position, _: say[position % 4])
    assert [row["unknown"] for row in rows(tmp_path / "judgements.jsonl")] == [True, False, False, False] * 2
    metrics = run(MMSafePOTest(), Keywords(max_unknown=0.25), lambda position, _: say[position % 4])
    assert metrics["eval/safety_rate"] == metrics["eval/safety_rate_if_bad"] == metrics["eval/refusal_rate"] == 0.25
    assert metrics["eval/safety_rate_if_good"] == 0.5
    assert (metrics["eval/refusal_rate_if_good"], metrics["eval/refusal_rate_if_bad"]) == (0.25, 0.5)
    assert (metrics["eval/unknown_rate"], metrics["eval/unknown_rate_n"]) == (0.25, 8)
    assert metrics["eval/judge"] == "keywords"
    assert not [name for name in run(MMSafePOTest(), Keywords(), dice) if "_if_" in name]


@pytest.mark.parametrize(
    ("benchmark", "judge"), [(MicroWorldTest(size=8), Rules()), (MMSafePOTest(), Keywords(max_unknown=1))]
)
def test_any_text_survives_in_the_files_and_none_is_printed(
    run: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str], benchmark: Any, judge: Judge
) -> None:
    metrics = run(benchmark, judge, lambda position, _: NASTY[position % len(NASTY)])
    generations = rows(tmp_path / "generations.jsonl")
    assert [row["response"] for row in generations] == [NASTY[i % len(NASTY)] for i in range(len(generations))]
    assert len(rows(tmp_path / "judgements.jsonl")) == len(generations) >= len(NASTY)
    text = (tmp_path / "generations.jsonl").read_text(encoding="utf-8")
    assert "\x1b" not in text
    assert len(text.splitlines()) == len(generations), "no character that some readers take for a line break"
    json.dumps(metrics, allow_nan=False)
    assert not [words for words in NASTY[2:] if words and words in "".join(capfd.readouterr())]


def test_a_failing_judge_leaves_the_generations(run: Any, tmp_path: Path) -> None:
    class Broken(Keywords):
        def __call__(self, example: Example, response: str) -> Any:
            raise RuntimeError("no connection")

    with pytest.raises(RuntimeError, match="no connection"):
        run(MMSafePOTest(), Broken(), dice)
    assert len(rows(tmp_path / "generations.jsonl")) == 8
    assert not (tmp_path / "judgements.jsonl").exists()
