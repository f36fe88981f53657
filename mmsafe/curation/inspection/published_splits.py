"""What is inspected: the splits of a data set, with bad rows dropped and told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mmsafe.core.errors import UserError
from mmsafe.curation.preparation.passes import published
from mmsafe.data.data_source import DataSource, Loaded
from mmsafe.data.holdout import refuse_unsplit
from mmsafe.data.mix import Mix
from mmsafe.data.row_source import RowSource


def read_splits(data: DataSource, names: Sequence[str] | None) -> dict[str, Loaded]:
    """The splits called `names`, or else what a run trains on, `train`, and what it holds out, `holdout`.

    Of a mixture, all rows of every part are read once. Raises `UserError` for a split that there is not.
    """
    data = _tolerant(data)
    if names is not None:
        return {name: _split(data, name) for name in names}
    found = {"train": data.prompts(), "holdout": data.holdout()}
    return {name: loaded for name, loaded in found.items() if loaded.examples or loaded.bad_rows}


def _tolerant(data: DataSource) -> DataSource:
    """The same data; a bad row does not end the command."""
    if isinstance(data, Mix):
        parts = {name: _tolerant(part) for name, part in data.parts.items()}
        return replace(data, parts=parts, weights=None, repeat=False)
    return replace(data, on_bad="skip") if isinstance(data, RowSource) else data


def _split(data: DataSource, name: str) -> Loaded:
    if not isinstance(data, RowSource):
        raise UserError("splits: only a data set that is read from files has splits by name; set it to null")
    source = published(data, name)
    try:
        if source.path is not None and source.path.is_file():
            refuse_unsplit(source.path, name)
        return source.test()
    except UserError as error:
        raise UserError(str(error).replace("data.eval_split", "splits").replace("data.split", "splits")) from error
