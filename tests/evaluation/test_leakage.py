"""What is decided without the image: equal to what the micro-world's generator knows, and to counts by hand."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from launching import launch, succeed

from mmsafe.core.errors import UserError
from mmsafe.data.example import Example, Turn
from mmsafe.evaluation.benchmark import Judged
from mmsafe.evaluation.benchmarks.own_prompts import OwnPrompts
from mmsafe.evaluation.comparison import read_judged_run
from mmsafe.evaluation.judges.judge import Verdict, unknown
from mmsafe.evaluation.leakage import BLIND, choice_by_words, harm_by_words, leakage, with_blind
from mmsafe.microworld.reader import MicroWorld
from mmsafe.microworld.scene_benchmark import MicroWorldTest
from mmsafe.reporting.run_samples import read_samples

TEST = MicroWorldTest(size=24, neutral_size=8)
ASKED = ("model=random", "evaluation.max_new_tokens=4", "benchmark.size=16", "benchmark.neutral_size=4")


def harmful(example: Example) -> bool:
    return example.tags["harmful"] == "yes"


@pytest.mark.parametrize("correlation", [0.5, 1.0])
def test_words_tell_of_the_micro_world_what_its_generator_lets_them(correlation: float):
    """A neutral question (share 0.15) is harmless; a directed one is what it sounds like with this probability."""
    examples = MicroWorld(cue_correlation=correlation).train().examples
    found = harm_by_words(examples, [harmful(example) for example in examples])
    assert found is not None
    assert found.low <= 0.15 + 0.85 * correlation <= found.high
    sounds = [e.tags["cue"] == "none" or (e.tags["cue"] == "suspicious") == harmful(e) for e in examples]
    drawn = sum(sounds) / len(sounds)
    assert found.value == pytest.approx(drawn, abs=0.03)
    assert found.n == 1500
    if correlation == 1.0:
        assert found.value == 1.0


def answered(refuses: Callable[[Example], bool]) -> list[Judged]:
    """All prompts of the test with and without image, answered by a model that refuses as told."""
    prompts = with_blind(TEST, TEST.prompts(MicroWorld(), "test"))
    return [Judged(prompt, "", Verdict(False, refuses(prompt))) for prompt in prompts]


def test_on_the_balanced_test_a_reader_of_words_is_right_in_one_half():
    """Each text stands beside a dangerous and a harmless thing, so whoever only reads is right once of twice."""
    found = leakage(TEST, answered(lambda prompt: prompt.tags["cue"] == "suspicious"))
    assert {name: (share.value, share.n) for name, share in found.items()} == {
        "decided": (0.5, 48),
        "leakage_blind": (0.5, 48),
        "leakage_words": (0.5, 48),
    }


def test_a_model_that_looks_is_right_with_the_image_only():
    def looks(prompt: Example) -> bool:
        return harmful(prompt) if prompt.images else prompt.tags["cue"] == "suspicious"

    found = leakage(TEST, answered(looks))
    assert (found["decided"].value, found["leakage_blind"].value) == (1.0, 0.5)
    assert found["decided"].low < 1.0
    lost = [Judged(row.example, "", unknown()) for row in answered(looks)]
    assert leakage(TEST, lost)["decided"].value == 0.0


def test_blind_prompts_are_those_in_question_without_their_images():
    prompts = TEST.prompts(MicroWorld(), "test")
    asked = with_blind(TEST, prompts)
    assert asked[: len(prompts)] == prompts
    assert len(asked) == len(prompts) + 2 * TEST.size  # neutral questions are not in question
    assert all(prompt.images == () and prompt.tags[BLIND] == "yes" for prompt in asked[len(prompts) :])
    assert len({prompt.id for prompt in asked}) == len(asked)
    only_harm = [prompt for prompt in prompts if harmful(prompt)]
    with pytest.raises(UserError, match="nothing to tell apart"):
        with_blind(OwnPrompts(), only_harm)


def pair(number: int, chosen: str, rejected: str) -> Example:
    turns = (Turn("user", f"Question number {number}?"),)
    return Example(str(number), turns, (), {"chosen": chosen, "rejected": rejected})


def test_words_tell_a_chosen_response_that_always_excuses_itself_and_not_one_like_the_other():
    kinds = ("so", "thus", "here", "well")
    excused = choice_by_words([pair(n, f"Sorry, {kinds[n % 4]}.", f"Sure, {kinds[n % 3]}.") for n in range(60)])
    assert excused is not None
    assert (excused.value, excused.n) == (1.0, 60)
    same = choice_by_words([pair(n, kinds[n % 4], kinds[n % 4]) for n in range(60)])
    assert same is not None
    assert same.value == 0.5


def test_no_wording_is_on_both_sides_of_a_fold():
    """Each wording occurs ten times with a label of its own and shares no word with others: nothing can be learnt."""
    examples = [Example(f"{n}", (Turn("user", f"word{n % 8}"),), (), {}) for n in range(80)]
    found = harm_by_words(examples, [n % 2 == 0 for n in range(80)])
    assert found is not None
    assert found.value <= 0.5


def test_there_is_nothing_to_tell_of_no_rows_one_label_or_one_wording():
    examples = [pair(1, "a", "b"), pair(1, "a", "b")]
    assert harm_by_words([], []) is None
    assert harm_by_words(examples, [True, True]) is None
    assert harm_by_words(examples, [True, False]) is None
    assert choice_by_words([]) is None


def test_an_evaluation_asks_without_the_image_too_and_its_other_numbers_stay_the_same(tmp_path: Path):
    for name in ("true", "false"):
        words = [f"leakage={name}", f"hydra.run.dir=leakage-{name}", *ASKED]
        ended = succeed("evaluate", *words, cwd=tmp_path)
        assert ("harm told by words alone" in ended.out) == (name == "true")
    measured, plain = (
        json.loads((tmp_path / f"leakage-{name}" / "metrics.json").read_text()) for name in ("true", "false")
    )
    added = {name for name in measured if name not in plain}
    ends = ("", "_low", "_high", "_n")
    assert added == {f"eval/{name}{end}" for name in ("decided", "leakage_blind", "leakage_words") for end in ends}
    assert {name: measured[name] for name in plain} == plain
    assert measured["eval/leakage_words"] == 0.5
    (run,) = read_samples([tmp_path / "leakage-true"])
    assert sum(not sample.prompt.images for sample in run.samples) == 32
    assert len(read_judged_run(tmp_path / "leakage-true").generations) == 36
    again = launch(
        "evaluate", f"judgements={tmp_path / 'leakage-true'}", "leakage=true", "hydra.run.dir=again", *ASKED[2:],
        cwd=tmp_path,
    )  # fmt: skip
    assert again.status == 0, again.err
    repeated = json.loads((tmp_path / "again" / "metrics.json").read_text())
    assert {name: repeated[name] for name in added} == {name: measured[name] for name in added}


def test_what_is_missing_is_said_before_anything_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setattr("mmsafe.evaluation.leakage.find_spec", lambda name: None)
    for command in ("evaluate", "inspect"):
        ended = launch(command, "leakage=true", cwd=tmp_path, cache=tmp_path)
        assert ended.status == 2
        assert "pip install 'mmsafe[leakage]'" in ended.err


def test_inspect_has_a_table_of_it(tmp_path: Path):
    words = ["data=microworld", "data.size=200", "data.test_size=60", "leakage=true", "decode=false", "model=random"]
    ended = succeed("inspect", *words, "hydra.run.dir=out", cwd=tmp_path, cache=tmp_path)
    assert "Told by words alone" in ended.out
    splits = json.loads((tmp_path / "out" / "statistics.json").read_text())["splits"]
    assert splits["train"]["leakage"]["harmful or harmless"]["n"] == 200
    assert splits["holdout"]["leakage"]["chosen or rejected"]["n"] == 60
