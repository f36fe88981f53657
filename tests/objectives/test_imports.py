"""The import rule: an objective knows tensors and nothing else, and reading a config needs no torch."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import mmsafe.objectives

FOLDER = Path(mmsafe.objectives.__file__).parent
ALLOWED = ("pydantic", "mmsafe.objectives", "mmsafe.core.options")


def imports(tree: ast.AST, for_typing: bool = False) -> Iterator[tuple[str, bool]]:
    """Names of imported modules, each with whether it is imported for type checking only."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, for_typing) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or ""), for_typing
        elif isinstance(node, ast.If) and ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}:
            for part in node.body:
                yield from imports(ast.Module([part], []), True)
            for part in node.orelse:
                yield from imports(ast.Module([part], []), for_typing)
        else:
            yield from imports(node, for_typing)


def allowed(name: str, for_typing: bool) -> bool:
    if name.split(".")[0] in sys.stdlib_module_names:
        return True
    if name.split(".")[0] == "torch":
        return for_typing
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in ALLOWED)


@pytest.mark.parametrize("path", sorted(FOLDER.rglob("*.py")), ids=lambda path: path.stem)
def test_an_objective_imports_tensors_for_typing_and_nothing_else(path: Path):
    found = [name for name, for_typing in imports(ast.parse(path.read_text())) if not allowed(name, for_typing)]
    assert not found


@pytest.mark.parametrize(
    "source",
    [
        "import torch",
        "from torch import Tensor",
        "def f():\n    import torch.nn",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    pass\nelse:\n    import torch",
        "from mmsafe.data import collate",
        "import mmsafe.objectives_other",
        "from .. import scoring",
        "import numpy",
        "if TYPE_CHECKING:\n    from mmsafe.scoring.ways import Scoring",
    ],
)
def test_the_rule_sees_what_it_forbids(source: str):
    assert not all(allowed(*found) for found in imports(ast.parse(source)))
