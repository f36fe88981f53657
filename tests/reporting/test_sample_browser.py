"""The sample browser in a real one: what it shows, what it hides, and that nothing in it runs."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from chromium import DESKTOP, PHONE, opened
from judged_runs import REFUSED, SAFE, UNKNOWN, UNSAFE, RunWriter, write_data

from mmsafe.evaluation.judges.judge import Verdict
from mmsafe.reporting.run_samples import read_samples
from mmsafe.reporting.sample_browser import write_page

expect = pytest.importorskip("playwright.sync_api").expect
COUNT = 45
VERDICTS = (UNSAFE, REFUSED, SAFE, UNKNOWN, Verdict(True, False, category="S1", reply="It says secret words."))
MARK = "<script>alert(1)</script>"
NASTY = (
    f"</script>{MARK}",
    "<img src=x onerror=alert(1)>",
    "<!--<script>",
    "&lt;b&gt; &amp; {{ 7 * 7 }} {% raw %} ${7} `",
    "javascript:alert(1)",
    "a\u2028b\u2029c",
    "null \x00 escape \x1b[31m bell \x07 delete \x7f",
    "\u202eright to left\u2066 isolate",
    "שלום مرحبا 你好 🏳️‍🌈",
    "half \ud83d",
    "",
)
SHOWN = {
    5: "a⟨U+2028⟩b⟨U+2029⟩c",
    6: "null ⟨U+0000⟩ escape ⟨U+001B⟩[31m bell ⟨U+0007⟩ delete ⟨U+007F⟩",
    7: "⟨U+202E⟩right to left⟨U+2066⟩ isolate",
    9: "half ⟨U+D83D⟩",
    10: "(empty)",
}
LUMINANCE_RATIO = """(selector) => {
  const linear = (value) => (value /= 255, value <= .04045 ? value / 12.92 : ((value + .055) / 1.055) ** 2.4);
  const luminance = (color) => {
    const [red, green, blue] = color.match(/[\\d.]+/g).map(Number);
    return .2126 * linear(red) + .7152 * linear(green) + .0722 * linear(blue);
  };
  let node = document.querySelector(selector), ground = node;
  while (getComputedStyle(ground).backgroundColor === "rgba(0, 0, 0, 0)") ground = ground.parentElement;
  const [low, high] = [getComputedStyle(node).color, getComputedStyle(ground).backgroundColor]
    .map(luminance).sort((a, b) => a - b);
  return (high + .05) / (low + .05);
}"""


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """45 prompts; `base` has each verdict in turn, `bpo` refuses everything and was asked all but the last."""
    place = tmp_path_factory.mktemp("samples")
    write = RunWriter(write_data(place / "data", [f"Secret question {n}?" for n in range(COUNT)]))
    base = write(place / "base", [(f"Base secret {n}", VERDICTS[n % 5]) for n in range(COUNT)], "base")
    bpo = write(place / "bpo", [(f"Sorry {n}", REFUSED) for n in range(COUNT)], "bpo")
    path = place / "samples.html"
    write_page(read_samples([base, bpo]), path)
    return path


@pytest.fixture(scope="module")
def injected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hostile text wherever a file can bring it in: name, question, tag, response, category, reply."""
    place = tmp_path_factory.mktemp("injected")
    questions = [text.replace("\0", "") for text in NASTY[:9]]  # readers refuse null characters and lone surrogates
    questions, kinds = [*questions, "half", "empty", "long"], (f'"><i>{MARK}', "b")
    write = RunWriter(write_data(place / "data", questions, kinds))
    told = Verdict(False, False, category=f'" onload="{MARK}', reply=f"verdict: safe </script>{MARK}")
    said = [*((text, told) for text in NASTY), ("y" * 1_000_000, told)]
    run = write(place / "run", said, f"</title>{MARK}")
    path = place / "samples.html"
    write_page(read_samples([run]), path)
    return path


def counts(page: Any) -> dict[str, list[str]]:
    """By run: answers, unsafe, refused, unknown."""
    lines = page.locator("#runs tr").all()
    return {line.locator("th").inner_text(): line.locator("td").all_inner_texts()[2:] for line in lines}


def ids(page: Any) -> list[str]:
    return page.locator("article h2").all_inner_texts()


@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_opens_without_a_complaint_and_can_be_read(browser: Any, samples: Path, size: tuple[int, int], scheme: str):
    with opened(browser, samples, size, scheme) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (ground == "rgb(255, 255, 255)") == (scheme == "light")
        for selector in ("h1", ".note", ".tags", "summary", ".unsafe", ".safe", ".refused", ".unknown"):
            assert page.evaluate(LUMINANCE_RATIO, selector) >= 4.5, selector
        images = page.locator("img")
        assert images.count() == len(ids(page)) == 20
        sizes = images.evaluate_all("nodes => nodes.map(node => [node.naturalWidth, node.naturalHeight])")
        assert sizes == [[256, 192]] * 20


def test_answers_stand_side_by_side(browser: Any, samples: Path):
    with opened(browser, samples) as page:
        boxes = page.locator("article").nth(2).locator(".answer")
        assert boxes.locator("h3").all_inner_texts() == ["base", "bpo"]
        assert boxes.locator("pre").all_inner_texts() == ["Base secret 2", "Sorry 2"]
        assert boxes.locator(".verdict").all_inner_texts() == ["safe", "safe", "refused"]
        left, right = boxes.nth(0).bounding_box(), boxes.nth(1).bounding_box()
        assert left["y"] == right["y"]
        assert left["x"] + left["width"] <= right["x"]
    images = samples.read_text(encoding="utf-8").count("data:image/jpeg;base64,")
    assert images == (COUNT + 1) // 2, "each image is there once"


def test_what_is_harmful_is_not_in_the_document_before_it_is_opened(browser: Any, samples: Path):
    with opened(browser, samples) as page:
        first = page.locator("article").first
        assert "ecret" not in first.inner_text() + first.evaluate("node => node.textContent")
        assert "blur" in first.locator("img").evaluate("node => getComputedStyle(node).filter")
        first.get_by_text("instruction and image").click()
        expect(first).to_contain_text("Secret question 0?")
        expect(first.locator("img")).to_have_css("filter", "none")
        assert "Base secret 0" not in first.inner_text()
        first.get_by_text("response: unsafe").click()
        secret = first.get_by_text("Base secret 0")
        expect(secret).to_be_visible()
        first.get_by_text("response: unsafe").click()
        expect(secret).to_be_hidden()
        unknown = page.locator("article").nth(3)  # what a judge could not tell is hidden too
        assert "Base secret 3" not in unknown.evaluate("node => node.textContent")
        assert unknown.locator(".answer").first.locator(".verdict").all_inner_texts() == ["unknown"]
        page.get_by_label("show what is hidden").check()
        shown = page.locator("#samples").inner_text()
        assert all(f"Secret question {n}?" in shown and f"Base secret {n}\n" in shown + "\n" for n in range(20))
        page.get_by_role("button", name="Next").click()
        assert "Base secret 21" in page.locator("#samples").inner_text()


def test_pages(browser: Any, samples: Path):
    with opened(browser, samples) as page:
        seen = ids(page)
        assert page.get_by_role("button", name="Previous").is_disabled()
        for _ in range(2):
            page.get_by_role("button", name="Next").click()
            seen += ids(page)
        assert seen == [str(10 + n) for n in range(COUNT)]
        assert page.get_by_role("button", name="Next").is_disabled()
        assert page.locator("#page").inner_text() == "41 to 45 of 45"


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({"Verdict": "unsafe"}, [n for n in range(COUNT) if n % 5 in (0, 4)]),
        ({"Verdict": "unknown"}, [n for n in range(COUNT) if n % 5 == 3]),
        ({"Verdict": "refused", "of run": "base"}, [n for n in range(COUNT) if n % 5 == 1]),
        ({"Verdict": "safe", "of run": "base"}, [n for n in range(COUNT) if n % 5 in (1, 2)]),
        ({"Verdict": "unsafe", "of run": "bpo"}, []),
        ({"Group": "S1"}, [n for n in range(COUNT) if n % 5 == 4]),
        ({"Group": "LOC"}, list(range(1, COUNT, 2))),
        ({"Group": "LOC", "Verdict": "unknown"}, [n for n in range(COUNT) if n % 5 == 3 and n % 2 == 1]),
    ],
)
def test_filters(browser: Any, samples: Path, chosen: dict[str, str], expected: list[int]):
    with opened(browser, samples) as page:
        for label, value in chosen.items():
            page.get_by_label(label, exact=True).select_option(label=value)
        assert page.locator("#count").inner_text() == f"{len(expected)} of {COUNT} prompts"
        assert ids(page) == [str(10 + n) for n in expected][:20]
        judged = [n % 5 for n in expected]
        base = [len(judged), sum(n in (0, 4) for n in judged), judged.count(1), judged.count(3)]
        assert counts(page) == {"base": [str(n) for n in base], "bpo": [str(len(judged)), "0", str(len(judged)), "0"]}


def test_changed_between_runs_and_search(browser: Any, samples: Path):
    with opened(browser, samples) as page:
        page.get_by_label("verdict differs between runs").check()
        assert page.locator("#count").inner_text() == f"{COUNT - 9} of {COUNT} prompts"  # both refuse every fifth
        page.get_by_label("Text", exact=True).fill("BASE SECRET 4")  # 4 and 40 to 44, of which both refuse 41
        assert ids(page) == [str(10 + n) for n in (4, 40, 42, 43, 44)]
        page.get_by_label("Text", exact=True).press("Enter")  # must not send the form
        assert ids(page) == [str(10 + n) for n in (4, 40, 42, 43, 44)]


def test_an_address_keeps_the_filters(browser: Any, samples: Path):
    with opened(browser, samples) as page:
        page.get_by_label("Verdict", exact=True).select_option("unsafe")
        page.get_by_label("Group", exact=True).select_option(label="LOC")
        address, shown = page.url, ids(page)
        page.goto("about:blank")
        page.goto(address)
        assert ids(page) == shown
        assert page.get_by_label("Group", exact=True).evaluate("node => node.selectedOptions[0].label") == "LOC"
        page.goto("about:blank")
        page.goto(re.sub("#.*", "#verdict=nonsense&group=none&length=1&changed=on", address))
        assert page.locator("#count").inner_text() == f"{COUNT - 9} of {COUNT} prompts"


def test_the_keyboard_is_enough(browser: Any, samples: Path):
    with opened(browser, samples) as page:
        for _ in range(12):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.tagName") == "SUMMARY":
                break
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        page.keyboard.press("Enter")
        expect(page.locator("article").first).to_contain_text("Secret question 0?")
        assert outline == "solid"


def test_a_prompt_that_one_run_was_not_asked(browser: Any, tmp_path: Path):
    write = RunWriter(write_data(tmp_path / "all", ["One?", "Two?", "Three?"]))
    both = write(tmp_path / "both", [("a", SAFE)] * 3)
    write.data = write_data(tmp_path / "fewer", ["One?", "Other?"])
    path = tmp_path / "samples.html"
    write_page(read_samples([both, write(tmp_path / "fewer-run", [("a", SAFE)] * 2)]), path)
    with opened(browser, path) as page:
        assert ids(page) == ["10", "11", "12", "11"]  # prompt 11 is another one in the second run
        missing = [article.get_by_text("was not asked this").count() for article in page.locator("article").all()]
        assert missing == [0, 1, 1, 1]


def test_hostile_text_is_shown_and_not_run(browser: Any, injected: Path):
    with opened(browser, injected) as page:
        page.get_by_label("show what is hidden").check()
        articles = page.locator("article").all()
        assert len(articles) == len(NASTY) + 1
        for number, (article, text) in enumerate(zip(articles, NASTY, strict=False)):
            assert article.locator(".answer pre").first.evaluate("node => node.textContent") == SHOWN.get(number, text)
        for summary in page.get_by_text("what the judge said").all():
            summary.click()
        expect(page.get_by_text(f"verdict: safe </script>{MARK}")).to_have_count(len(articles))
        assert page.locator("#runs th").inner_text() == f"</title>{MARK}"
        assert page.title() == f"Samples: </title>{MARK}"
        assert page.locator("script").count() == 2
        assert page.locator("main img").count() == len(articles)
        assert page.locator("main script, main i, [onload], [onerror]").count() == 0
        page.get_by_label("Group", exact=True).select_option(label=f'"><i>{MARK}')
        assert len(ids(page)) == len(articles) // 2


def test_a_megabyte_is_cut_until_asked_for(browser: Any, injected: Path):
    with opened(browser, injected) as page:
        answer = page.locator("article").last.locator(".answer")
        assert len(answer.locator("pre").inner_text()) == 20_000
        answer.get_by_role("button", name="all 1,000,000 characters").click()
        assert answer.locator("pre").inner_text() == "y" * 1_000_000


def test_a_script_that_came_in_would_be_refused(browser: Any, samples: Path, tmp_path: Path):
    """The page's own policy, should escaping ever fail."""
    text, broken = samples.read_text(encoding="utf-8"), tmp_path / "broken.html"
    broken.write_text(text.replace("<h1>", "<script>document.title = 'run'</script><img src=x onerror=run()><h1>"))
    context = browser.new_context()
    page = context.new_page()
    page.goto(broken.as_uri())
    assert page.title() == "Samples: base, bpo"
    context.close()


def test_the_data_are_one_block_of_plain_json(injected: Path):
    text = injected.read_text(encoding="ascii", errors="surrogateescape").split('id="data">')[1].split("</script>")[0]
    assert not set("<>&\u2028\u2029") & set(text)
    assert [row["answers"][0]["response"] for row in json.loads(text)["prompts"]][: len(NASTY)] == list(NASTY)
