"""Files between the stages: read back as they were written, or refused in one line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scripted import Scripted

from mmsafe.core.errors import UserError
from mmsafe.evaluation.benchmarks.mmsafe_po_test import MMSafePOTest
from mmsafe.evaluation.dialogue import Answer
from mmsafe.evaluation.judges.keywords import Keywords
from mmsafe.evaluation.stages import judge_answers, read_generations, read_judgements, write_generations
from mmsafe.microworld.reader import MicroWorld

WORLD = MicroWorld(test_size=4)
PROMPTS = WORLD.test().examples
SAID = [("I cannot.", True), ("Sure!", False), ("", True), ("line\u2028break \x1b half \ud83d", True)]
ANSWERS = [Answer(*said) for said in SAID]
PO = MMSafePOTest()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run folder with both files."""
    write_generations(tmp_path, PO, PROMPTS, ANSWERS)
    judge_answers(tmp_path, PO, Keywords(max_unknown=1), PROMPTS, ANSWERS)
    return tmp_path


def test_what_was_written_is_read_back(folder: Path) -> None:
    judge = Keywords(max_unknown=1)
    assert read_generations(folder, PO, PROMPTS) == ANSWERS
    assert read_generations(folder, PO, PROMPTS[::-1]) == ANSWERS[::-1], "in the order of the prompts"
    judged, label = read_judgements(folder, PO, PROMPTS)
    assert label == "keywords"
    assert [(row.example, row.response) for row in judged] == list(zip(PROMPTS, [a.text for a in ANSWERS], strict=True))
    assert [row.verdict for row in judged] == [
        judge(prompt, a.text) for prompt, a in zip(PROMPTS, ANSWERS, strict=True)
    ]


def test_no_prompts(tmp_path: Path) -> None:
    write_generations(tmp_path, PO, [], [])
    assert judge_answers(tmp_path, PO, Keywords(), [], []) == []
    assert read_judgements(tmp_path, PO, []) == ([], "")


Change = Callable[[list[dict[str, Any]]], Any]


def set_to(name: str, value: Any) -> Change:
    return lambda rows: rows[1].update({name: value})


def without(name: str) -> Change:
    return lambda rows: rows[1].pop(name)


WRONG_ANSWERS, WRONG_VERDICTS = {"response": 5, "finished": "yes"}, {"unsafe": "no", "unknown": None}
TWICE, MORE = (lambda rows: rows.append(rows[0])), (lambda rows: rows.append({**rows[0], "id": "x"}))
OTHER = "is of benchmark=figstep, not of benchmark=mmsafe_po"
BAD: list[tuple[str, Change, str]] = [
    *((name, lambda rows: rows.pop(), "prompts missing: 1, such as") for name in ("generations", "judgements")),
    *((name, MORE, "prompts not asked for: 1, such as x") for name in ("generations", "judgements")),
    *((name, set_to("benchmark", "figstep"), OTHER) for name in ("generations", "judgements")),
    ("generations", TWICE, r"line 5 is damaged \(prompt .* stands there twice\)"),
    ("generations", set_to("prompt_hash", "0"), "was another one then, or had another image; generate anew"),
    ("generations", set_to("response", "Other."), "another answer to prompt .* was judged than generations.jsonl has"),
    *(("generations", set_to(field, bad), rf"line 2 is damaged \({field}: ") for field, bad in WRONG_ANSWERS.items()),
    *(("judgements", set_to(field, bad), rf"line 2 is damaged \({field}: ") for field, bad in WRONG_VERDICTS.items()),
    *(("judgements", without(field), rf"line 2 is damaged \({field}: ") for field in ("unsafe", "id")),
    ("judgements", set_to("judge", "rules"), r"verdicts of several judges \(keywords, rules\)"),
]


@pytest.mark.parametrize(("name", "change", "reason"), BAD)
def test_a_file_that_does_not_fit_is_refused(folder: Path, name: str, change: Change, reason: str) -> None:
    path = folder / f"{name}.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    change(rows)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match=reason) as refused:
        read_judgements(folder, PO, PROMPTS)
    assert f"{name}.jsonl" in str(refused.value) or name == "generations"
    assert "\n" not in str(refused.value)
    assert "Other." not in str(refused.value), "no text of a model"


def test_what_is_no_file_of_a_stage_is_one_line(folder: Path) -> None:
    for content in (b"{", b"[]\n", b"5\n", b"\xff\xfe\n", b'{"id": "1"'):
        (folder / "generations.jsonl").write_bytes(content)
        with pytest.raises(UserError, match=r"generations\.jsonl: line 1 is damaged") as refused:
            read_generations(folder, PO, PROMPTS)
        assert "\n" not in str(refused.value)
    with pytest.raises(UserError, match=r"generations.jsonl: cannot be read \(No such file or directory\); name a run"):
        read_generations(folder / "nowhere", PO, PROMPTS)


def test_a_changed_prompt_is_not_answered_by_an_old_file(folder: Path) -> None:
    changed = [PROMPTS[0].blinded(), *PROMPTS[1:]]
    with pytest.raises(UserError, match="had another image; generate anew"):
        read_generations(folder, PO, changed)


def test_earlier_answers_are_read_back_and_belong_to_what_was_judged(tmp_path: Path) -> None:
    prompts = Scripted(size=2).prompts(WORLD, "test")
    answers = [Answer("Sure!", True, ("Hm.", "half \ud83d")), None]
    write_generations(tmp_path, Scripted(), prompts, answers)
    judge_answers(tmp_path, Scripted(), Keywords(max_unknown=1), prompts, answers)
    assert read_generations(tmp_path, Scripted(), prompts) == answers
    judged, _ = read_judgements(tmp_path, Scripted(), prompts)
    assert [(row.example, row.response) for row in judged] == [(prompts[0], "Sure!"), (prompts[1], "")]
    file = tmp_path / "generations.jsonl"
    whole = file.read_text()
    file.write_text(whole.replace("Hm.", "Oh."))
    with pytest.raises(UserError, match=r"another answer to prompt .* was judged"):
        read_judgements(tmp_path, Scripted(), prompts)
    file.write_text(whole.replace('"Hm.", ', ""))
    with pytest.raises(UserError, match="has 1 earlier answers instead of 2; generate anew"):
        read_generations(tmp_path, Scripted(), prompts)


def test_verdicts_that_lack_what_the_benchmark_needs_are_refused(tmp_path: Path) -> None:
    class OverRefusal(MMSafePOTest):
        needs = frozenset({"refused"})

    class Fluency(MMSafePOTest):
        needs = frozenset({"fluent"})

    class Guard(Keywords):
        tells = frozenset()  # a word list says it for the guard

    for benchmark, judge, missing in (
        (OverRefusal(), Keywords(max_unknown=1), None),
        (OverRefusal(), Guard(max_unknown=1), "refused"),
        (Fluency(), Keywords(max_unknown=1), "fluent"),
    ):
        write_generations(tmp_path, benchmark, PROMPTS, ANSWERS)
        judge_answers(tmp_path, benchmark, judge, PROMPTS, ANSWERS)
        if missing is None:
            assert read_judgements(tmp_path, benchmark, PROMPTS)[1] == "keywords"
            continue
        with pytest.raises(UserError, match=rf"did not tell what benchmark=mmsafe_po measures \({missing}\)"):
            read_judgements(tmp_path, benchmark, PROMPTS)
