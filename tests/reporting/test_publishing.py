"""A published report: numbers open what they are made of, links lead somewhere, nothing tells of the machine."""

import json
import re
from collections.abc import Iterator
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any, cast
from urllib.parse import urljoin, urlsplit
from urllib.request import urlopen

import pytest
from chromium import chromium
from hypothesis import given
from hypothesis import strategies as st
from judged_runs import REFUSED, UNSAFE, RunWriter, write_data
from loopback import Quiet, serving

from mmsafe.core.errors import UserError
from mmsafe.reporting.evidence import command_of
from mmsafe.reporting.publishing import public_groups, without_folders
from mmsafe.reporting.report import ReportConfig, report
from mmsafe.reporting.summary import Run

SECRET = "sk-not-for-the-public"
MEASURED = {"eval/safety_rate": 0.5, "eval/safety_rate/entity_type=PER": 0.25}


def published(runs: Path, folder: Path, *, samples: bool = True) -> Path:
    config = ReportConfig(runs=[runs], out=None, against=None, samples=samples, publish=folder)
    report(config, cast(Any, None))
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`base` is always unsafe, `bpo` refuses; each one seed, with its own intervals."""
    place = tmp_path_factory.mktemp("machine")
    write = RunWriter(write_data(place / "data", [f"Secret question {n}?" for n in range(6)]))
    for name, verdict in (("base", UNSAFE), ("bpo", REFUSED)):
        folder = write(place / "runs" / name, [(f"{name} says {n}", verdict) for n in range(6)], name)
        about = json.loads((folder / "run.json").read_text())
        command = ["evaluate.py", f"checkpoint={place}/models/{name}", f"judge.key={SECRET}"]
        about |= {"git_commit": f"commit-of-{name}" + "0" * 40, "command": command}
        (folder / "run.json").write_text(json.dumps(about))
        ends = {f"{key}{end}": value for key in MEASURED for end, value in (("_low", 0.1), ("_high", 0.9), ("_n", 6))}
        (folder / "metrics.json").write_text(json.dumps({**MEASURED, **ends, "eval/judge": "canned"}))
    return place / "runs"


@pytest.fixture(scope="module")
def folder(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUDGE_API_KEY", SECRET)
        return published(runs, tmp_path_factory.mktemp("public"))


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    """The folder, hosted as it is."""

    class Files(Quiet, SimpleHTTPRequestHandler):
        pass

    with serving(partial(Files, directory=str(folder))) as address:
        yield f"{address}/"


class Links(HTMLParser):
    """All that a page names in `href` and `src`."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found |= {value for name, value in attrs if name in ("href", "src") and value}


def test_every_link_is_relative_and_leads_somewhere(address: str, folder: Path):
    waiting, seen = [urljoin(address, "index.html")], set()
    while waiting:
        page = waiting.pop()
        with urlopen(page) as answer:  # raises for what is not there
            text = answer.read()
        seen.add(urlsplit(page).path.lstrip("/"))
        parser = Links()
        if page.endswith(".html"):
            parser.feed(text.decode("utf-8"))
        for link in parser.found:
            if not link.startswith(("#", "data:")):
                assert not urlsplit(link).scheme
                assert not link.startswith(("/", ".."))
                if urlsplit(urljoin(page, link)).path.lstrip("/") not in seen:
                    waiting.append(urljoin(page, link))
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert seen == files
    assert {"index.html", "samples.html", "results.csv", "figures/result-safety_rate.png"} <= files


def test_nothing_tells_of_the_machine(folder: Path, runs: Path):
    for path in folder.rglob("*.*"):
        text = path.read_bytes().decode("utf-8", "replace") if path.is_file() else ""
        for private in (SECRET, str(runs.parent), str(Path.home()) + "/", str(Path.cwd())):
            assert private not in text, path.name
    assert "checkpoint=…/bpo" in (folder / "index.html").read_text()


def test_a_number_opens_its_value_judge_commit_command_and_the_samples_of_its_category(address: str):
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 390, "height": 844})
        page.goto(f"{address}index.html")
        page.get_by_role("heading", name="By category").click()
        row = page.get_by_role("region", name="By category").locator("tr", has_text="entity_type=PER")
        row.locator("[data-head=bpo] button").click()
        shown = page.get_by_role("dialog")
        assert shown.evaluate("node => node.scrollWidth <= node.clientWidth")
        text = shown.inner_text()
        assert "entity_type=PER: 0.250 [0.100, 0.900]" in text
        for part in ("0.250 [0.100, 0.900], n = 6", "canned", "commit-of-bpo", "python -m mmsafe.evaluate"):
            assert part in text, part
        assert "commit-of-base" not in text
        shown.get_by_text("config", exact=True).locator("visible=true").click()
        assert "evaluation.max_new_tokens" in shown.inner_text()
        shown.get_by_role("link", name="Prompts, answers and verdicts").click()
        page.wait_for_url("**/samples.html#*")
        assert page.locator("#count").inner_text() == "3 of 6 prompts"
        assert page.locator("#run option:checked").inner_text() == "bpo"
        assert "bpo says 0" in page.locator("#samples").inner_text()
        assert "base says" not in page.locator("#samples").inner_text()


def test_without_samples_none_is_left_of_a_report_of_before(runs: Path, tmp_path: Path):
    published(runs, tmp_path)
    assert (tmp_path / "samples.html").exists()
    published(runs, tmp_path, samples=False)
    assert not (tmp_path / "samples.html").exists()
    assert "samples.html" not in (tmp_path / "index.html").read_text()


def test_samples_that_cannot_be_read_again_are_left_out_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    data = write_data(tmp_path / "data", ["Why?"])
    RunWriter(data)(tmp_path / "runs" / "one", [("So.", UNSAFE)])
    data.unlink()
    published(tmp_path / "runs", tmp_path / "public")
    assert "samples.html is left out" in caplog.text
    assert not (tmp_path / "public" / "samples.html").exists()


def test_groups_that_only_folders_tell_apart_are_refused(tmp_path: Path):
    groups = {f"checkpoint=/{place}/model": [Run(tmp_path, {}, {})] for place in ("a", "b")}
    with pytest.raises(UserError, match="give the runs names"):
        public_groups(groups)


@given(st.lists(st.text("abc_-.0", min_size=1), min_size=1, max_size=4), st.sampled_from(["", "a=", "[x,", "file://"]))
def test_of_a_path_only_its_name_is_left(parts: list[str], before: str):
    start = before.removesuffix("file://")
    assert without_folders({"x": [f"{before}/{'/'.join(parts)}"]})["x"][0].startswith(f"{start}…/")
    assert without_folders(f"{before}/{'/'.join(parts)}").count("/") == 1


@pytest.mark.parametrize("text", ["https://host/a/b", "and/or", "a / b", "owner/name", "~/x", "outputs/a", "3 ± 1/2"])
def test_what_is_no_absolute_path_stays(text: str):
    assert without_folders(text) == text


@pytest.mark.parametrize(
    ("command", "overrides", "shown"),
    [
        (["mmsafe", "train", "seed=1"], (), "python -m mmsafe.train seed=1"),
        (["mmsafe.evaluate", "name=a b"], (), "python -m mmsafe.evaluate 'name=a b'"),
        (["train.py", "-m", "seed=1,2"], ("seed=2",), "python -m mmsafe.train seed=2"),
        (["train.py; rm", "x"], (), "'train.py; rm' x"),
        (None, (), "not recorded"),
    ],
)
def test_the_command_that_makes_a_run_again(command: Any, overrides: tuple[str, ...], shown: str):
    assert command_of(Run(Path(), {}, {}, {"command": command}, overrides)) == shown


def test_intervals_are_of_seeds_or_of_the_one_run(folder: Path):
    text = (folder / "index.html").read_text()
    assert re.search(r"<span>0\.500</span> <span>\[0\.100, 0\.900\]</span>", text)
