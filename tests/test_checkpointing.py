"""Which checkpoint counts: only one that is complete, named by the pointer, and of a run like this one."""

import json
import re
from pathlib import Path

import pytest
import torch

from mmsafe.core.errors import UserError
from mmsafe.training.checkpoint_files import HOLDS, DirectIO
from mmsafe.training.checkpointing import POINTER, last_checkpoint


def named(checkpoint: object = "step=4.ckpt", **changes: object) -> str:
    return json.dumps({"checkpoint": checkpoint, "step": 4, "strategy": "ddp", "processes": 1} | changes)


def point(folder: Path, **changes: object) -> Path:
    """A run folder whose pointer names a checkpoint that is there, beside half of a newer one."""
    checkpoints = folder / "checkpoints"
    checkpoints.mkdir()
    (checkpoints / "step=4.ckpt").touch()
    (checkpoints / "step=6.ckpt").write_bytes(b"half of it")
    (checkpoints / POINTER).write_text(named(**changes))
    return checkpoints


def test_what_the_pointer_names_is_taken_up_and_without_one_a_run_begins_anew(tmp_path: Path):
    checkpoints = point(tmp_path)
    assert last_checkpoint(tmp_path, "ddp") == checkpoints / "step=4.ckpt"
    (checkpoints / POINTER).unlink()
    assert last_checkpoint(tmp_path, "ddp") is None
    assert last_checkpoint(tmp_path / "nowhere", "ddp") is None
    assert last_checkpoint(None, "ddp") is None


@pytest.mark.parametrize(
    ("changes", "strategy"),
    [
        ({"strategy": "deepspeed_zero2"}, "ddp"),
        ({}, "deepspeed_zero2"),
        ({"strategy": "deepspeed_zero2", "processes": 2}, "deepspeed_zero2"),
        ({"processes": 2}, "ddp"),
    ],
)
def test_another_strategy_or_number_of_processes_is_refused(tmp_path: Path, changes: dict[str, object], strategy: str):
    point(tmp_path, **changes)
    with pytest.raises(UserError, match=r"step=4\.ckpt: was written with strategy=.* cannot be continued with .* by 1"):
        last_checkpoint(tmp_path, strategy)


NAMES = ["", "..", "../step=4.ckpt", "/etc/passwd", "step=" + 400 * "4" + ".ckpt", "step=4.ckpt\0", {}]
DAMAGED = ["{", "[]", "{}", "[" * 100_000, "3", '{"checkpoint": "step=4.ckpt"}', *map(named, NAMES)]


@pytest.mark.parametrize("text", DAMAGED, ids=lambda text: text[:40])
def test_a_damaged_pointer_or_one_to_elsewhere_is_one_line(tmp_path: Path, text: str):
    (point(tmp_path) / POINTER).write_text(text)
    with pytest.raises(UserError, match=r"last\.json: is damaged .*delete it to train from the beginning$"):
        last_checkpoint(tmp_path, "ddp")


def test_a_pointer_to_nothing_is_one_line(tmp_path: Path):
    (point(tmp_path) / "step=4.ckpt").unlink()
    with pytest.raises(UserError, match=re.escape("last.json: points to step=4.ckpt, which is gone")):
        last_checkpoint(tmp_path, "ddp")


@pytest.mark.parametrize("content", [[1], torch.zeros(2), {}, dict.fromkeys(HOLDS - {"random"})], ids=lambda c: type(c))
def test_tensors_that_are_no_checkpoint_are_one_line(tmp_path: Path, content: object):
    torch.save(content, tmp_path / "step=4.ckpt")
    with pytest.raises(UserError, match=r"step=4\.ckpt: cannot be read .*it is no checkpoint of a run"):
        DirectIO().load_checkpoint(tmp_path / "step=4.ckpt")
