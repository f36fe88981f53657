"""What MkDocs calls: which pages the site has, in which order, and what becomes of links to files of the repository.

A page is called by its place in the repository, so that the links in it are those that work in a checkout. A file that
is no page, but that a page links to, becomes one that shows it.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from config_pages import config_pages
from mkdocs.structure.files import File, Files, InclusionLevel
from notebooks import as_markdown
from python_pages import python_pages

ROOT = Path(__file__).resolve().parents[2]
FIRST = ("training", "runs", "data", "datasets", "objectives", "optimizers", "strategies", "clusters", "sweeps")
"""How-to pages in reading order; those that are not named here follow by name."""
PROJECT = ("design", "tour", "performance", "security")
SHOWN_AS_THEY_ARE = {".png", ".svg", ".jpg", ".csv"}
LINK = re.compile(r"(\]\()([^)#:\s]+)((?:#[^)\s]*)?\))")


def on_files(files: Files, config: Any) -> Files:
    """The files of the site in place of those of `docs/`, and the navigation."""
    for file in [file for file in files if file.abs_src_path and Path(file.abs_src_path).is_relative_to(ROOT / "docs")]:
        files.remove(file)
    written = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in _written()}
    notebooks = {path.relative_to(ROOT).as_posix(): as_markdown(path) for path in (ROOT / "docs").glob("*.ipynb")}
    made = _decisions(written) | config_pages() | python_pages(ROOT / "mmsafe")
    pages = written | {f"{name}.md": text for name, text in notebooks.items()} | made
    pages["README.md"] = f"---\nhide: [navigation]\n---\n\n{pages['README.md']}"
    linked = {path for name, text in pages.items() for path in _targets(name, text) if (ROOT / path).is_file()}
    for name in sorted(linked - set(written) - set(notebooks)):
        if Path(name).suffix in SHOWN_AS_THEY_ARE:
            files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
        else:
            pages[f"{name}.md"] = _source(name)
    for name, text in pages.items():
        file = File.generated(config, name, content=_with_links(name, text, set(pages)))
        file.dest_uri = _address(name, made)
        if file.dest_uri.startswith("source/"):
            file.inclusion = InclusionLevel.NOT_IN_NAV
        files.append(file)
    files.append(File.generated(config, "assets/site.css", abs_src_path=str(Path(__file__).with_name("site.css"))))
    config["nav"] = _navigation(list(pages))
    return files


def _written() -> list[Path]:
    return [
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
        *sorted((ROOT / "docs").glob("*.md")),
        *sorted((ROOT / "docs" / "adr").glob("*.md")),
        *sorted((ROOT / "experiments").rglob("README.md")),
    ]


def _navigation(pages: list[str]) -> list[Any]:
    def below(folder: str) -> list[str]:
        return sorted((name for name in pages if posixpath.dirname(name) == folder), key=lambda name: name[:-3])

    def place(name: str) -> tuple[int, str]:
        stem = Path(name).name.partition(".")[0]
        return (FIRST.index(stem) if stem in FIRST else len(FIRST), stem)

    project = [f"docs/{stem}.md" for stem in PROJECT]
    book = [name for name in sorted(pages) if re.fullmatch(r"experiments/\w+/README.md", name)]
    return [
        {"Start": "README.md"},
        {"How to": sorted((name for name in below("docs") if name not in project), key=place)},
        {
            "Reference": [
                {"Commands": _short(below("reference/commands"))},
                {"Options by group": _short(below("reference/config"))},
                {"Python": _short(below("reference/python"))},
            ]
        },
        {
            "Lab book": [
                "experiments/README.md",
                *({Path(name).parts[1]: name} for name in book),
            ]
        },
        {
            "Project": [
                *project,
                {"Decisions": below("docs/adr")[-1:] + below("docs/adr")[:-1]},
                "CONTRIBUTING.md",
                "CHANGELOG.md",
            ]
        },
    ]


def _short(names: list[str]) -> list[dict[str, str]]:
    return [{Path(name).stem.removeprefix("mmsafe."): name} for name in names]


def _address(name: str, made: dict[str, str]) -> str:
    """Where a page stands on the site: below `source/` what only shows a file."""
    if name == "README.md":
        return "index.html"
    stem = name.removesuffix(".md").removesuffix(".ipynb")
    if Path(stem).suffix and name not in made:
        return f"source/{stem}.html"
    stem = re.sub(r"(^|/)README$", r"\1index", stem.removeprefix("docs/"))
    return f"{stem.lower() if '/' not in stem else stem}.html"


def _targets(name: str, text: str) -> set[str]:
    return {posixpath.normpath(posixpath.join(posixpath.dirname(name), link[1])) for link in LINK.findall(text)}


def _with_links(name: str, text: str, pages: set[str]) -> str:
    """The text with links to folders and to files that are shown as pages leading to these pages."""

    def led(match: re.Match[str]) -> str:
        before, link, after = match.groups()
        path = posixpath.normpath(posixpath.join(posixpath.dirname(name), link))
        for page in (f"{path}.md", f"{path}/README.md"):
            if path not in pages and page in pages:
                return f"{before}{posixpath.relpath(page, posixpath.dirname(name) or '.')}{after}"
        return match[0]

    return LINK.sub(led, text)


def _source(name: str) -> str:
    text = (ROOT / name).read_text(encoding="utf-8")
    kind = {".py": "python", ".yaml": "yaml", ".sh": "bash"}.get(Path(name).suffix, "text")
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"---\nsearch: {{exclude: true}}\nhide: [toc]\n---\n\n# {name}\n\n{fence}{kind}\n{text}\n{fence}\n"


def _decisions(written: dict[str, str]) -> dict[str, str]:
    titles = {Path(name).name: text.partition("\n")[0][2:] for name, text in written.items() if "docs/adr/" in name}
    lines = [f"- [{title}]({name})" for name, title in titles.items()]
    return {"docs/adr/README.md": "\n".join(["# Decisions", "", "What was decided, and why.", "", *lines, ""])}
