"""What a search may look at: never what a finished model is measured on."""

from __future__ import annotations

from typing import Any

from mmsafe.core.declared import Declared
from mmsafe.core.errors import UserError
from mmsafe.data.data_source import DataSource
from mmsafe.data.mix import Mix
from mmsafe.data.row_source import RowSource
from mmsafe.runs.launch_options import Search


def check_search(config: Any, search: Search) -> None:
    """Raise `UserError` if the training runs of `config` would not be evaluated on rows held out of their own data.

    Also if nothing says what to search for.
    """
    if not config.evaluate:
        raise UserError("evaluate=false: a search needs the evaluation of each run; set evaluate=true")
    if config.benchmark.is_test_set:
        name = config.benchmark.name
        raise UserError(
            f"benchmark={name}: a search would tune on this test set; choose one that asks what data hold out"
        )
    search.directions(Declared(config.benchmark.measures))
    _check_data(config.data, "data")


def _check_data(data: DataSource, path: str) -> None:
    if isinstance(data, Mix):
        for name, part in data.parts.items():
            _check_data(part, f"{path}.parts.{name}")
    if isinstance(data, RowSource) and (data.eval_path is not None or data.eval_split is not None):
        option = "eval_path" if data.eval_path is not None else "eval_split"
        raise UserError(
            f"{path}.{option}: a search would tune on it; leave it null, so that a share of the data is held out"
        )
