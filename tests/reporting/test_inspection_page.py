"""The page of `mmsafe.inspect` in a real browser: what it shows, what it hides, and that nothing in it runs."""

from pathlib import Path
from typing import Any

import pytest
from chromium import DESKTOP, PHONE, opened
from launching import succeed
from reader_rows import json_file, picture

expect = pytest.importorskip("playwright.sync_api").expect
MARK = "<script>alert(1)</script><img src=x onerror=alert(2)>"
COUNT = 24
SPLITS = ("data=mmsafe_po", "data.path=set", "data.split=train", "data.eval_split=test")


def entry(number: int, split: str, **fields: Any) -> dict[str, Any]:
    return {
        "id": f"{split}-{number}",
        "question": f"USER: <image>\nSecret request {number}? ASSISTANT:",
        "image": f"{number % 5}.png",
        "chosen": f"Secret refusal {split} {number}.",
        "rejected": f"Secret help {split} {number}.",
        "entity_type": ("PER", "LOC")[number % 2],
        **fields,
    }


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 rows and 2 held out, of which the first is in both and the last has two images.

    The last row to train on is hostile, and one has no image.
    """
    place = tmp_path_factory.mktemp("page")
    for number in range(6):
        picture(place / f"set/images/{number}.png", 40 * number)
    hostile = {"question": f"USER: <image>\nSecret {MARK} ASSISTANT:", "chosen": f"{MARK} $x", "entity_type": MARK}
    rows = [entry(n, "train") for n in range(COUNT - 1)]
    rows += [entry(COUNT, "train", id=f"</h2>{MARK}", **hostile), entry(9, "gone", image=f"{MARK}.png")]
    json_file(place / "set/train.json", rows)
    two = {"question": "USER: Is <image> or <image> secret? ASSISTANT:", "image": ["4.png", "5.png"]}
    json_file(place / "set/test.json", [entry(0, "test"), entry(99, "test", **two)])
    succeed("inspect", "model=random", *SPLITS, "hydra.run.dir=out", cwd=place)
    return place / "out" / "inspect.html"


def ids(page: Any) -> list[str]:
    return page.locator("article h2").all_inner_texts()


@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_opens_without_a_complaint_and_every_figure_is_drawn(
    browser: Any, page_file: Path, size: tuple[int, int], scheme: str
) -> None:
    with opened(browser, page_file, size, scheme) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (ground == "rgb(255, 255, 255)") == (scheme == "light")
        figures = page.locator("figure").all()
        assert len(figures) == len(list((page_file.parent / "figures").glob("*.svg"))) >= 6
        assert all(figure.locator("svg").bounding_box()["height"] > 100 for figure in figures)
        sizes = page.locator("article img").evaluate_all("nodes => nodes.map(node => node.naturalWidth)")
        assert sizes == [4] * 20


def test_tables_tell_what_was_found_and_with_which_tokens(browser: Any, page_file: Path) -> None:
    with opened(browser, page_file) as page:
        flags = page.get_by_role("region", name="Flags", exact=True)
        row = flags.get_by_role("row", name="leaked_instruction")
        assert row.locator("td").all_inner_texts() == ["1", "1", "another split has the instruction"]
        assert page.get_by_text("counted by model=random: 752 different tokens, 16 for an image").count() == 1
        dropped = page.get_by_role("region", name="Where the dropped rows are")
        assert dropped.locator("tbody td").all_inner_texts() == [
            "set/train.json: row 25 (id 'gone-9')",
            "missing image",
        ]
        flags.get_by_role("button", name="train").click()
        assert flags.locator("[aria-sort=ascending]").count() == 1


def test_words_are_not_in_the_document_before_they_are_opened(browser: Any, page_file: Path) -> None:
    with opened(browser, page_file) as page:
        assert "ecret" not in page.locator("header").inner_text() + page.locator("main").evaluate(
            "node => node.textContent"
        )
        first = page.locator("article").first
        assert "blur" in first.locator("img").evaluate("node => getComputedStyle(node).filter")
        first.get_by_text("instruction and image").click()
        expect(first).to_contain_text("Secret request 0?")
        expect(first.locator("img")).to_have_css("filter", "none")
        assert "Secret refusal" not in first.inner_text()
        first.get_by_text("chosen: 23 characters").click()
        expect(first).to_contain_text("Secret refusal train 0.")
        assert "Secret help" not in first.inner_text()


def test_several_images_are_shown_and_numbered_where_they_stand(browser: Any, page_file: Path) -> None:
    with opened(browser, page_file) as page:
        page.get_by_role("button", name="Next").click()
        last = page.locator("article").last
        assert len(last.locator("img").all()) == 2
        last.get_by_text("instruction and images").click()
        expect(last).to_contain_text("Is [image 1]  or [image 2]  secret?")
        for image in last.locator("img").all():
            expect(image).to_have_css("filter", "none")


def test_filters_and_pages(browser: Any, page_file: Path) -> None:
    with opened(browser, page_file) as page:
        assert page.locator("#count").inner_text() == f"{COUNT + 2} of {COUNT + 2} rows"
        page.get_by_role("button", name="Next").click()
        assert len(ids(page)) == COUNT + 2 - 20
        page.get_by_label("Flag", exact=True).select_option("leaked_instruction")
        assert ids(page) == ["train-0", "test-0"]
        told = page.locator("article").last.locator(".flags li")
        assert "leaked_instruction: train: train-0" in told.all_inner_texts()
        page.get_by_label("Split", exact=True).select_option("holdout")
        assert ids(page) == ["test-0"]
        page.get_by_label("Flag", exact=True).select_option("")
        page.get_by_label("Group", exact=True).select_option(label="LOC")
        assert ids(page) == ["test-99"]
        page.get_by_label("Group", exact=True).select_option("")
        page.get_by_label("Split", exact=True).select_option("")
        page.get_by_label("Text", exact=True).fill("secret HELP train 7")
        assert ids(page) == ["train-7"]


def test_hostile_text_is_shown_and_not_run(browser: Any, page_file: Path) -> None:
    with opened(browser, page_file) as page:
        page.get_by_label("show what is hidden").check()
        page.get_by_label("Text", exact=True).fill("$x")
        (shown,) = page.locator("article").all()
        assert shown.locator("h2").inner_text() == f"</h2>{MARK}"
        assert shown.locator("pre").all_inner_texts()[:2] == [f"Secret {MARK}", f"{MARK} $x"]
        assert page.locator("script").count() == 2
        assert page.locator("main script, [onerror], [onload]").count() == 0
        assert page.get_by_role("region", name="entity_type").get_by_text(MARK).count() == 1
