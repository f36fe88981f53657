"""Rooms in one order: a module imports its own package or one below it, and no import leads back to where it began."""

import ast
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import mmsafe

ROOT = Path(mmsafe.__file__).parent
LAYERS = [
    "core",
    "objectives",
    "data",
    "models",
    "scoring",
    "generation",
    "reference",
    "runs",
    "training",
    "evaluation",
    "reporting",
    "microworld",
    "experiment",
    "sweeps",
    "estimate",
    "curation",
]
"""Lowest first. Above them are the commands, which nothing imports but `cli` and `api`."""
Imports = dict[str, set[str]]


def imports(root: Path) -> Imports:
    """What each module of `mmsafe` imports of it, anywhere in its file: inside functions and for typing only, too."""
    files = {".".join(file.relative_to(root.parent).with_suffix("").parts): file for file in root.rglob("*.py")}
    modules = {name.removesuffix(".__init__"): file for name, file in files.items()}
    found: Imports = {}
    for module, file in modules.items():
        names: set[str] = set()
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                whole = {f"{node.module}.{alias.name}" for alias in node.names}
                names |= (whole & modules.keys()) or {str(node.module)}
        found[module] = (names & modules.keys()) - {module}
    return found


def upward(found: Imports) -> list[str]:
    """Imports of a package that stands above one's own."""
    floor = {f"mmsafe.{name}": number for number, name in enumerate(LAYERS)} | {
        "mmsafe": -1,
        "mmsafe.cli": len(LAYERS) + 1,
        "mmsafe.api": len(LAYERS) + 1,
    }

    def of(module: str) -> int:
        package = ".".join(module.split(".")[:2])
        return floor.get(package, len(LAYERS))

    return [f"{module} -> {other}" for module, others in found.items() for other in others if of(other) > of(module)]


def circle(found: Imports) -> list[str]:
    """The modules of a circle of imports, if there is one."""
    try:
        TopologicalSorter(found).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_nothing_imports_upwards():
    assert sorted(upward(imports(ROOT))) == []


def test_no_imports_in_a_circle():
    assert circle(imports(ROOT)) == []


def test_only_commands_lie_outside_of_packages():
    packages = {path.name for path in ROOT.iterdir() if (path / "__init__.py").exists()}
    assert packages == set(LAYERS)


def test_the_design_page_shows_the_order():
    page = (ROOT.parent / "docs" / "design.md").read_text(encoding="utf-8")
    rooms = re.search(r"^```\n(commands .*?)^```", page, flags=re.M | re.S)
    assert rooms
    assert [line.split()[0] for line in rooms[1].splitlines()] == ["commands", *reversed(LAYERS)]


@pytest.mark.parametrize("planted", ["from mmsafe.training import fit", "def f():\n    import mmsafe.training.fit"])
def test_a_planted_import_is_found(planted: str, tmp_path: Path):
    root = tmp_path / "mmsafe"
    for name in ("core", "training"):
        (root / name).mkdir(parents=True)
        (root / name / "__init__.py").touch()
    (root / "__init__.py").touch()
    (root / "core" / "errors.py").write_text(planted)
    (root / "training" / "fit.py").write_text("from mmsafe.core import errors")
    assert upward(imports(root)) == ["mmsafe.core.errors -> mmsafe.training.fit"]
    assert set(circle(imports(root))) == {"mmsafe.core.errors", "mmsafe.training.fit"}
