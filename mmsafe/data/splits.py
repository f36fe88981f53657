"""Which files of a published folder are a split."""

from __future__ import annotations

import difflib
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from mmsafe.errors import UserError

JSON = (".json", ".jsonl", ".jsonl.gz")
TABLES = (".parquet", ".arrow")
MANY, LONGEST = 20, 60
"""Names that a message lists, and characters of each."""
SHARD = re.compile(r"[-_]\d+(-of-\d+)?$")


def files_of_split(folder: Path, option: str, split: str | None, split_option: str = "data.split") -> list[Path]:
    """The files of `split`, in order; of the only split that there is, where `split` is None.

    Tables count at any depth and with their shards: `train-00000-of-00002.parquet` and `train/0000.parquet` are of the
    split `train`. Without any, JSON files directly in the folder do, one for each split.
    """
    splits = _tables(folder) or _json(folder)
    if not splits:
        raise UserError(f"{option}: the folder {folder} holds no .json, .jsonl, .jsonl.gz, .parquet or .arrow file")
    if split is None and len(splits) == 1:
        return next(iter(splits.values()))
    if split is None:
        raise UserError(f"{option} is a folder, {folder}: set {split_option} to one of {', '.join(sorted(splits))}")
    if split not in splits:
        raise unknown(f"{split_option}: {folder} has no file for split", split, splits)
    return splits[split]


def unknown(what: str, name: str, known: Iterable[str]) -> UserError:
    """The error that `name` is none of `known`, with the nearest of them."""
    near = difflib.get_close_matches(name, known := sorted(known), n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return UserError(f"{what} {name!r}{hint}; there are: {listed(known)}")


def listed(names: Sequence[str]) -> str:
    """Names that a file chose, in one line of bearable length."""
    shown = [name if name.isprintable() else repr(name) for name in names[:MANY]]
    return ", ".join(name[:LONGEST] for name in shown) + (", …" if len(names) > MANY else "")


def _tables(folder: Path) -> dict[str, list[Path]]:
    splits: dict[str, list[Path]] = defaultdict(list)
    for file in sorted(file for ending in TABLES for file in folder.rglob(f"*{ending}")):
        splits[file.parent.name if file.stem.isdecimal() else SHARD.sub("", file.stem)].append(file)
    return dict(splits)


def _json(folder: Path) -> dict[str, list[Path]]:
    """One file for each name; of several with one name, the first kind of `JSON`."""
    return {
        file.name.removesuffix(suffix): [file]
        for suffix in reversed(JSON)
        for file in folder.glob(f"*{suffix}")
        if file.is_file()
    }
