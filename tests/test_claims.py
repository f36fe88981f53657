"""Work shared through a folder: nothing is handed out twice, nothing is left undone."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mmsafe.core import claims
from mmsafe.core.claims import Claims

HOLD = """
import sys, time
from pathlib import Path
from mmsafe.core.claims import Claims

folder = Path(sys.argv[1])
with Claims(folder) as own:
    for keys in own.shared(["a", "b", "c"], lambda: set(), 2):
        (folder / "held").write_text(" ".join(keys))
        time.sleep(600)
"""


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "WAIT", 0.01)


def finished(folder: Path) -> Callable[[], set[str]]:
    """What is made, as files."""
    return lambda: {path.name for path in (folder / "made").iterdir()}


def work(folder: Path, wanted: list[str], size: int, delays: random.Random) -> list[str]:
    """Makes a file for every key that falls to it; returns those keys."""
    own = []
    with Claims(folder) as mine:
        for keys in mine.shared(wanted, finished(folder), size):
            time.sleep(delays.random() / 100)
            for key in keys:
                (folder / "made" / key).touch(exist_ok=False)
                own.append(key)
    assert set(wanted) <= finished(folder)()
    return own


def test_keys_come_in_their_order_so_many_at_a_time(tmp_path: Path) -> None:
    found: set[str] = {"c"}
    parts, told = [], []
    with Claims(tmp_path) as own:
        assert own.missing(["a", "c", "b", "a"], lambda: found) == ["a", "b"]
        for keys in own.shared(["a", "b", "c", "d"], lambda: found, 2, told.extend):
            parts.append(keys)
            found.update(keys)
    assert parts == [["a", "b"], ["d"]]
    assert told == ["c", "a", "b", "d"]


@pytest.mark.parametrize("size", [1, 3])
def test_workers_with_overlapping_wishes_make_everything_once(tmp_path: Path, size: int) -> None:
    (tmp_path / "made").mkdir()
    wishes = [[f"{n}" for n in range(begin, begin + 20)] for begin in (0, 0, 5, 10)]
    made: list[str] = []
    threads = [
        threading.Thread(target=lambda i=i, w=w: made.extend(work(tmp_path, w, size, random.Random(i))))
        for i, w in enumerate(wishes)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(made, key=int) == [f"{n}" for n in range(30)]


def test_what_a_living_process_claims_is_not_handed_out_and_taken_over_when_it_is_killed(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    child = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)])
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "held").exists() or not (tmp_path / "held").read_text():
            assert time.monotonic() < deadline
            assert child.poll() is None
            time.sleep(0.01)
        with Claims(tmp_path) as own:
            shared = own.shared(["a", "b", "c"], finished(tmp_path), 2)
            assert next(shared) == ["c"]
            (tmp_path / "made" / "c").touch()
            os.kill(child.pid, signal.SIGKILL)
            child.wait()
            assert next(shared) == ["a", "b"]
    finally:
        child.kill()
        child.wait()


def test_what_was_given_up_by_an_error_is_free_again(tmp_path: Path) -> None:
    def failing() -> None:
        with Claims(tmp_path) as own:
            for _ in own.shared(["a"], set, 1):
                raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        failing()
    with Claims(tmp_path) as own:
        assert next(own.shared(["a"], set, 1)) == ["a"]


def test_places_are_numbers_that_no_two_have_and_that_are_used_again(tmp_path: Path) -> None:
    with Claims(tmp_path) as first:
        with Claims(tmp_path) as second, Claims(tmp_path) as third:
            assert [first.place, second.place, third.place] == [0, 1, 2]
        with Claims(tmp_path) as other:
            assert other.place == 1
    assert [path.name for path in (tmp_path / "claims").iterdir()] == ["table"]
