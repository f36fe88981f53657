"""Notebooks as pages: words, code, what was printed, images. Nothing is executed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def as_markdown(path: Path) -> str:
    """A notebook as it was saved, in Markdown."""
    parts: list[str] = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        text = "".join(cell["source"])
        parts += [f"```python\n{text}\n```"] if cell["cell_type"] == "code" else [text]
        parts += [shown for output in cell.get("outputs", []) for shown in _output(output)]
    return "\n\n".join(parts) + "\n"


def _output(output: dict[str, Any]) -> Iterator[str]:
    data = output.get("data", {})
    if output["output_type"] == "error":
        yield f"```text\n{output['ename']}: {output['evalue']}\n```"
    elif "image/png" in data:
        yield f'<img alt="figure" src="data:image/png;base64,{"".join(data["image/png"]).strip()}">'
    elif words := "".join(output.get("text", data.get("text/plain", []))):
        yield f"```text\n{words}\n```"
