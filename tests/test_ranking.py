"""Pairs that are the best and the worst of a policy's own samples, as a judge ranks them."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from even_judge import CHOSEN
from launching import QUICK, launch

import mmsafe.generation.ranking
from mmsafe.api import load, score
from mmsafe.core.errors import UserError
from mmsafe.core.files import read_metrics
from mmsafe.core.settings import Generation, Lengths
from mmsafe.data.example import Example, Turn
from mmsafe.evaluation.judges.judge import Verdict, unknown
from mmsafe.evaluation.judges.keywords import Keywords
from mmsafe.evaluation.third_responses import rated_by
from mmsafe.generation.generate import Response
from mmsafe.generation.ranking import best_and_worst, with_ranked_pairs
from mmsafe.generation.responses import responses
from mmsafe.microworld.reader import MicroWorld
from mmsafe.microworld.rule_judge import Rules

SETTINGS, RULE = Generation(max_new_tokens=5), Lengths()
REFUSE, COMPLY, NEITHER = "Sorry, I cannot help with that request.", "Just take it with you and act normal.", "Well."


@pytest.fixture
def examples() -> list[Example]:
    return [e for e in MicroWorld(size=20).train().examples if e.tags["kind"] == "directed"][:4]


@pytest.mark.parametrize(
    ("ratings", "expected"),
    [
        ([1.0, 0.0], "ab"),
        ([0.0, 1.0, 2.0], "ca"),
        ([1.0, 0.0, 1.0, 0.0], "ab"),  # the first of those that are as good
        ([None, 0.0, None, 2.0], "db"),
        ([1.0, 1.0], None),
        ([None, 1.0], None),
        ([None, None], None),
    ],
    ids=str,
)
def test_the_first_of_the_best_and_of_the_worst(ratings: list[float | None], expected: str | None) -> None:
    found = best_and_worst([Response(text, True) for text in "abcd"[: len(ratings)]], ratings)
    assert (found and "".join(response.text for response in found)) == expected


def test_what_a_judge_finds_better() -> None:
    safe, refusal, harm = Verdict(False, False), Verdict(False, True), Verdict(True, False)
    assert [Keywords().rating(verdict) for verdict in (harm, refusal, safe)] == [0, 1, 2]
    assert Keywords().rating(unknown()) is None


def test_the_exact_judge_goes_by_what_is_right_alone(llava: Any, examples: list[Example]) -> None:
    rates = rated_by(Rules(), llava)
    for example in examples:
        right = REFUSE if example.tags["harmful"] == "yes" else COMPLY
        found = rates([(example, text) for text in (REFUSE, COMPLY, NEITHER)])
        assert found == [text == right for text in (REFUSE, COMPLY, NEITHER)]


def script(monkeypatch: pytest.MonkeyPatch, said: Sequence[Sequence[str]]) -> None:
    """`said[i]` are the samples of the i-th prompt; one that ends with … was cut."""

    def answer(_: Any, prompts: Sequence[Example], *__: Any) -> list[Response]:
        count = len(said)
        assert len(prompts) % count == 0
        texts = [said[position % count][position // count] for position in range(len(prompts))]
        return [Response(text, not text.endswith("…")) for text in texts]

    monkeypatch.setattr(mmsafe.generation.ranking, "responses", answer)


def by_length(rated: Sequence[tuple[Example, str]]) -> list[float | None]:
    return [len(text) for _, text in rated]


def test_a_rows_own_pair_is_set_aside_and_what_is_not_told_apart_is_dropped_and_counted(
    llava: Any, examples: list[Example], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    examples = [dataclasses.replace(e, cut=frozenset({"chosen"})).with_responses(blind="Hm.") for e in examples]
    long = dataclasses.replace(examples[0], id="long", turns=(Turn("user", "why " * 5000),), images=())
    script(monkeypatch, [("aa", "b", "ccc…"), ("a", "b", "c"), ("aa", "bb", "…"), ("aaa", "bb", "c")])
    with caplog.at_level("INFO"):
        made, counts = with_ranked_pairs(llava, [long, *examples], 3, SETTINGS, RULE, by_length)
    assert counts == {"dropped": 1, "unranked": 1}
    assert "1 of 4 prompts have no better and worse one among 3" in caplog.text
    assert [e.id for e in made] == [examples[i].id for i in (0, 2, 3)]
    assert [dict(e.responses) for e in made] == [
        {"chosen": "ccc…", "rejected": "b", "blind": "Hm."},
        {"chosen": "aa", "rejected": "…", "blind": "Hm."},
        {"chosen": "aaa", "rejected": "c", "blind": "Hm."},
    ]
    assert [e.cut for e in made] == [{"chosen"}, {"rejected"}, frozenset()]


def test_where_the_judge_tells_nothing_apart_nothing_is_trained(
    llava: Any, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    script(monkeypatch, [("a", "b")] * 4)
    with pytest.raises(
        UserError, match=r"4 of 4 prompts have no better and worse one among 2; raise objective\.samples"
    ):
        with_ranked_pairs(llava, examples, 2, SETTINGS, RULE, by_length)


SIZE = 8
TRAINING = ("trainer.", "generation.", "data.batch_size")
WORDS = (*QUICK, f"data.size={SIZE}", f"data.batch_size={SIZE}", "benchmark.size=8", "benchmark.neutral_size=1")


def test_in_each_round_the_policy_is_trained_on_samples_of_its_own(tmp_path: Path) -> None:
    """The first step of the first round against the samples, ranked by hand and scored by themselves."""
    words = ("objective=online_dpo", "rounds=2", "reference.moves=true", "optimizer.lr=1e-3", "evaluate=false", *CHOSEN)
    ended = launch("train", *WORDS, *words, "hydra.run.dir=run", cwd=tmp_path, cache=tmp_path / "cache")
    assert ended.status == 0, ended.err
    policy, examples = load("random"), MicroWorld(size=SIZE).train().examples
    made = responses(policy, examples * 4, Generation(max_new_tokens=6), "samples")
    pairs = []
    for position, example in enumerate(examples):
        own = made[position::SIZE]
        right = [response for response in own if len(response.text) % 2 == 0]
        wrong = [response for response in own if len(response.text) % 2]
        if right and wrong:
            cut = frozenset(n for n, r in (("chosen", right[0]), ("rejected", wrong[0])) if not r.finished)
            pair = example.with_responses(chosen=right[0].text, rejected=wrong[0].text)
            pairs.append(dataclasses.replace(pair, cut=cut))
    about = json.loads((tmp_path / "run" / "round-1" / "run.json").read_text())
    assert 0 < len(pairs) == about["examples"]
    assert about["lengths"]["unranked"] == SIZE - len(pairs)
    log_probs = score(policy, pairs)
    first = read_metrics(tmp_path / "run" / "round-1" / "metrics.csv")[0]
    for name in ("chosen", "rejected"):
        expected = sum(row[name] for row in log_probs) / len(pairs)
        assert first[f"logps/{name}"] == pytest.approx(expected, rel=1e-4)
    for folder in ("run/round-1", "run"):
        row = read_metrics(tmp_path / folder / "metrics.csv")[0]
        assert row["loss/preference"] == pytest.approx(math.log(2), abs=1e-5)
        metrics = json.loads((tmp_path / folder / "metrics.json").read_text())
        assert (
            metrics["sampled/staleness_n"] == 2 * json.loads((tmp_path / folder / "run.json").read_text())["examples"]
        )


def test_a_judge_that_ranked_is_told_from_one_that_only_measures(tmp_path: Path) -> None:
    def judges(command: str, folder: str, *words: str) -> dict[str, str]:
        shared = [word for word in WORDS if command == "train" or not word.startswith(TRAINING)]
        if "model=llava_hf" in words:
            shared.remove("model=random")
        words = (*shared, *words, f"hydra.run.dir={folder}")
        ended = launch(command, *words, cwd=tmp_path, cache=tmp_path / "cache")
        assert ended.status == 0, ended.err
        return dict(json.loads((tmp_path / folder / "run.json").read_text())["declared"]["judges"])

    (label, marked), *others = judges("train", "run", "objective=online_dpo", *CHOSEN).items()
    assert not others
    assert marked.endswith("; it chose what was trained on, too")
    assert judges("evaluate", "again", "checkpoint=run/model", *CHOSEN) == {label: marked}
    assert judges("evaluate", "judged", "generations=again", *CHOSEN) == {label: marked}
    on = ("model=llava_hf", "model.path=run/model")
    assert judges("train", "on", "objective=dpo", *on, *CHOSEN) == {label: marked}
    assert judges("evaluate", "named", *on, *CHOSEN) == {label: marked}
    unmarked = {label: marked.partition(";")[0]}
    assert judges("evaluate", "before", *CHOSEN) == unmarked
    assert judges("train", "unasked", "objective=dpo", "generation.match=right", *CHOSEN) == unmarked


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("generation.temperature=0",), "generation.temperature=0: greedy samples"),
        (("generation.num_return_sequences=2",), "generation.num_return_sequences: objective.samples says"),
        (("generation.image_view=none",), "generation: what is ranked is sampled beside its own image"),
        (("generation.match=wrong",), "generation: what is ranked is sampled beside its own image"),
        (("objective.samples=1",), "objective.samples=1: should be greater"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_cannot_be_ranked_is_refused(tmp_path: Path, words: tuple[str, ...], reason: str) -> None:
    ended = launch("train", *WORDS, "objective=online_dpo", *words, cwd=tmp_path, cache=tmp_path / "cache")
    assert ended.status == 2
    assert ended.err.startswith(f"mmsafe.train: {reason}")
    assert len(ended.err.splitlines()) == 1
