"""The documentation site: builds without a warning, loads nothing from elsewhere, has every option with its meaning."""

import json
import os
import re
import shutil
import subprocess
import sys
from html import unescape
from pathlib import Path

import pytest
from chromium import DESKTOP, PHONE, chromium

from mmsafe.core.config import conf_dir
from mmsafe.runs.help_page import described

pytest.importorskip("mkdocs", reason="`make docs` installs it")
ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("docs", "experiments", "conf", "mmsafe", "mkdocs.yml", "README.md", "CITATION.cff")
SOURCES += ("CONTRIBUTING.md", "CHANGELOG.md")
pytestmark = pytest.mark.slow
NOTEBOOK = {
    "cells": [
        {"cell_type": "markdown", "source": ["# A notebook\n", "by [its page](runs.md#the-metrics)"]},
        {
            "cell_type": "code",
            "source": "print(6 * 7)",
            "outputs": [
                {"output_type": "stream", "text": ["42\n"]},
                {"output_type": "display_data", "data": {"image/png": "iVBORw0KGgo=", "text/plain": "<Figure>"}},
                {"output_type": "error", "ename": "ValueError", "evalue": "too <b>long</b>", "traceback": []},
            ],
        },
    ]
}


def build(root: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Strictly: a warning, such as one of a link that leads nowhere, ends it."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    env = os.environ | {"PYTHONPATH": str(root), "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=root, capture_output=True, text=True, env=env)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    ended = build(ROOT, folder)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return folder


def table(page: Path, heading: str = "") -> dict[str, list[str]]:
    """By option: type, default and meaning, below the heading with that anchor."""
    html = page.read_text(encoding="utf-8").partition(f'id="{heading}"' if heading else "<h1")[2]
    rows = re.findall(r"<tr>(.*?)</tr>", html.partition("</table>")[0], flags=re.S)
    cells = [[unescape(re.sub("<.*?>", "", cell)) for cell in re.findall(r"<td.*?>(.*?)</td>", row)] for row in rows]
    return {name: rest for name, *rest in filter(None, cells)}


def test_an_option_of_a_choice_has_type_default_and_meaning(site: Path):
    options = table(site / "reference/config/objective.html", "bpo")
    assert options["objective.beta"][:2] == ["number > 0", "0.1"]
    assert "implicit reward" in options["objective.beta"][2]
    assert options["objective.mode"][0] == "joint or concat"


def test_an_option_of_a_command_has_type_default_and_meaning(site: Path):
    options = table(site / "reference/commands/train.html")
    assert options["lengths.max_length"] == [
        "integer ≥ 1 or null",
        "2048",
        "tokens of prompt, image and response together; null: no limit",
    ]
    assert options["validate.generate"][1] == "0"


def test_every_option_of_every_choice_is_there_and_means_something(site: Path):
    for path in conf_dir().glob("*/*.yaml"):
        said = described(f"{path.parent.name}/{path.stem}", [conf_dir()])
        if not said.is_global:
            options = table(site / f"reference/config/{path.parent.name}.html", path.stem) if said.options else {}
            assert set(options) == {f"{path.parent.name}.{name}" for name in said.options}
            assert [name for name, cells in options.items() if not all(cells)] == []


def test_every_page_of_the_checkout_is_on_the_site(site: Path):
    assert {f"{path.stem}.html" for path in (ROOT / "docs").glob("*.md")} <= {path.name for path in site.iterdir()}
    book = {path.parent.name for path in (ROOT / "experiments").glob("*/README.md")}
    assert book <= {path.parent.name for path in site.glob("experiments/*/index.html")}
    assert (site / "experiments/blindness/figure.png").is_file()


def test_python_is_documented_where_options_point_to(site: Path):
    page = (site / "reference/python/mmsafe.objectives.html").read_text(encoding="utf-8")
    assert 'id="mmsafe.objectives.bpo.BPO"' in page
    assert "the chosen response also beats the blind one" in page


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What the site is made of, to be changed; the package itself is not copied."""
    for name in SOURCES:
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "docs").unlink()
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    return tmp_path


def test_a_new_page_and_a_notebook_are_on_the_site_without_an_edit(checkout: Path):
    (checkout / "docs/chat_with_it.md").write_text(
        "# Chat with it\n\n[More](a_notebook.ipynb) and [code](../mmsafe/cli.py)\n"
    )
    (checkout / "docs/a_notebook.ipynb").write_text(json.dumps(NOTEBOOK))
    ended = build(checkout, checkout / "site")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    page = (checkout / "site/chat_with_it.html").read_text()
    assert 'href="a_notebook.html"' in page
    assert 'href="source/mmsafe/cli.py.html"' in page
    shown = unescape(re.sub("<(?!img).*?>", "", (checkout / "site/a_notebook.html").read_text()))
    assert all(words in shown for words in ("print(6 * 7)", "42", "base64,iVBORw0KGgo=", "ValueError: too"))
    assert "Chat with it" in (checkout / "site/training.html").read_text()  # its navigation


def test_a_link_that_leads_nowhere_is_an_error(checkout: Path):
    (checkout / "docs/new.md").write_text("# New\n\n[there](runs.md#no-such-heading)\n")
    ended = build(checkout, checkout / "site")
    assert ended.returncode != 0
    assert "no-such-heading" in ended.stdout + ended.stderr


@pytest.mark.parametrize("size", [DESKTOP, PHONE])
@pytest.mark.parametrize("name", ["index.html", "reference/config/optimizer.html", "experiments/blindness/index.html"])
def test_a_page_loads_nothing_from_elsewhere_and_fits(name: str, size: tuple[int, int], site: Path):
    with chromium() as browser:
        page = browser.new_context(viewport={"width": size[0], "height": size[1]}).new_page()
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto((site / name).as_uri())
        assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
        assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
