"""`mmsafe.compare`: what changed between two runs, by hand, and what cannot be compared."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from launching import Ended, launch

from mmsafe.evaluation.benchmarks.mmsafe_po_test import MMSafePOTest
from mmsafe.evaluation.dialogue import Answer
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
WORLD = {"_target_": "mmsafe.microworld.scene_benchmark.MicroWorldTest", "size": 4, "neutral_size": 2}
COUNTS = ("both", "first_only", "second_only", "neither")


def write_run(folder: Path, said: str, prompts: Sequence[Any] = PROMPTS, **more: Any) -> None:
    """A run in which the responses are safe, unsafe or unknown, a letter for each prompt; `run.json` says `more`."""
    answers = [Answer(WORDS[letter], True) for letter in said]
    write_generations(folder, MMSafePOTest(), prompts[: len(said)], answers)
    judge_answers(folder, MMSafePOTest(), Keywords(max_unknown=1), prompts[: len(said)], answers)
    (folder / "run.json").write_text(json.dumps({"config": {"benchmark": PO}, "model": folder.name, **more}))


def compare(place: Path, *words: str) -> Ended:
    return launch("compare", "a=a", "b=b", *words, "hydra.run.dir=out", cwd=place)


def compared(place: Path, *words: str) -> tuple[dict[str, Any], str]:
    """What the command wrote, and what it said on one line."""
    ended = compare(place, *words)
    assert ended.status == 0, ended.err
    return json.loads((place / "out" / "comparison.json").read_text()), " ".join(ended.out.split())


def test_what_changed_by_hand(tmp_path: Path) -> None:
    """Of 12 prompts 3 are unsafe in both, 6 in a alone, 1 in b alone, 2 in none.

    McNemar: 1 of 7 that changed went that way: p = 2 (1 + 7) / 2⁷ = 0.125. Of the first 6, PER: 3 both, 2 a alone,
    1 b alone: p = 1, since 2 (1 + 3) / 2³ = 1.
    """
    write_run(tmp_path / "a", "uuuuusuuuuss")
    write_run(tmp_path / "b", "uuussussssss")
    found, said = compared(tmp_path)
    unsafe, person = found["changes"]["unsafe"], found["changes"]["unsafe/entity_type=PER"]
    assert [unsafe[name] for name in COUNTS] == [3, 6, 1, 2]
    assert (unsafe["difference"]["value"], unsafe["difference"]["n"]) == (pytest.approx(-5 / 12), 12)
    assert unsafe["difference"]["low"] < -5 / 12 < unsafe["difference"]["high"]
    assert unsafe["p"] == pytest.approx(0.125)
    assert unsafe["lowest"] == unsafe["highest"] == pytest.approx(-5 / 12)
    assert ([person[name] for name in COUNTS], person["p"]) == ([3, 2, 1, 0], 1)
    assert found["changes"]["refused"]["difference"]["value"] == pytest.approx(5 / 12)
    parts = ("", "/entity_type=LOC", "/entity_type=PER")
    assert set(found["changes"]) == {f"{outcome}{part}" for outcome in ("unsafe", "refused") for part in parts}
    assert (found["benchmark"], found["judge"], found["ids"]) == ("mmsafe_po", "keywords", 12)
    assert "-0.417" in said
    assert "0.12" in said


def test_prompts_of_one_cluster_are_no_independent_evidence(tmp_path: Path) -> None:
    """The same answers, PER and LOC a cluster each: of 12 prompts -1 and -4 changed, on average -5/12.

    Clusters' sums of what is above the average, of 12: (-1 + 5/2) / 12 = 1/8 and -1/8. Variance 2 (1/8² + 1/8²) = 1/16,
    t = (5/12) / (1/4) = 5/3 with 1 degree of freedom: p = 1 - 2/π atan(5/3). Above 0.5 - 5/12, one-sided:
    p = 1/2 - 1/π atan((1/12) / (1/4)), more than Tango's. LOC alone is one cluster: McNemar's test of 4.
    """
    declared = {"judges": {"keywords": "a list"}, "clusters": ["entity_type"]}
    write_run(tmp_path / "a", "uuuuusuuuuss", declared=declared)
    write_run(tmp_path / "b", "uuussussssss", declared=declared | {"judges": {"keywords": "a list, too"}})
    found, said = compared(tmp_path, "margin=0.5", "correction=benjamini_hochberg")
    unsafe, person = found["changes"]["unsafe"], found["changes"]["unsafe/entity_type=PER"]
    assert unsafe["p"] == pytest.approx(1 - 2 / math.pi * math.atan(5 / 3))
    assert unsafe["equivalent_p"] == pytest.approx(1 / 2 - math.atan(1 / 3) / math.pi)
    assert (unsafe["difference"]["low"], unsafe["difference"]["high"]) == (-1, 1)
    assert (unsafe["test"], unsafe["found_from"]) == ("t(1)", None)
    assert unsafe["mcnemar_p"] == pytest.approx(0.125)
    assert (person["test"], person["p"]) == ("McNemar", 1)
    assert found["changes"]["unsafe/entity_type=LOC"]["p"] == 1 / 8
    assert unsafe["corrected"] == pytest.approx(6 / 4 * unsafe["p"])  # LOC has 1/8 twice; unsafe and refused, then PER
    assert "for clusters by entity_type" in said
    assert "keywords (in a a list, in b a list, too)" in said


def test_where_nothing_changes_the_number_of_prompts_says_how_little_may(tmp_path: Path) -> None:
    """Did one of ten change, none of 12 would in 0.9¹² of experiments; of two clusters in 0.9²."""
    for folder in ("a", "b"):
        write_run(tmp_path / folder, "ususususuuus")
    unsafe = compared(tmp_path, "margin=0.1")[0]["changes"]["unsafe"]
    assert (unsafe["test"], unsafe["p"], unsafe["mcnemar_p"]) == ("McNemar", 1, 1)
    assert unsafe["equivalent_p"] == pytest.approx(0.9**12)
    assert compared(tmp_path, "hydra.run.dir=plain")[0]["changes"]["unsafe"]["equivalent_p"] is None
    write_run(tmp_path / "b", "ususususuuus", declared={"clusters": ["entity_type"]})
    clustered = compared(tmp_path, "margin=0.1")[0]["changes"]["unsafe"]
    assert (clustered["test"], clustered["equivalent_p"]) == ("McNemar of 2", pytest.approx(0.9**2))


def test_clusters_that_only_one_run_names_are_those_of_both(tmp_path: Path) -> None:
    bare = [replace(prompt, tags={}) for prompt in PROMPTS]
    write_run(tmp_path / "a", "uuuuusuuuuss", bare)
    write_run(tmp_path / "b", "uuussussssss", declared={"clusters": ["entity_type"]})
    assert compared(tmp_path)[0]["changes"]["unsafe"]["test"] == "t(1)"
    write_run(tmp_path / "b", "us", declared={"clusters": [f"tag{n}" for n in range(30)]})
    assert "name 30 tags of clusters; 8 are the most" in compare(tmp_path, "max_unpaired=1").err


def test_unknown_counts_as_unsafe_and_the_difference_is_bounded(tmp_path: Path) -> None:
    """a: 1 unsafe, 1 unknown; b: 2 unknown, of 4. Told otherwise, a has 1 to 2 unsafe, b 0 to 2."""
    write_run(tmp_path / "a", "u?ss")
    write_run(tmp_path / "b", "??ss")
    found, said = compared(tmp_path)
    unsafe = found["changes"]["unsafe"]
    assert unsafe["difference"]["value"] == 0
    assert (unsafe["lowest"], unsafe["highest"]) == ((0 - 2) / 4, (2 - 1) / 4)
    assert found["unknown"] == [1, 2]
    assert "counted as unsafe: 1 in a, 2 in b" in said


def test_runs_of_the_micro_world_are_compared_by_its_rates(tmp_path: Path) -> None:
    world, benchmark = MicroWorld(), MicroWorldTest(size=4, neutral_size=2)
    prompts = benchmark.prompts(world, "test")
    for name, refused in (("a", 0), ("b", 3)):
        answers = [Answer("I'm sorry, I can't help." if n < refused else "Sure!", True) for n in range(len(prompts))]
        write_generations(tmp_path / name, benchmark, prompts, answers)
        judge_answers(tmp_path / name, benchmark, Rules(), prompts, answers)
        (tmp_path / name / "run.json").write_text(json.dumps({"config": {"benchmark": WORLD}}))
    changes = compared(tmp_path)[0]["changes"]
    rates = {"safety_rate", "over_refusal_rate", "pass_rate", "neutral_accuracy"}
    assert {name for name in changes if "/" not in name} == rates
    assert changes["safety_rate"]["difference"]["n"] == 4
    assert "safety_rate/cue=friendly" in changes
    assert "neutral_accuracy/cue=friendly" not in changes


def test_prompts_of_one_run_only_are_refused_or_counted(tmp_path: Path) -> None:
    write_run(tmp_path / "a", "uuuu")
    write_run(tmp_path / "b", "sssss", [PROMPTS[0].blinded(), *PROMPTS[1:]])
    told = "2 of 5 prompts cannot be paired (1 only in b, 1 other text or image), more than max_unpaired=0;"
    assert told in compare(tmp_path).err
    assert not (tmp_path / "out" / "comparison.json").exists()
    found, said = compared(tmp_path, "max_unpaired=0.4")
    assert found["ids"] == 3
    assert found["left_out"] == {"only in a": [], "only in b": ["04"], "other text or image": ["00"]}
    assert "left out: 1 only in b, 1 other text or image" in said


def first_line(text: str) -> str:
    return text.splitlines(keepends=True)[0]


def of_another_prompt(text: str) -> str:
    return "".join(json.dumps(json.loads(row) | {"prompt_hash": "other"}) + "\n" for row in text.splitlines())


OTHER = json.dumps({"config": {"benchmark": WORLD}})
DAMAGE = {
    "run.json: is damaged": ("run.json", lambda _: "{"),
    "b: has no run.json": ("run.json", None),
    "judgements.jsonl: cannot be read": ("judgements.jsonl", None),
    "prompt 01 is in one of generations.jsonl, judgements.jsonl only": ("judgements.jsonl", first_line),
    "was judged by judge=keywords in a and by judge=guard": (
        "judgements.jsonl",
        lambda text: text.replace('"keywords"', '"guard"'),
    ),
    "by another prompt of it, in b": ("judgements.jsonl", of_another_prompt),
    "judge=keywords did not tell what benchmark=microworld measures": ("run.json", lambda _: OTHER),
}


@pytest.mark.parametrize("message", ["b=b: no such folder or file", "4 of 4 prompts cannot be paired", *DAMAGE])
def test_what_cannot_be_compared_is_one_line(message: str, tmp_path: Path) -> None:
    write_run(tmp_path / "a", "us")
    if "of 4" in message:
        write_run(tmp_path / "b", "ss", PROMPTS[2:])
    elif message in DAMAGE:
        write_run(tmp_path / "b", "us")
        name, change = DAMAGE[message]
        text = (tmp_path / "b" / name).read_text()
        (tmp_path / "b" / name).unlink()
        if change is not None:
            (tmp_path / "b" / name).write_text(change(text))
    ended = compare(tmp_path, "max_unpaired=1")
    (line,) = [line for line in ended.err.splitlines() if line.startswith("mmsafe.compare:")]
    assert (ended.status, message in line) == (2, True), line
