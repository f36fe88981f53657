"""`mmsafe.compare`: what changed between two runs, by hand, and what cannot be compared."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from launching import Ended, launch

from mmsafe.evaluation.benchmarks.mmsafe_po_test import MMSafePOTest
from mmsafe.evaluation.judges.keywords import Keywords
from mmsafe.evaluation.stages import judge_answers, write_generations
from mmsafe.microworld.reader import MicroWorld
from mmsafe.microworld.rule_judge import Rules
from mmsafe.microworld.scene_benchmark import MicroWorldTest

PROMPTS = [
    replace(prompt, id=f"{n:02d}", tags={"entity_type": "PER" if n < 6 else "LOC"})
    for n, prompt in enumerate(MicroWorld(test_size=16).test().examples[:12])
]
WORDS = {"s": "I cannot.", "u": "Sure!", "?": ""}
PO = {"_target_": "mmsafe.evaluation.benchmarks.mmsafe_po_test.MMSafePOTest"}


def write_run(folder: Path, said: str, prompts: Sequence[Any] = PROMPTS) -> None:
    """A run in which the responses are safe, unsafe or unknown, a letter for each prompt."""
    answers = [(WORDS[letter], True) for letter in said]
    write_generations(folder, MMSafePOTest(), prompts[: len(said)], answers)
    judge_answers(folder, MMSafePOTest(), Keywords(max_unknown=1), prompts[: len(said)], answers)
    (folder / "run.json").write_text(json.dumps({"config": {"benchmark": PO}, "model": folder.name}))


def compare(place: Path, *words: str) -> Ended:
    return launch("compare", "a=a", "b=b", *words, "hydra.run.dir=out", cwd=place, cache=place / "cache")


def comparison(place: Path) -> dict[str, Any]:
    return dict(json.loads((place / "out" / "comparison.json").read_text()))


def refusal(ended: Ended) -> str:
    assert ended.status == 2
    (line,) = [line for line in ended.err.splitlines() if line.startswith("mmsafe.compare:")]
    return line


def test_what_changed_by_hand(tmp_path: Path) -> None:
    """Of 12 prompts 3 are unsafe in both, 6 in a alone, 1 in b alone, 2 in none.

    McNemar: 1 of 7 that changed went that way: p = 2 (1 + 7) / 2⁷ = 0.125. Of the first 6, PER: 3 both, 2 a alone,
    1 b alone: p = 1, since 2 (1 + 3) / 2³ = 1.
    """
    write_run(tmp_path / "a", "uuuuusuuuuss")
    write_run(tmp_path / "b", "uuussussssss")
    ended = compare(tmp_path)
    assert ended.status == 0, ended.err
    found = comparison(tmp_path)
    unsafe = found["changes"]["unsafe"]
    counts = ("both", "first_only", "second_only", "neither")
    assert [unsafe[name] for name in counts] == [3, 6, 1, 2]
    assert unsafe["difference"]["value"] == pytest.approx(-5 / 12)
    assert unsafe["difference"]["n"] == 12
    assert unsafe["difference"]["low"] < -5 / 12 < unsafe["difference"]["high"]
    assert unsafe["p"] == pytest.approx(0.125)
    assert unsafe["lowest"] == unsafe["highest"] == pytest.approx(-5 / 12)
    person = found["changes"]["unsafe/entity_type=PER"]
    assert [person[name] for name in counts] == [3, 2, 1, 0]
    assert person["p"] == 1
    assert found["changes"]["refused"]["difference"]["value"] == pytest.approx(5 / 12)
    assert set(found["changes"]) == {
        f"{outcome}{part}" for outcome in ("unsafe", "refused") for part in ("", "/entity_type=LOC", "/entity_type=PER")
    }
    assert (found["benchmark"], found["judge"], found["ids"]) == ("mmsafe_po", "keywords", 12)
    assert "-0.417" in ended.out
    assert "0.12" in ended.out


def test_unknown_counts_as_unsafe_and_the_difference_is_bounded(tmp_path: Path) -> None:
    """a: 1 unsafe, 1 unknown; b: 2 unknown, of 4. Told otherwise, a has 1 to 2 unsafe, b 0 to 2."""
    write_run(tmp_path / "a", "u?ss")
    write_run(tmp_path / "b", "??ss")
    ended = compare(tmp_path)
    found = comparison(tmp_path)
    unsafe = found["changes"]["unsafe"]
    assert unsafe["difference"]["value"] == 0
    assert (unsafe["lowest"], unsafe["highest"]) == ((0 - 2) / 4, (2 - 1) / 4)
    assert found["unknown"] == [1, 2]
    assert "counted as unsafe: 1 in a, 2 in b" in " ".join(ended.out.split())


def test_runs_of_the_micro_world_are_compared_by_its_rates(tmp_path: Path) -> None:
    world, benchmark = MicroWorld(), MicroWorldTest(size=4, neutral_size=2)
    prompts = benchmark.prompts(world, "test")
    for name, refused in (("a", 0), ("b", 3)):
        answers = [("I'm sorry, I can't help." if n < refused else "Sure!", True) for n in range(len(prompts))]
        write_generations(tmp_path / name, benchmark, prompts, answers)
        judge_answers(tmp_path / name, benchmark, Rules(), prompts, answers)
        node = {"_target_": "mmsafe.microworld.scene_benchmark.MicroWorldTest", "size": 4, "neutral_size": 2}
        (tmp_path / name / "run.json").write_text(json.dumps({"config": {"benchmark": node}}))
    assert compare(tmp_path).status == 0
    changes = comparison(tmp_path)["changes"]
    assert {name for name in changes if "/" not in name} == {
        "safety_rate", "over_refusal_rate", "pass_rate", "neutral_accuracy"
    }  # fmt: skip
    assert changes["safety_rate"]["difference"]["n"] == 4
    assert "safety_rate/cue=friendly" in changes
    assert "neutral_accuracy/cue=friendly" not in changes


def test_prompts_of_one_run_only_are_refused_or_counted(tmp_path: Path) -> None:
    write_run(tmp_path / "a", "uuuu")
    write_run(tmp_path / "b", "sssss", [PROMPTS[0].blinded(), *PROMPTS[1:]])
    said = refusal(compare(tmp_path))
    assert "2 of 5 prompts cannot be paired (1 only in b, 1 other text or image), more than max_unpaired=0;" in said
    assert not (tmp_path / "out" / "comparison.json").exists()
    ended = compare(tmp_path, "max_unpaired=0.4")
    found = comparison(tmp_path)
    assert found["ids"] == 3
    assert found["left_out"] == {"only in a": [], "only in b": ["04"], "other text or image": ["00"]}
    assert "left out: 1 only in b, 1 other text or image" in " ".join(ended.out.split())


def test_runs_with_nothing_in_common_are_refused_whatever_is_allowed(tmp_path: Path) -> None:
    write_run(tmp_path / "a", "uu")
    write_run(tmp_path / "b", "ss", PROMPTS[2:])
    assert "4 of 4 prompts cannot be paired" in refusal(compare(tmp_path, "max_unpaired=1"))


def test_runs_judged_differently_are_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_run(tmp_path / name, "us")
    path = tmp_path / "b" / "judgements.jsonl"
    text = path.read_text()
    path.write_text(text.replace('"keywords"', '"guard"'))
    assert "was judged by judge=keywords in a and by judge=guard" in refusal(compare(tmp_path))
    rows = [json.loads(line) | {"prompt_hash": "other"} for line in text.splitlines()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "by another prompt of it, in b" in refusal(compare(tmp_path))


def test_folders_that_are_no_runs_are_refused(tmp_path: Path) -> None:
    write_run(tmp_path / "a", "us")
    assert "b=b: no such folder or file" in refusal(compare(tmp_path))
    (tmp_path / "b").mkdir()
    assert "b: has no run.json" in refusal(compare(tmp_path))
    write_run(tmp_path / "b", "us")
    (tmp_path / "b" / "judgements.jsonl").unlink()
    assert "judgements.jsonl: cannot be read" in refusal(compare(tmp_path))
    write_run(tmp_path / "b", "us")
    lines = (tmp_path / "b" / "judgements.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "b" / "judgements.jsonl").write_text(lines[0])
    assert "prompt 01 is in one of generations.jsonl, judgements.jsonl only" in refusal(compare(tmp_path))
    write_run(tmp_path / "b", "us")
    (tmp_path / "b" / "run.json").write_text("{")
    assert "run.json: is damaged" in refusal(compare(tmp_path))


def test_runs_of_different_benchmarks_are_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_run(tmp_path / name, "us")
    other = {"_target_": "mmsafe.microworld.scene_benchmark.MicroWorldTest"}
    about = {"config": {"benchmark": other}}
    (tmp_path / "b" / "run.json").write_text(json.dumps(about))
    assert "judge=keywords did not tell what benchmark=microworld measures" in refusal(compare(tmp_path))
