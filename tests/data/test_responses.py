"""The response cache: its key holds all that matters, and no interruption loses or repeats a response."""

import copy
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import mmsafe.generation.generate
from mmsafe.core.settings import Generation
from mmsafe.data.example import Example
from mmsafe.generation.generate import Response
from mmsafe.generation.responses import ResponseStore, responses, store_key
from mmsafe.microworld.reader import MicroWorld

SETTINGS = Generation(max_new_tokens=6, batch_size=2)
GREEDY = Generation(max_new_tokens=6, batch_size=2, temperature=0)

CHILD = """
import json, os, sys, time
from pathlib import Path
import mmsafe.generation.generate as generation
from mmsafe.microworld.reader import MicroWorld
from mmsafe.generation.responses import responses
from mmsafe.microworld.tiny import TinyModel
from mmsafe.core.settings import Generation

def slowly(*arguments):
    for batch in whole(*arguments):
        time.sleep(0.15)
        yield batch

whole, generation.generate = generation.generate, slowly
prompts = MicroWorld(test_size=16).holdout().examples[: int(sys.argv[1])]
llava, meeting = TinyModel(pretraining=None).load(), Path(sys.argv[2])
(meeting / f"ready-{os.getpid()}").touch()
while not (meeting / "go").exists():
    time.sleep(0.01)
made = responses(llava, prompts, Generation(max_new_tokens=6, batch_size=2), "child")
(meeting / f"made-{os.getpid()}").write_text(json.dumps(made))
"""
"""Answers the first prompts, slowly, once it is told to go."""


@pytest.fixture
def prompts() -> list[Example]:
    return MicroWorld(test_size=16).holdout().examples


@pytest.fixture
def generated(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Keys of all samples that are asked of the model, in order; not those found in the cache."""
    whole, asked = mmsafe.generation.generate.generate, []

    def watched(llava: Any, prompts: Any, settings: Any) -> Iterator[Any]:
        for batch in whole(llava, prompts, settings):
            asked.extend(prompts[position].key for position, _ in batch)
            yield batch

    monkeypatch.setattr(mmsafe.generation.generate, "generate", watched)
    return asked


@pytest.fixture
def uninterrupted(
    llava: Any, prompts: list[Example], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, own_cache: Path
) -> list[Response]:
    """What a run that nothing disturbs says, made in a cache of its own."""
    monkeypatch.setenv("MMSAFE_CACHE", str(tmp_path / "other"))
    made = responses(llava, prompts, SETTINGS, "oracle")
    monkeypatch.setenv("MMSAFE_CACHE", str(own_cache))
    return made


def store_file(cache: Path) -> Path:
    """The only store there is."""
    (path,) = (cache / "responses").glob("*/responses.jsonl")
    return path


def keys(path: Path) -> list[str]:
    """Keys on disk, in order; every line must be whole."""
    content = path.read_bytes()
    assert content.endswith(b"\n")
    return [json.loads(line)["prompt"] for line in content.split(b"\n")[:-1]]


def stored(cache: Path) -> list[str]:
    """Keys in all files of the only store there is."""
    return [key for path in cache.glob("responses/*/responses*.jsonl") for key in keys(path)]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., list[subprocess.Popen[bytes]]]]:
    """Starts processes that answer the first prompts into this test's cache, all of them at the same moment."""
    children: list[subprocess.Popen[bytes]] = []

    def started(*counts: int) -> list[subprocess.Popen[bytes]]:
        for count in counts:
            words = [sys.executable, "-c", CHILD, str(count), str(tmp_path)]
            children.append(subprocess.Popen(words, stderr=subprocess.PIPE))
        wait_until(lambda: len(list(tmp_path.glob("ready-*"))) == len(children), *children)
        (tmp_path / "go").touch()
        return children

    yield started
    for child in children:
        child.kill()
        child.communicate()


def wait_until(condition: Callable[[], bool], *children: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        for child in children:
            assert child.poll() is None, f"a child ended early: {child.communicate()[1].decode()}"
        assert time.monotonic() < deadline, "the children did nothing"
        time.sleep(0.01)


def lines(cache: Path) -> int:
    """Responses on disk, whole or being written."""
    return sum(path.read_bytes().count(b"\n") for path in cache.glob("responses/*/responses*.jsonl"))


def made_by(child: subprocess.Popen[bytes], place: Path) -> list[Response]:
    """What a child returned, once it has ended."""
    assert child.wait(timeout=120) == 0
    return [Response(*row) for row in json.loads((place / f"made-{child.pid}").read_text())]


# What the key holds


def weights(llava: Any) -> None:
    with torch.no_grad():
        llava.model.lm_head.weight[7, 7] += 1e-3


def vision_weights(llava: Any) -> None:
    with torch.no_grad():
        next(llava.model.model.vision_tower.parameters()).view(-1)[0] += 1e-3


def precision(llava: Any) -> None:
    llava.model.to(torch.bfloat16)


def tokenizer(llava: Any) -> None:
    llava.processor.tokenizer.add_tokens(["zyzzyva"])


def chat_template(llava: Any) -> None:
    llava.processor.chat_template = "Be harmless. " + llava.processor.chat_template


def image_mean(llava: Any) -> None:
    llava.processor.image_processor.image_mean = [0.5, 0.5, 0.5]


def padding_to_square(llava: Any) -> None:
    llava.processor.image_processor.do_pad = False


def append_eos(llava: Any) -> None:
    llava.source = dataclasses.replace(llava.source, append_eos=False)


@pytest.mark.parametrize(
    "change",
    [weights, vision_weights, precision, tokenizer, chat_template, image_mean, padding_to_square, append_eos],
    ids=lambda change: change.__name__,
)
def test_a_changed_model_has_another_store(llava: Any, change: Callable[[Any], None]) -> None:
    changed = copy.deepcopy(llava)
    assert store_key(changed, SETTINGS) == store_key(llava, SETTINGS)
    change(changed)
    assert store_key(changed, SETTINGS) != store_key(llava, SETTINGS)


@pytest.mark.parametrize(
    ("option", "value"), [("max_new_tokens", 7), ("temperature", 0.5), ("temperature", 0), ("top_p", 0.9), ("seed", 1)]
)
def test_a_changed_setting_has_another_store(llava: Any, option: str, value: float) -> None:
    other = dataclasses.replace(SETTINGS, **{option: value})
    assert store_key(llava, other) != store_key(llava, SETTINGS)


def test_what_does_not_change_a_response_does_not_change_the_store(llava: Any) -> None:
    for option, value in (("batch_size", 1), ("image_view", "real"), ("num_return_sequences", 4)):
        assert store_key(llava, dataclasses.replace(SETTINGS, **{option: value})) == store_key(llava, SETTINGS)
    changed = copy.deepcopy(llava)
    changed.model.train().requires_grad_(False)
    assert store_key(changed, SETTINGS) == store_key(llava, SETTINGS)


def repetition_penalty(llava: Any) -> None:
    """As the `generation_config.json` of a checkpoint may set it."""
    llava.model.generation_config.repetition_penalty = 5.0


def end_of_sequence(llava: Any) -> None:
    llava.processor.tokenizer.eos_token = "blue"


def vision_layer(llava: Any) -> None:
    llava.model.config.vision_feature_layer = -2


@pytest.mark.parametrize("change", [repetition_penalty, end_of_sequence, vision_layer], ids=lambda c: c.__name__)
def test_whatever_changes_a_response_changes_the_store(llava: Any, prompts: list[Example], change: Any) -> None:
    before = responses(llava, prompts, GREEDY, "before")
    changed = copy.deepcopy(llava)
    change(changed)
    asked = [mmsafe.generation.generate.Prompt(example) for example in prompts]
    after = dict(answer for batch in mmsafe.generation.generate.generate(changed, asked, GREEDY) for answer in batch)
    assert after == dict(enumerate(before)) or store_key(changed, GREEDY) != store_key(llava, GREEDY)


# What is found in the cache


def test_nothing_is_generated_when_all_is_there(llava: Any, prompts: list[Example], generated: list[str]) -> None:
    first = responses(llava, prompts, SETTINGS, "first")
    assert len(generated) == len(set(generated)) == len(prompts)
    other = dataclasses.replace(SETTINGS, batch_size=16)
    assert responses(llava, prompts[::-1], other, "again") == first[::-1]
    assert responses(llava, prompts[3:5], other, "some") == first[3:5]
    assert responses(llava, [], SETTINGS, "nothing") == []
    assert len(generated) == len(prompts)


def test_the_image_is_part_of_the_prompt(llava: Any, prompts: list[Example], generated: list[str]) -> None:
    shown = prompts[0]
    other = dataclasses.replace(shown, images=prompts[1].images)
    responses(llava, [shown, shown.blinded(), other], GREEDY, "three views")
    assert len(set(generated)) == 3


def test_ids_tags_and_known_responses_are_no_part_of_the_prompt(
    llava: Any, prompts: list[Example], generated: list[str]
) -> None:
    same = dataclasses.replace(prompts[0], id="another", tags={}, responses={"chosen": "x"})
    first, second = responses(llava, [prompts[0], same], GREEDY, "twins")
    assert first == second
    assert len(generated) == 1


def test_a_prompt_given_twice_is_sampled_twice_and_decoded_greedily_once(
    llava: Any, prompts: list[Example], generated: list[str]
) -> None:
    twice = [prompts[0], prompts[1], prompts[0], prompts[0]]
    sampled = responses(llava, twice, SETTINGS, "sampled")
    assert len(generated) == len(set(generated)) == 4
    assert len({sampled[i].text for i in (0, 2, 3)}) == 3
    assert responses(llava, twice, SETTINGS, "again") == sampled
    assert responses(llava, twice[:1], SETTINGS, "one") == sampled[:1]
    generated.clear()
    greedy = responses(llava, twice, GREEDY, "greedy")
    assert len(generated) == 2
    assert greedy[0] == greedy[2] == greedy[3]


# Interruptions


def failing_after(batches: int) -> Callable[..., Iterator[Any]]:
    """`generate` as it is now, until so many batches have been made."""
    whole, made = mmsafe.generation.generate.generate, []

    def generate(*arguments: Any) -> Iterator[Any]:
        for batch in whole(*arguments):
            if len(made) == batches:
                raise RuntimeError("CUDA out of memory")
            made.append(batch)
            yield batch

    return generate


@pytest.mark.parametrize("batches", [0, 3])
def test_an_exception_loses_no_finished_batch(
    llava: Any,
    prompts: list[Example],
    batches: int,
    uninterrupted: list[Response],
    generated: list[str],
    own_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    generated.clear()
    with monkeypatch.context() as patch:
        patch.setattr(mmsafe.generation.generate, "generate", failing_after(batches))
        with pytest.raises(RuntimeError, match="out of memory"):
            responses(llava, prompts, SETTINGS, "interrupted")
    done = keys(store_file(own_cache)) if batches else []
    assert len(done) == batches * SETTINGS.batch_size
    generated.clear()
    assert responses(llava, prompts, SETTINGS, "resumed") == uninterrupted
    assert not set(generated) & set(done)
    assert len(generated) == len(set(generated)) == len(prompts) - len(done)
    assert sorted(keys(store_file(own_cache))) == sorted({*done, *generated})


def test_many_samples_continue_where_they_were_interrupted(
    llava: Any, prompts: list[Example], generated: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some prompts have all of their samples then, one has some, others have none."""
    settings, asked = dataclasses.replace(SETTINGS, batch_size=4), prompts[:6] * 3
    expected = responses(llava, asked, SETTINGS, "oracle")
    monkeypatch.setenv("MMSAFE_CACHE", str(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(mmsafe.generation.generate, "generate", failing_after(3))
        with pytest.raises(RuntimeError, match="out of memory"):
            responses(llava, asked, settings, "interrupted")
    done = keys(store_file(tmp_path))
    assert len(done) == 4 * 3
    generated.clear()
    assert responses(llava, asked, settings, "resumed") == expected
    assert len({*generated, *done}) == len(generated) + len(done) == len(asked)


def test_a_kill_loses_no_finished_batch(
    llava: Any, prompts: list[Example], uninterrupted: list[Response], generated: list[str], own_cache: Path, start: Any
) -> None:
    generated.clear()
    (child,) = start(len(prompts))
    wait_until(lambda: lines(own_cache) >= 4, child)
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    done = keys(store_file(own_cache))
    assert 4 <= len(done) < len(prompts)
    assert responses(llava, prompts, SETTINGS, "resumed") == uninterrupted
    assert not set(generated) & set(done)
    on_disk = keys(store_file(own_cache))
    assert len(on_disk) == len(set(on_disk)) == len(prompts)


# Several processes


@pytest.mark.slow
def test_processes_divide_the_prompts_among_them(
    uninterrupted: list[Response], own_cache: Path, start: Any, tmp_path: Path
) -> None:
    children = start(16, 16)
    assert [made_by(child, tmp_path) for child in children] == [uninterrupted] * 2
    files = [keys(path) for path in own_cache.glob("responses/*/responses*.jsonl")]
    assert len(files) == 2, "both had a share"
    on_disk = stored(own_cache)
    assert len(on_disk) == len(set(on_disk)) == 16


@pytest.mark.slow
def test_what_a_killed_process_left_is_done_by_the_other(
    llava: Any,
    prompts: list[Example],
    uninterrupted: list[Response],
    generated: list[str],
    own_cache: Path,
    start: Any,
    tmp_path: Path,
) -> None:
    generated.clear()
    killed, other = start(16, 16)
    wait_until(lambda: lines(own_cache) >= 4, killed, other)
    os.kill(killed.pid, signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert made_by(other, tmp_path) == uninterrupted
    assert responses(llava, prompts, SETTINGS, "afterwards") == uninterrupted
    assert generated == [], "nothing was left to do"
    on_disk = stored(own_cache)
    assert len(on_disk) == len(set(on_disk)) == 16


def test_a_line_that_another_process_is_writing_is_left_alone(tmp_path: Path) -> None:
    one, other = ResponseStore(tmp_path, 0), ResponseStore(tmp_path, 1)
    one.append([("one", Response("1", True))])
    whole = one.path.read_bytes()
    one.path.write_bytes(whole + b'{"prompt": "two", ')
    assert set(other.read()) == {"one"}
    assert one.path.read_bytes() == whole + b'{"prompt": "two", '
    one.path.write_bytes(whole + b'{"prompt": "two", "response": "2", "finished": true}\n')
    assert set(other.read()) == {"one", "two"}


@pytest.mark.parametrize("cut", [1, 0.5], ids=["newline", "half"])
def test_a_half_written_line_is_made_again(
    llava: Any, prompts: list[Example], cut: float, uninterrupted: list[Response], generated: list[str], own_cache: Path
) -> None:
    responses(llava, prompts, SETTINGS, "first")
    path = store_file(own_cache)
    content, lost = path.read_bytes(), keys(path)[-1]
    last = len(content.splitlines(keepends=True)[-1])
    os.truncate(path, len(content) - (int(cut) if cut >= 1 else int(cut * last)))
    generated.clear()
    assert responses(llava, prompts, SETTINGS, "resumed") == uninterrupted
    assert generated == [lost]
    assert path.read_bytes() == content


# The file

NASTY = {
    "control characters": "bell \x07 null \x00 escape \x1b[31m tab \t return \r feed \x0c",
    "line breaks of all kinds": "a\nb\r\nc\x0bd\x1ce\x85f\u2028g\u2029h",
    "HTML": "<script>alert(1)</script> &amp; \"quoted\" 'single' \\ back",
    "scripts": "שלום مرحبا 你好 हैलो 🏳️‍🌈 e\u0301 \ufeff \u202e",
    "special tokens": "</s> <image> <pad>",
    "half a surrogate pair": "half \ud83d",
    "empty": "",
}


@pytest.mark.parametrize("text", NASTY.values(), ids=NASTY)
def test_any_text_survives_in_the_file(tmp_path: Path, text: str) -> None:
    store = ResponseStore(tmp_path / "store")
    store.read()
    store.append([("one", Response(text, True)), ("two", Response("plain", False))])
    assert ResponseStore(tmp_path / "store").read() == {"one": Response(text, True), "two": Response("plain", False)}
    assert keys(store.path) == ["one", "two"]
