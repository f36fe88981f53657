"""docs/tutorial.ipynb as it is stored, and executed again; docs/api.md says the signatures that there are."""

import inspect
import os
import re
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

import mmsafe

DOCS = Path(__file__).resolve().parents[1] / "docs"
TUTORIAL = DOCS / "tutorial.ipynb"
SMALL = 'model, size, scenes = "random", 48, 16  #'
MOST = 300_000
"""Bytes."""


def notebook() -> Any:
    return nbformat.read(TUTORIAL, as_version=4)


def outputs(book: Any) -> list[Any]:
    return [output for cell in book.cells if cell.cell_type == "code" for output in cell.outputs]


def ends_in_a_picture(book: Any) -> bool:
    last = [cell for cell in book.cells if cell.cell_type == "code"][-1]
    return any("image/png" in output.get("data", {}) for output in last.outputs)


def test_the_tutorial_is_stored_with_its_results():
    book = notebook()
    nbformat.validate(book)
    assert TUTORIAL.stat().st_size < MOST
    cells = [cell for cell in book.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert ends_in_a_picture(book)
    text = "".join(
        str(output.get("text", "")) + str(output.get("data", {}).get("text/plain", "")) for output in outputs(book)
    )
    assert not re.search(r"warning|error|traceback|(?<!\w)/(tmp|var|usr)/", text, flags=re.IGNORECASE)


@pytest.mark.slow
def test_the_tutorial_runs_to_its_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    book = notebook()
    (parameters,) = [cell for cell in book.cells if cell.source.count("model, size, scenes =")]
    parameters.source = re.sub(r"^model, size, scenes = .*?#", SMALL, parameters.source, flags=re.M)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    NotebookClient(book, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert ends_in_a_picture(book)
    assert {path.name for path in (tmp_path / "tutorial").iterdir()} == {
        "dpo",
        "bpo",
        "base-test",
        "dpo-test",
        "bpo-test",
    }


def test_the_page_of_the_api_says_the_signatures():
    page = (DOCS / "api.md").read_text(encoding="utf-8")
    said = dict(re.findall(r"^\| `(\w+)(\([^`]*\))` \|", page, flags=re.M))
    functions = {name: getattr(mmsafe, name) for name in mmsafe.__all__ if not inspect.isclass(getattr(mmsafe, name))}
    plain = {
        name: [
            parameter.replace(annotation=parameter.empty)
            for parameter in inspect.signature(function).parameters.values()
        ]
        for name, function in functions.items()
    }
    assert said == {name: str(inspect.Signature(parameters)) for name, parameters in plain.items()}
