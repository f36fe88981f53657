"""Which files of a published folder are a split."""

import difflib
import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmsafe.core.errors import UserError

JSON = (".json", ".jsonl", ".jsonl.gz", "metadata.csv")
TABLES = (".parquet", ".arrow")
MANY, LONGEST = 20, 60
"""Names that a message lists, and characters of each."""
SHARD = re.compile(r"(?:^|[-_])([0-9]{1,9})(?:-of-([0-9]{1,9})(?:-[0-9a-f]+)?)?$")
"""Ends the names of files that are parts of one: its number, how many there are, and perhaps a hash."""
UNNAMED = re.compile(r"part-[0-9]+-.+")
"""What Spark calls files: only their folder has a name, as beside the bare numbers of `refs/convert/parquet`."""
USUAL = re.compile(r"(?:train|test|eval|dev|val)(?:ing|uation|idation|id)?")
"""Names of splits that are read from JSON files beside tables of others."""
INFO = "dataset_info.json"
NOTES = re.compile(r"cache-[0-9a-f]{16}.*\.arrow|(?:dataset_infos?|dataset_dict|state|prepared)\.json|refused\.jsonl")
"""What `datasets` and `mmsafe.prepare` leave beside the files of a set."""
Sets = dict[tuple[Path, str], list[Path]]  # files by their folder and the name that they share


def files_of_split(folder: Path, option: str, split: str | None, split_option: str = "data.split") -> list[Path]:
    """The files of `split`, in order; of the only split that there is, where `split` is None.

    Tables count at any depth, beside JSON files of other splits; without any, JSON files in the folder, or else deeper;
    hidden folders never. Shards are
    one set of files: `train-00000-of-00002.parquet` is of the split `train`. So is `train/0000.parquet`, and
    `train/data-00000-of-00001.arrow` as `save_to_disk` writes it, for a set that is alone in its folder also has the
    name of that. Raises `UserError` if several sets have the name (configurations, copies), or if shards are missing.
    """
    sets = _sets(folder, option)
    if not sets:
        raise UserError(f"{option}: the folder {folder} holds no .json, .jsonl, .jsonl.gz, .parquet or .arrow file")
    named = _named(sets)
    names = _telling_apart(sets, named)
    if split is None and len(sets) > 1 and names:
        raise UserError(f"{option} is a folder, {folder}: set {split_option} to one of {', '.join(names)}")
    chosen = list(sets) if split is None else named.get(split) or [key for key in sets if _stem(key[0].name) == split]
    if not chosen:
        raise unknown(f"{split_option}: {folder} has no file for split", str(split), names or named)
    if len(chosen) > 1:
        what = "several sets of files" if split is None else f"several of split {split!r}"
        first = listed([sets[key][0].relative_to(folder).as_posix() for key in chosen])
        raise UserError(f"{option}: {folder} holds {what}: {first}; set {option} to the folder or file of one of them")
    if not Path(os.path.abspath(sets[chosen[0]][0])).is_relative_to(os.path.abspath(folder)):
        raise UserError(f"{folder / INFO}: names a file outside of the folder; move it there, and name it")
    return _whole(sets[chosen[0]], option)


def unknown(what: str, name: str, known: Iterable[str]) -> UserError:
    """The error that `name` is none of `known`, with the nearest of them."""
    near = difflib.get_close_matches(name, known := sorted(known), n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return UserError(f"{what} {name!r}{hint}; there are: {listed(known)}")


def listed(names: Sequence[str]) -> str:
    """Names that a file chose, in one line of bearable length."""
    shown = [name if name.isprintable() else repr(name) for name in names[:MANY]]
    return ", ".join(name[:LONGEST] for name in shown) + (", …" if len(names) > MANY else "")


def described(folder: Path) -> dict[str, dict[str, Any]]:
    """The sets of which LLaMA-Factory's `dataset_info.json` names a file, with all that it says of each.

    `datasets` writes a file of that name, too, which names none. Raises `UserError` for one that cannot be read.
    """
    if not (folder / INFO).is_file():
        return {}
    try:
        content = json.loads((folder / INFO).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{folder / INFO}: cannot be read as JSON ({type(error).__name__}); repair it") from error
    entries = content.items() if isinstance(content, dict) else ()
    return {name: one for name, one in entries if isinstance(one, dict) and isinstance(one.get("file_name"), str)}


def _sets(folder: Path, option: str) -> Sets:
    if described_sets := {(folder, name): [folder / one["file_name"]] for name, one in described(folder).items()}:
        return described_sets
    files = list(_files_in(folder, option))
    tables = [file for file in files if file.suffix in TABLES]
    names = {SHARD.sub("", name) for file in tables for name in (_stem(file.name), file.parent.name)}
    others = [file for file in files if USUAL.fullmatch(stem := SHARD.sub("", _stem(file.name))) and stem not in names]
    sets: Sets = defaultdict(list)
    for file in [*tables, *others] if tables else [file for file in files if file.parent == folder] or files:
        stem = _stem(file.name)
        name = "" if UNNAMED.fullmatch(stem) else SHARD.sub("", stem)
        sets[file.parent, name or _stem(file.parent.absolute().name)].append(file)
    return sets


def _files_in(folder: Path, option: str) -> Iterator[Path]:
    """Files of rows at any depth, in order."""

    def refuse(error: OSError) -> None:
        raise UserError(f"{option}: cannot read {error.filename}: {error.strerror}") from error

    for place, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        above = Path(place).resolve()
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith((".", "__")) and not above.is_relative_to(Path(place, name).resolve())
        )
        for name in sorted(names):
            if name.endswith((*TABLES, *JSON)) and not name.startswith(".") and not NOTES.fullmatch(name):
                yield Path(place, name)


def _stem(name: str) -> str:
    return next((name.removesuffix(ending) for ending in (*TABLES, *JSON) if name.endswith(ending)), name)


def _named(sets: Sets) -> dict[str, list[tuple[Path, str]]]:
    """The sets by their names: each has one of its own, and that of its folder if it is alone there."""
    named: dict[str, list[tuple[Path, str]]] = defaultdict(list)
    beside = Counter(folder for folder, _ in sets)
    for folder, name in sets:
        for one in {name, _stem(folder.absolute().name) if beside[folder] == 1 else name}:
            named[one].append((folder, name))
    return dict(named)


def _telling_apart(sets: Sets, named: Mapping[str, list[tuple[Path, str]]]) -> list[str]:
    """A name for each set that no other has, its own rather than that of its folder; none, if one has no such name."""
    names = {keys[0]: name for name, keys in named.items() if len(keys) == 1}
    names |= {key: key[1] for key in sets if len(named[key[1]]) == 1}
    return sorted(names.values()) if len(names) == len(sets) else []


def _whole(files: list[Path], option: str) -> list[Path]:
    """The files, if each is another shard of the same set and none is missing."""
    forms, numbers = set(), Counter[int]()
    for file in files:
        stem = _stem(file.name)
        shard = SHARD.search(stem)
        total = int(shard[2]) if shard and shard[2] else None
        forms.add((file.name.removeprefix(stem), total, bool(shard or UNNAMED.fullmatch(stem))))
        numbers.update([int(shard[1])] if shard else [])
    _, total, many = next(iter(forms))
    repeated = numbers and len(files) > min(total or len(files), len(numbers))
    if len(forms) > 1 or repeated or (len(files) > 1 and not many):
        names = listed([file.name for file in files])
        raise UserError(f"{option}: {files[0].parent} holds one split in several forms: {names}; keep or name one")
    first = 0 if 0 in numbers else 1
    end = first + total if total else max(numbers, default=0) + (len(files) > 1)
    missing = next((number for number in range(first, end) if number not in numbers), None)
    if total and missing is not None:
        raise UserError(
            f"{option}: {files[0].parent} holds {len(files)} of the {total} files that {files[0].name} is one of, "
            f"and not number {missing}; get the set again"
        )
    if len(files) > 1 and missing is not None:
        raise UserError(
            f"{option}: {files[0].parent} holds {files[0].name} and {files[-1].name}, and not number {missing}: get "
            "what is missing, or name one file if they are sets of their own"
        )
    return files
