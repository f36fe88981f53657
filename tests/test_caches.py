"""Caches that are damaged: what is read from them is what was kept, is made again, or is refused in one line."""

import asyncio
import io
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from PIL import Image

from mmsafe.core.cache import cached_folder
from mmsafe.core.errors import UserError
from mmsafe.core.row_store import RowStore
from mmsafe.curation.build.entity_image import FoundImages
from mmsafe.curation.build.image_files import ImageFiles
from mmsafe.curation.build.stage import Outcome
from mmsafe.curation.build.stage_file import StageFile
from mmsafe.data.tables import table_rows
from mmsafe.evaluation.judges.judge import Verdict
from mmsafe.evaluation.judging import VerdictStore
from mmsafe.generation.generate import Response
from mmsafe.generation.responses import ResponseStore
from mmsafe.reference.store import LogProbStore
from mmsafe.scoring.features import DiskFeatures

NAMES = ("one", "two", "three")


def number(entry: str, name: str) -> int:
    return 10 * entry.startswith("a") + len(name)


def reference(place: Path, entry: str) -> Any:
    rows = {name: torch.arange(number(entry, name)) / 7 for name in NAMES}
    store = LogProbStore(place / entry)
    store.read(NAMES)
    if not store.kept:
        store.write(rows, store.name(NAMES))
        store.read(NAMES)
    return {name: store.kept[name].tolist() for name in NAMES}


def features(place: Path, entry: str) -> Any:
    cache = DiskFeatures(place / entry, 1 << 20)
    found = []
    for name in NAMES:
        kept = cache.get(name)
        if kept is None:
            kept = torch.full((2, 3), number(entry, name), dtype=torch.bfloat16)
            cache.put(name, kept)
        found.append(kept.tolist())
    return found


def rows(store: RowStore[Any], make: Callable[[str], Any]) -> Any:
    found = store.read()
    store.append([(name, make(name)) for name in NAMES if name not in found])
    return {name: store.read()[name] for name in NAMES}


def responses(place: Path, entry: str) -> Any:
    return rows(ResponseStore(place / entry), lambda name: Response(f"{entry} {name}", finished=True))


def judgements(place: Path, entry: str) -> Any:
    store = VerdictStore(place / entry)
    return rows(store, lambda name: Verdict(unsafe=entry == "a", refused=False, reply=name, details={"x": 0.1}))


def found_images(place: Path, entry: str) -> Any:
    return rows(FoundImages(place / entry), lambda name: None if name == "two" else {"url": f"{entry}/{name}"})


def stage(place: Path, entry: str) -> Any:
    return rows(StageFile(place / entry, 1, entry, {}, "x"), lambda name: Outcome({"text": f"{entry} {name}"}))


def models(place: Path, entry: str) -> Any:
    def make(folder: Path) -> None:
        (folder / "inner").mkdir()
        for name in NAMES:
            (folder / "inner" / name).write_text(f"{entry} {name}")

    folder = cached_folder("models", entry, make)
    return {name: (folder / "inner" / name).read_bytes() for name in NAMES}


def tables(place: Path, entry: str) -> Any:
    file = place.parent / f"{entry}.parquet"
    if not file.exists():
        datasets.Dataset.from_list([{"text": f"{entry} {name}"} for name in NAMES]).to_parquet(file)
    return list(table_rows(file))


def image_files(place: Path, entry: str) -> Any:
    class Client:
        async def get(self, url: str, *_: Any) -> bytes:
            content = io.BytesIO()
            Image.new("RGB", (4, 4), (number(entry, url), 0, 0)).save(content, "BMP")
            return content.getvalue()

    files: Any = ImageFiles(Client(), place, 1 << 20)  # type: ignore[arg-type]
    return [asyncio.run(files.fetched(f"{entry}/{name}")).read_bytes() for name in NAMES]


CACHES = [reference, features, responses, judgements, found_images, stage, models, tables, image_files]


def bit(at: float, which: int) -> Callable[[bytes, bytes], bytes]:
    def flip(content: bytes, other: bytes) -> bytes:
        place = min(int(at * len(content)), len(content) - 1)
        return content[:place] + bytes([content[place] ^ (1 << which)]) + content[place + 1 :]

    return flip


DAMAGES: dict[str, Callable[[bytes, bytes], bytes]] = {
    **{f"bit at {at}": bit(at / 20, at % 8) for at in range(21)},
    "zeros": lambda content, other: content[: len(content) // 2 - 8] + bytes(16) + content[len(content) // 2 + 8 :],
    "four bytes": lambda content, other: content[: len(content) // 2] + b"12,4" + content[len(content) // 2 + 4 :],
    "truncated": lambda content, other: content[: len(content) * 2 // 3],
    "empty": lambda content, other: b"",
    "garbage appended": lambda content, other: content + b"\x00garbage\n",
    "another entry's": lambda content, other: other,
}


def files(folder: Path) -> Iterator[Path]:
    yield from (path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".lock")


@pytest.mark.parametrize("use", CACHES, ids=lambda use: use.__name__)
def test_what_is_damaged_is_never_taken_for_what_was_kept(use: Callable[..., Any], own_cache: Path, tmp_path: Path):
    """Each file of an entry in turn, those of checksums too; `b` is the other entry."""
    place = own_cache if use in (models, tables, image_files) else tmp_path / "kept"
    other = use(place, "b")
    theirs = list(files(place))
    expected = use(place, "a")
    assert expected != other
    ours = [path for path in files(place) if path not in theirs]
    whole = tmp_path / "whole"
    shutil.copytree(place, whole)
    told = []
    for path, their in zip(ours, theirs, strict=True):
        for name, damage in DAMAGES.items():
            path.write_bytes(damage(path.read_bytes(), their.read_bytes()))
            try:
                assert use(place, "a") == expected, f"{name} of {path.name}"
            except UserError as error:
                told.append(str(error))
            shutil.rmtree(place)
            shutil.copytree(whole, place)
    assert len(told) > len(DAMAGES) / 2
    assert [line for line in told if "is damaged" not in line or "\n" in line] == []
    assert use(place, "a") == expected
