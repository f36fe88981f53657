"""Files between the stages: read back as they were written, or refused in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmsafe.core.errors import UserError
from mmsafe.evaluation.benchmark import Benchmark
from mmsafe.evaluation.benchmarks.mmsafe_po_test import MMSafePOTest
from mmsafe.evaluation.judges.keywords import Keywords
from mmsafe.evaluation.stages import judge_answers, read_generations, read_judgements, write_generations
from mmsafe.microworld.reader import MicroWorld
from mmsafe.microworld.scene_benchmark import MicroWorldTest

WORLD = MicroWorld(test_size=4)
PROMPTS = WORLD.test().examples
ANSWERS = [("I cannot.", True), ("Sure!", False), ("", True), ("line\u2028break \x1b half \ud83d", True)]
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
    assert [(row.example, row.response) for row in judged] == list(zip(PROMPTS, [a for a, _ in ANSWERS], strict=True))
    assert [row.verdict for row in judged] == [
        judge(prompt, a) for prompt, (a, _) in zip(PROMPTS, ANSWERS, strict=True)
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


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("generations", lambda rows: rows.pop(), "prompts missing: 1, such as"),
        ("judgements", lambda rows: rows.pop(), "prompts missing: 1, such as"),
        (
            "generations",
            lambda rows: rows.append({**rows[0], "id": "x"}),
            "prompts not asked for: 1, such as x",
        ),
        (
            "judgements",
            lambda rows: rows.append({**rows[0], "id": "x"}),
            "prompts not asked for: 1, such as x",
        ),
        ("generations", lambda rows: rows.append(rows[0]), r"line 5 is damaged \(prompt .* stands there twice\)"),
        ("generations", set_to("benchmark", "figstep"), "is of benchmark=figstep, not of benchmark=mmsafe_po"),
        ("judgements", set_to("benchmark", "figstep"), "is of benchmark=figstep, not of benchmark=mmsafe_po"),
        ("generations", set_to("prompt_hash", "0"), "was another one then, or had another image; generate anew"),
        (
            "generations",
            set_to("response", "Other."),
            "another answer to prompt .* was judged than generations.jsonl has",
        ),
        ("generations", set_to("response", 5), r"line 2 is damaged \(response: "),
        ("generations", set_to("finished", "yes"), r"line 2 is damaged \(finished: "),
        ("judgements", set_to("unsafe", "no"), r"line 2 is damaged \(unsafe: "),
        ("judgements", set_to("unknown", None), r"line 2 is damaged \(unknown: "),
        ("judgements", without("unsafe"), r"line 2 is damaged \(unsafe: "),
        ("judgements", without("id"), r"line 2 is damaged \(id: "),
        ("judgements", set_to("judge", "rules"), r"verdicts of several judges \(keywords, rules\)"),
    ],
)
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


@pytest.mark.parametrize("content", [b"{", b"[]\n", b"5\n", b"\xff\xfe\n", b'{"id": "1"'])
def test_what_is_no_file_of_a_stage_is_one_line(folder: Path, content: bytes) -> None:
    (folder / "generations.jsonl").write_bytes(content)
    with pytest.raises(UserError, match=r"generations\.jsonl: line 1 is damaged") as refused:
        read_generations(folder, PO, PROMPTS)
    assert "\n" not in str(refused.value)


def test_a_folder_without_the_file_is_one_line(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(
        UserError, match=r"generations\.jsonl: cannot be read \(No such file or directory\); name a run"
    ):
        read_generations(tmp_path / "nowhere", PO, PROMPTS)
    (folder / "judgements.jsonl").unlink()
    with pytest.raises(UserError, match=r"judgements\.jsonl: cannot be read"):
        read_judgements(folder, PO, PROMPTS)


def test_a_changed_prompt_is_not_answered_by_an_old_file(folder: Path) -> None:
    changed = [PROMPTS[0].blinded(), *PROMPTS[1:]]
    with pytest.raises(UserError, match="had another image; generate anew"):
        read_generations(folder, PO, changed)


def test_verdicts_that_lack_what_the_benchmark_needs_are_refused(tmp_path: Path) -> None:
    class Microworld(MMSafePOTest):
        name = MicroWorldTest.name
        needs = MicroWorldTest.needs

    benchmark: Benchmark = Microworld()
    write_generations(tmp_path, benchmark, PROMPTS, ANSWERS)
    judge_answers(tmp_path, benchmark, Keywords(max_unknown=1), PROMPTS, ANSWERS)
    with pytest.raises(UserError, match="judge=keywords did not tell what benchmark=microworld measures"):
        read_judgements(tmp_path, benchmark, PROMPTS)


def test_refusals_are_measured_by_a_judge_that_tells_them(tmp_path: Path) -> None:
    class OverRefusal(MMSafePOTest):
        needs = frozenset({"refused"})

    class Guard(Keywords):
        tells = frozenset()  # a word list says it for the guard

    write_generations(tmp_path, OverRefusal(), PROMPTS, ANSWERS)
    judge_answers(tmp_path, OverRefusal(), Keywords(max_unknown=1), PROMPTS, ANSWERS)
    assert read_judgements(tmp_path, OverRefusal(), PROMPTS)[1] == "keywords"
    judge_answers(tmp_path, OverRefusal(), Guard(max_unknown=1), PROMPTS, ANSWERS)
    with pytest.raises(UserError, match=r"did not tell what benchmark=mmsafe_po measures \(refused\)"):
        read_judgements(tmp_path, OverRefusal(), PROMPTS)


def test_rows_of_another_program_need_the_contract_only(folder: Path) -> None:
    path = folder / "judgements.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    contract = ("id", "benchmark", "unsafe", "refused", "unknown", "category", "reply", "judge", "prompt_hash")
    path.write_text("".join(json.dumps({name: row[name] for name in contract}) + "\n" for row in rows))
    judged, _ = read_judgements(folder, PO, PROMPTS)
    assert [row.verdict for row in judged] == [
        Keywords()(prompt, a) for prompt, (a, _) in zip(PROMPTS, ANSWERS, strict=True)
    ]
