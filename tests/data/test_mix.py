"""Mixtures: shares, seeds, names of parts, and what a user types."""

import json
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reader_rows import ROWS, json_file, picture

from mmsafe.core.errors import UserError
from mmsafe.core.files import read_metrics
from mmsafe.core.options import options
from mmsafe.data.data_source import DataSource, Loaded
from mmsafe.data.example import Example, fingerprint, sources
from mmsafe.data.mix import Mix, wanted
from mmsafe.data.readers.mmsafe_po import MMSafePO
from mmsafe.data.readers.trl import TRLPreference
from mmsafe.data.readers.vlguard import VLGuard
from mmsafe.experiment.train_config import TrainConfig
from mmsafe.microworld.reader import MicroWorld
from mmsafe.runs.preflight import check


def texts(folder: Path, name: str, count: int, bad: int = 0) -> TRLPreference:
    rows = [{"prompt": f"{name} {i}", "chosen": "yes", "rejected": "no"} for i in range(count)]
    path = json_file(folder / f"{name}.json", rows + [{"prompt": "x", "chosen": "", "rejected": "no"}] * bad)
    return TRLPreference(path=path, holdout_share=0, on_bad="skip")


def by_source(examples: list[Example]) -> dict[str, list[str]]:
    return {name: [e.id for e in examples if e.tags["source"] == name] for name in sources(examples)}


def test_without_weights_all_of_every_part_once(tmp_path: Path) -> None:
    data = Mix(parts={"a": texts(tmp_path, "a", 5, bad=2), "b": texts(tmp_path, "b", 3)})
    loaded = data.train()
    assert sources(loaded.examples) == {"a": 5, "b": 3}
    assert loaded.dropped == {"a: empty response": 2}
    assert [example.id for example in loaded.examples[4:6]] == ["a/5", "b/1"]
    assert sources(data.parts["a"].train().examples) == {}
    assert data.brings() == {"chosen", "rejected"}
    assert Mix(parts={**data.parts, "c": VLGuard(path=tmp_path)}).brings() == {"chosen"}


@pytest.mark.parametrize(
    ("weights", "repeat", "sizes"),
    [
        # 12 of a and 3 of b. Equal shares: 3 and 3 without repeating, or 12 and 12.
        ({"a": 1, "b": 1}, False, {"a": 3, "b": 3}),
        ({"a": 1, "b": 1}, True, {"a": 12, "b": 12}),
        # Twice as many of a: all 3 of b go with 6 of a; all 12 of a go with 6 of b.
        ({"a": 2, "b": 1}, False, {"a": 6, "b": 3}),
        ({"a": 0.5, "b": 0.25}, True, {"a": 12, "b": 6}),
        # Eight times as many: there are not enough of a for all of b.
        ({"a": 8, "b": 1}, False, {"a": 12, "b": 2}),
    ],
)
def test_weights_are_shares(tmp_path: Path, weights: dict[str, float], repeat: bool, sizes: dict[str, int]) -> None:
    parts = {"a": texts(tmp_path, "a", 12), "b": texts(tmp_path, "b", 3)}
    examples = Mix(parts=parts, weights=weights, repeat=repeat).train().examples
    assert sources(examples) == sizes
    assert len({example.id for example in examples}) == len(examples)
    if repeat:  # nothing is left out, and repeats are spread evenly
        for name, ids in by_source(examples).items():
            times = Counter(id.split("#")[0] for id in ids)
            assert len(times) == {"a": 12, "b": 3}[name]
            assert max(times.values()) - min(times.values()) <= 1


@given(
    st.dictionaries(st.sampled_from("abc"), st.tuples(st.integers(1, 500), st.floats(0.01, 100)), min_size=1),
    st.booleans(),
)
def test_sizes_are_in_proportion_and_possible(parts: dict[str, tuple[int, float]], repeat: bool) -> None:
    sizes, weights = ({name: part[i] for name, part in parts.items()} for i in range(2))
    found = wanted(sizes, weights, repeat)
    for name in parts:
        assert found[name] >= sizes[name] if repeat else 1 <= found[name] <= sizes[name]
    unit = max(found[name] / weights[name] for name in parts)
    assert all(abs(found[name] - unit * weights[name]) <= 1 + weights[name] / min(weights.values()) for name in parts)


def test_the_seed_decides_which_examples(tmp_path: Path) -> None:
    parts = {"a": texts(tmp_path, "a", 200), "b": texts(tmp_path, "b", 10)}
    first, same, other = (Mix(parts=parts, weights={"a": 1, "b": 1}, seed=seed).train().examples for seed in (1, 1, 2))
    assert fingerprint(first) == fingerprint(same)
    assert by_source(first)["a"] != by_source(other)["a"]
    assert sorted(by_source(first)["b"]) == sorted(by_source(other)["b"])


def test_what_is_held_out_is_never_trained_on(tmp_path: Path) -> None:
    rows = [{"prompt": str(i), "chosen": "yes", "rejected": "no"} for i in range(50)]
    part = TRLPreference(path=json_file(tmp_path / "a.json", rows), holdout_share=0.2)
    data = Mix(parts={"a": part, "world": MicroWorld(size=3, test_size=4)}, weights={"a": 1, "world": 9}, repeat=True)
    train, held = data.train().examples, data.holdout().examples
    assert sources(held) == {"a": 10, "world": 4}
    assert not {e.id.split("#")[0] for e in train} & {e.id for e in held}


def test_other_forms_of_an_example_are_those_of_its_part(tmp_path: Path) -> None:
    picture(tmp_path / "images/a.png")
    row = ROWS["mmsafe_po"] | {"text_prompt": "USER: What is Oak? ASSISTANT:"}
    po = MMSafePO(path=json_file(tmp_path / "po.json", [row]))
    data = Mix(parts={"po": po, "world": MicroWorld(size=9, test_size=4)})
    (example,) = (e for e in data.test().examples if e.tags["source"] == "po")
    found = data.text_only(example)
    assert found is not None
    assert (found.id, found.turns[0].text, found.images) == ("po/1", "What is Oak?", ())
    assert data.image_swapped(example) is None
    swapped = [data.image_swapped(e) for e in data.test().examples if e.tags["source"] == "world"]
    assert any(other is not None and other.id.startswith("world/") for other in swapped)


@options
class Nothing(DataSource):
    """Has no examples."""

    def train(self) -> Loaded:
        return Loaded([])

    def holdout(self) -> Loaded:
        return Loaded([])


@pytest.mark.parametrize(
    ("mixture", "message"),
    [
        ({}, r"data\.parts is empty: add some, as \+data@data\.parts\.NAME="),
        ({"parts": {"a": Nothing()}, "weights": {"b": 1}}, r"data\.weights: needs a weight for each of a"),
        ({"parts": {"a": Mix(parts={"b": Nothing()})}}, "a mixture cannot be part of another"),
        (
            {"parts": {"a": {"_target_": "mmsafe.data.readers.trl.TRLPreference"}}},
            r"data\.parts\.a: data\.path is not set",
        ),
        (
            {"parts": {"a": {"_target_": "mmsafe.data.readers.trl.TRLPreference", "pth": "x"}}},
            r"^data\.parts\.a\.pth: TRLPreference has no such option; did you mean 'path'",
        ),
    ],
)
def test_mixtures_that_cannot_be(mixture: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Mix(**mixture)


def test_a_complaint_names_the_part(tmp_path: Path) -> None:
    data = Mix(parts={"a": TRLPreference(path=tmp_path / "none.json")})
    with pytest.raises(UserError, match=r"^data\.parts\.a: data\.path: cannot read"):
        data.train()
    with pytest.raises(UserError, match=r"^data\.parts\.a: has nothing to train on"):
        Mix(parts={"a": Nothing()}).train()


# --- What a user types -------------------------------------------------------------------------------------------

RECIPE = """# @package _global_
defaults:
  - /data@data.parts.world: microworld
  - /data@data.parts.words: trl
  - override /data: mix
data:
  parts:
    words: {path: %s}
  weights: {world: 3, words: 1}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> list[str]:
    """A mixture in a file of the user's own."""
    path = texts(tmp_path, "words", 40).path
    (tmp_path / "conf/experiment").mkdir(parents=True)
    (tmp_path / "conf/experiment/our_mix.yaml").write_text(RECIPE % path)
    return ["--config-dir", str(tmp_path / "conf"), "experiment=our_mix", "objective=dpo", "model=random"]


def test_a_mixture_in_words_or_in_a_file_passes_the_check(recipe: list[str], tmp_path: Path) -> None:
    check("train", TrainConfig, recipe)
    words = ["data=mix", "+data@data.parts.a=microworld", "+data@data.parts.b=trl", f"data.parts.b.path={tmp_path}"]
    check("train", TrainConfig, [*words, "data.weights={a: 1, b: 2}"])
    with pytest.raises(UserError, match=r"data\.parts\.b\.holdout_share=2: "):
        check("train", TrainConfig, [*words, "data.parts.b.holdout_share=2"])
    with pytest.raises(UserError, match=r"data\.parts\.b\.pth: .*has no option 'pth'; did you mean 'path'"):
        check("train", TrainConfig, [*words, "data.parts.b.pth=x"])


@pytest.mark.slow
def test_a_run_tells_its_sources(
    recipe: list[str], tmp_path: Path, command: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    sizes = ["data.parts.world.size=60", "data.parts.world.test_size=8", "trainer.max_steps=3"]
    folder = tmp_path / "run"
    done = command("train", *recipe, *sizes, "evaluation.max_new_tokens=4", f"hydra.run.dir={folder}", timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    about, metrics = (json.loads((folder / name).read_text()) for name in ("run.json", "metrics.json"))
    assert about["sources"] == {"world": 60, "words": 20}
    for measure in ("safety_rate", "pairwise_accuracy", "pairwise_accuracy_reward"):
        assert metrics[f"eval/{measure}/source=world_n"] == 8
        assert metrics[f"eval/{measure}_n"] == 8 + metrics[f"eval/{measure}/source=words_n"]
    steps = read_metrics(folder / "metrics.csv")
    for name in ("train/loss", "rewards/margins", "rewards/accuracies"):
        assert any(f"{name}/source=words" in step for step in steps)
        for step in steps:
            parts = [step[key] for part in ("world", "words") if (key := f"{name}/source={part}") in step]
            assert min(parts) - 1e-6 <= step[name] <= max(parts) + 1e-6, "an overall mean is between those of the parts"
