"""Hygiene of the repository itself: what its documents, Makefile and pins say is true."""

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import mmsafe

ROOT = Path(__file__).resolve().parent.parent
MAX_LINES = 250
TARGETS = {"help", "setup", "demo", "test", "lint", "type", "check", "bench", "experiments", "docs", "build", "clean"}


def repository_files() -> list[Path]:
    """Tracked files and new ones that git does not ignore, relative to the root."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [Path(name) for name in listed.split("\0") if name and (ROOT / name).is_file()]


def tree_entries(markdown: str) -> list[str]:
    """Paths in the first fenced block that starts with a line `.`; a folder ends with `/`.

    A line is `│   ├── name[/]   comment`, four columns per level; names that share a line are one space apart.
    """
    blocks = re.findall(r"^```\w*\n(.*?)^```", markdown, flags=re.M | re.S)
    tree = next((block for block in blocks if block.startswith(".\n")), "")
    entries: list[str] = []
    parents: list[str] = []
    for line in tree.splitlines()[1:]:
        match = re.match(r"((?:[│ ] {3})*)[├└]── (\S+(?: \S+)*)", line)
        if match is None:
            continue  # a comment that goes on, or a spacer
        depth = len(match[1]) // 4
        names = match[2].split()
        paths = ["".join(parents[:depth]) + name for name in names]
        entries += paths
        parents = [*parents[:depth], names[-1].rstrip("/") + "/"]
    return entries


def design_tree() -> list[str]:
    return tree_entries((ROOT / "docs" / "design.md").read_text(encoding="utf-8"))


def pins() -> dict[str, Version]:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.+!]+", line) for line in lines), "only `name==version`: no paths, no indexes"
    return {canonicalize_name(name): Version(version) for name, version in (line.split("==") for line in lines)}


def requirements() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [text for group in project["optional-dependencies"].values() for text in group]
    return [Requirement(text) for text in [*project["dependencies"], *extras]]


def test_everything_in_the_tree_exists():
    tree = design_tree()
    assert tree, "docs/design.md has no fenced file tree whose first line is `.`"
    patterns = {entry: re.sub(r"<\w+>", "*", entry) for entry in tree}
    missing = [
        entry
        for entry, pattern in patterns.items()
        if not any(path.is_dir() == entry.endswith("/") for path in ROOT.glob(pattern.rstrip("/")))
    ]
    assert not missing


def test_the_tree_is_complete():
    tree = {entry.rstrip("/") for entry in design_tree()}
    files = repository_files()
    top_level = {file.parts[0] for file in files if not file.parts[0].startswith(".")}
    packages = {file.parent.as_posix() for file in files if file.parts[0] == "mmsafe" and file.suffix == ".py"}
    assert (top_level | packages) <= tree, f"not in the tree of docs/design.md: {sorted((top_level | packages) - tree)}"


def test_files_that_documents_name_exist():
    missing = []
    for page in [file for file in repository_files() if file.suffix == ".md"]:
        text = (ROOT / page).read_text(encoding="utf-8")
        links = {ROOT / page.parent / link for link in re.findall(r"\]\(([^)#:\s]+)(?:#[^)\s]*)?\)", text)}
        names = set() if page.name == "CHANGELOG.md" else re.findall(r"\b(?:mmsafe|tests)/[\w/]+\.py\b", text)
        missing += [f"{page}: {path}" for path in [*links, *(ROOT / name for name in names)] if not path.exists()]
    assert missing == []


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_help_lists_every_target():
    shown = subprocess.run(["make"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert set(re.findall(r"^ *make (\w+)", shown, flags=re.M)) == TARGETS


def test_ci_script_can_be_run():
    script = ROOT / ".ci" / "run"
    if not script.exists():
        pytest.skip("not a checkout")
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", script], check=True)


def test_no_file_names_a_folder_of_one_machine():
    # Not after a word or a dot, so that URLs and relative paths may contain such a folder.
    machine_path = re.compile(rb"(?<![\w.>}])/(?:root|work|home|Users)/\w")
    found = []
    for file in repository_files():
        content = (ROOT / file).read_bytes()
        if b"\0" not in content and (match := machine_path.search(content)):
            line = content[: match.start()].count(b"\n") + 1
            found.append(f"{file}:{line}")
    assert not found


def test_no_catch_all_module():
    catch_all = {"utils.py", "util.py", "helpers.py", "misc.py", "common.py"}
    assert not [path for path in (ROOT / "mmsafe").rglob("*.py") if path.name in catch_all]


def test_modules_are_short():
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in (ROOT / "mmsafe").rglob("*.py")}
    assert not {str(path.relative_to(ROOT)): count for path, count in lines.items() if count > MAX_LINES}


def test_changelog_and_citation_have_this_version():
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert re.search(rf"^## \[{re.escape(mmsafe.__version__)}\]", changelog, flags=re.M)
    assert f"\nversion: {mmsafe.__version__}\n" in (ROOT / "CITATION.cff").read_text()


def test_the_image_has_the_extras_that_it_installs_and_is_not_root():
    text = (ROOT / "Dockerfile").read_text()
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(re.findall(r"'\.\[(.*?)\]'", text)[0].split(",")) <= set(extras)
    assert "-c constraints.txt" in text
    assert re.findall(r"^USER (.*)", text, flags=re.M) == ["mmsafe"]
    assert all(
        (ROOT / word).exists() for line in re.findall(r"^COPY (.*) \S+$", text, flags=re.M) for word in line.split()
    )


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_every_dependency_has_a_tested_version():
    pinned = pins()
    assert not {wanted.name for wanted in requirements() if canonicalize_name(wanted.name) not in pinned}


def test_tested_versions_are_in_the_declared_ranges():
    pinned = pins()
    outside = [
        f"{wanted} but {pinned[name]}"
        for wanted in requirements()
        if (name := canonicalize_name(wanted.name)) in pinned and pinned[name] not in wanted.specifier
    ]
    assert not outside
