"""A page for each package of `mmsafe`, on which mkdocstrings writes what its modules say of themselves."""

from __future__ import annotations

import ast
from pathlib import Path


def python_pages(package: Path) -> dict[str, str]:
    """Pages by name."""
    pages: dict[str, str] = {}
    for init in sorted(package.rglob("__init__.py")):
        name = ".".join(init.parent.relative_to(package.parent).parts)
        modules = sorted(path.stem for path in init.parent.glob("*.py") if path != init)
        about = ast.get_docstring(ast.parse(init.read_text(encoding="utf-8"))) or ""
        blocks = [f"::: {name}.{module}" for module in modules]
        pages[f"reference/python/{name}.md"] = "\n\n".join([f"# {name}", about, *blocks]) + "\n"
    return pages
