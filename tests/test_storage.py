"""A full disk, as every library that writes to one tells of it, is one line that says what to do."""

import errno
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from mmsafe.core.errors import UserError
from mmsafe.core.storage import needs_room

LIMIT = 100_000
WEIGHTS = {"a": torch.zeros(20_000), "b": torch.zeros(20_000)}  # 160 kB


@pytest.fixture
def little_room() -> Iterator[None]:
    """No file grows beyond `LIMIT` bytes; a disk quota of the poor, which needs no rights."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def with_torch(path: Path) -> None:
    with path.open("wb") as file:
        torch.save(WEIGHTS, file)


def with_tokenizers(path: Path) -> None:
    Tokenizer(WordLevel({f"word{number}": number for number in range(20_000)}, "word0")).save(str(path))


@pytest.mark.usefixtures("little_room")
@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_bytes(bytes(2 * LIMIT)),
        lambda path: save_file(WEIGHTS, path),
        lambda path: torch.save(WEIGHTS, path),
        with_torch,
        with_tokenizers,
    ],
    ids=["python", "safetensors", "torch by name", "torch", "tokenizers"],
)
def test_no_room_is_one_line(tmp_path: Path, write: Callable[[Path], None]):
    path = tmp_path / "file"
    with pytest.raises(UserError, match=r"^\S*/file: cannot be written \(.*\); make room there"), needs_room(path):
        write(path)


def test_no_right_to_write_is_one_line_and_none_to_read_is_another_matter(tmp_path: Path):
    for number in (errno.EROFS, errno.EACCES):
        with (
            pytest.raises(UserError, match=r"cannot be written \(.*\); make it writable or"),
            needs_room(tmp_path / "a", " or go elsewhere"),
        ):
            raise OSError(number, os.strerror(number), str(tmp_path / ".a.unfinished"))
    with pytest.raises(PermissionError), needs_room(tmp_path / "a"):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/elsewhere/read")


def test_other_errors_stay_what_they_are(tmp_path: Path):
    with pytest.raises(FileNotFoundError), needs_room(tmp_path):
        (tmp_path / "nowhere" / "file").write_text("x")
    with pytest.raises(RuntimeError, match=r"^shapes do not fit$"), needs_room(tmp_path):
        raise RuntimeError("shapes do not fit")
