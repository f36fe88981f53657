"""`mmsafe.chat`: whose answers stand beside whose, what they are scored with, and that a page of it lets nothing in."""

import io
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch
from chromium import DESKTOP, PHONE, chromium
from launching import QUICK, launch, refuse, succeed, wait_for
from PIL import Image
from small_model import Noise

from mmsafe.core.config import typed, without_hydra
from mmsafe.core.errors import UserError
from mmsafe.experiment import chat_page, conversation
from mmsafe.experiment.chat_config import ChatConfig
from mmsafe.experiment.conversation import Conversation, plain
from mmsafe.generation.generate import Response
from mmsafe.microworld.tiny import TinyModel
from mmsafe.objectives.base import ScoredRow
from mmsafe.runs.hydra_state import composing
from mmsafe.runs.overrides import composed
from mmsafe.scoring.collate import Item
from mmsafe.scoring.ways import SharedPrefix

HOSTILE = (
    "<script>alert(1)</script><img src=x onerror=alert(2)> **bold** [link](javascript:alert(3)) {{ 7 * 7 }} \x1b[31m"
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run that trained all weights, `full`, one that trained adapters, `lora`, and two images."""
    folder = tmp_path_factory.mktemp("runs")
    words = (*QUICK, "evaluate=false", "optimizer.lr=0.01", "objective=dpo")
    for name, more in {"full": (), "lora": ("peft=lora", "peft.rank=4")}.items():
        succeed("train", *words, *more, f"hydra.run.dir={name}", cwd=folder)
    for number, name in enumerate(("a.png", "b.jpg")):
        Noise(number, 64, 48).load().save(folder / name)
    return folder


@pytest.fixture
def cached(runs: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MMSAFE_CACHE", str(runs / "cache"))
    return runs


def config(*words: str) -> ChatConfig:
    with composing("chat", None):
        return typed(
            without_hydra(composed("chat", ["evaluation.max_new_tokens=6", "model=random", *words])), ChatConfig
        )


@pytest.mark.parametrize("run", ["full", "lora"])
def test_every_answer_has_the_log_ratio_that_training_would_give_it(run: str, cached: Path):
    talk = Conversation(config(f"checkpoint={cached / run}"))
    talk.other = Noise(2)
    assert "reference: what its run began with" in talk.about
    answers = list(talk.ask("What is this?", Noise(1)))
    views = ["with the image", "without it", "with another image"]
    assert [(answer.model, answer.view) for answer in answers] == [
        (m, v) for m in ("policy", "reference") for v in views
    ]
    prompt = conversation.Example("chat", talk.turns[:1], talk.images, {})  # the first question as it was asked
    row = {"answer": ScoredRow("answer")}
    for answer, example in zip(
        answers, [prompt, prompt.blinded(), replace(prompt, images=(Noise(2),))] * 2, strict=True
    ):
        cut = frozenset(() if answer.finished else ("answer",))
        item = Item(replace(example, responses={"answer": answer.text}, cut=cut))
        sums = []
        for vlm in talk.models.values():
            batch = SharedPrefix().collator(talk.models["policy"].encoder(), [row])([item])
            with torch.no_grad():
                sums.append(float(SharedPrefix().log_probs(vlm.model, batch)["answer"].log_probs.sum()))
        assert answer.log_ratio == pytest.approx(sums[0] - sums[1], abs=1e-4)
        assert answer.text in "".join(piece for piece, _ in answer.tokens)
    assert max(abs(answer.log_ratio) for answer in answers) > 0.1, "training changed something"


def test_a_conversation_goes_on_from_the_policy_s_answer_beside_the_image(cached: Path):
    talk = Conversation(config(f"checkpoint={cached / 'full'}"))
    first, *_ = talk.ask("What is this?", Noise(1))
    views = {answer.view for answer in talk.ask("And why?", None)}
    assert views == {"with the image", "without it"}
    assert [(turn.role, turn.text) for turn in talk.turns][:3] == [
        ("user", "What is this?"),
        ("assistant", first.text),
        ("user", "And why?"),
    ]
    talk.reset()
    assert {answer.view for answer in talk.ask("Hello?", None)} == {""}


def test_against_is_the_reference_and_the_same_model_has_no_ratio(cached: Path):
    talk = Conversation(config(f"checkpoint={cached / 'full'}", f"against={cached / 'full'}"))
    assert all(ratio == 0 for answer in talk.ask("What is this?", Noise(1)) for _, ratio in answer.tokens)


def test_a_model_of_no_run_stands_alone(cached: Path, tmp_path: Path):
    Conversation(config(f"checkpoint={cached / 'full'}", "compare=false")).models["policy"].save(tmp_path / "plain")
    talk = Conversation(config(f"checkpoint={tmp_path / 'plain'}"))
    assert talk.about.endswith("reference: none: this model is of no run; name one to compare with by against=DIR")
    (answer,) = talk.ask("What is this?", None)
    assert (answer.model, answer.tokens) == ("policy", [])
    TinyModel(pretraining=None, family="qwen2_5_vl").load().save(tmp_path / "other")
    with pytest.raises(UserError, match="has another tokenizer"):
        Conversation(config(f"checkpoint={tmp_path / 'plain'}", f"against={tmp_path / 'other'}"))


def test_another_base_than_the_run_began_with_is_refused(cached: Path, tmp_path: Path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model").symlink_to(cached / "full" / "model")
    about = (cached / "full" / "run.json").read_text()
    (tmp_path / "run" / "run.json").write_text(re.sub(r'"model": "\w{32}"', f'"model": "{"0" * 32}"', about))
    with pytest.raises(UserError, match="the weights that its run began with have changed; name them by against=DIR"):
        Conversation(config(f"checkpoint={tmp_path / 'run'}"))


def test_a_conversation_that_is_too_long_is_refused_and_not_cut(cached: Path):
    talk = Conversation(config(f"checkpoint={cached / 'full'}", "max_length=40"))
    with pytest.raises(UserError, match="no room for an answer; begin a new conversation"):
        list(talk.ask("What is this? " * 9, Noise(1)))
    assert (talk.said, talk.turns) == ([], ())


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["checkpoint=nowhere"], "mmsafe.chat: checkpoint=nowhere: no such folder"),
        (["checkpoint=cache"], "mmsafe.chat: model.path=cache"),
        (["checkpoint=full", "against=nowhere"], "mmsafe.chat: against=nowhere: no such folder"),
        (["checkpoint=full", "port=70000"], "mmsafe.chat: port=70000: "),
        (["ui=web", "host=nowhere.invalid"], "mmsafe.chat: host=nowhere.invalid port=7860: "),
    ],
)
def test_bad_input_is_one_line(words: list[str], line: str, runs: Path):
    assert refuse("chat", *words, cwd=runs).startswith(line)


def test_a_port_in_use_is_told_before_a_model_is_loaded(runs: Path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ended = launch(
            "chat", "checkpoint=full", "ui=web", f"port={taken.getsockname()[1]}", cwd=runs, cache=runs / "no"
        )
    assert ended.status == 2
    assert "Address already in use; choose another port, or port=0" in ended.err
    assert not (runs / "no").exists()


def started(runs: Path, *words: str, **options: Any) -> subprocess.Popen[Any]:
    command = [sys.executable, "-m", "mmsafe.chat", "checkpoint=full", "evaluation.max_new_tokens=6", *words]
    environment = os.environ | {"MMSAFE_CACHE": str(runs / "cache"), "PYTHONPATH": str(Path(__file__).parents[1])}
    return subprocess.Popen(command, cwd=runs, env=environment, **options)


def test_a_terminal(runs: Path):
    leader, follower = pty.openpty()
    process = started(runs, stdin=follower, stdout=follower, stderr=follower)
    os.close(follower)
    said = b""
    for line in (
        "/image a.png",
        "/other b.jpg",
        "What is this?",
        "/image none.png",
        "/what",
        "/reset",
        "Hello?",
        "/quit",
    ):
        while not said.rstrip().endswith(b"you>"):
            said += os.read(leader, 10_000)
        os.write(leader, f"{line}\n".encode())
        said += os.read(leader, 10_000)
    with suppress(OSError):  # the other end is closed when the process ends
        while more := os.read(leader, 10_000):
            said += more
    assert process.wait(60) == 0
    os.close(leader)
    text = said.decode()
    assert "reference: what its run began with" in text
    assert "64 x 48 pixels" in text
    for model in ("policy", "reference"):
        assert all(f"{model} {view}\r\n" in text for view in ("with the image", "without it", "with another image"))
        assert re.search(rf"\n{model}\r\n", text), "after /reset no image is left"
    assert len(re.findall(r"log π - log π_ref = [+-]\d+\.\d{3} nats: ", text)) == 8
    assert "none.png: no such image file" in text
    assert text.count("/reset   /quit") == 2, "the keys, and again for a word that is none"


def test_an_end_of_input_and_ctrl_c_end_it_in_silence(runs: Path):
    process = started(runs, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, b"")
    assert b"you>" in out
    with (runs / "log").open("w+b") as log:
        process = started(runs, "ui=web", "port=0", stdout=log, stderr=log)
        wait_for(lambda: b"Ctrl-C" in (runs / "log").read_bytes(), process)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    assert (runs / "log").read_text().count("\n") == 2


def test_what_a_model_says_moves_no_cursor():
    assert plain("a\x1b[2J\rb\nc\u202e d\x07 é 你") == "a⟨U+001B⟩[2J⟨U+000D⟩b\nc⟨U+202E⟩ d⟨U+0007⟩ é 你"


@contextmanager
def served(talk: Conversation) -> Iterator[str]:
    """The page of a conversation, on a thread."""
    with chat_page.bound("127.0.0.1", 0) as server:
        thread = threading.Thread(target=chat_page.serve, args=(server, talk), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def asked(page: Any, url: str, question: str, **files: Path) -> None:
    page.goto(url)
    page.fill("#question", question)
    for name, path in files.items():
        page.set_input_files(f"#{name}", path)
    page.get_by_role("button", name="Ask").click()
    page.wait_for_url(f"{url}/#last")


@contextmanager
def watched(browser: Any, url: str, size: tuple[int, int] = DESKTOP) -> Iterator[Any]:
    """A page in a window; fails if it logs anything, opens a dialog, or asks another place than `url` for anything."""
    context = browser.new_context(viewport={"width": size[0], "height": size[1]})
    page, complaints, places = context.new_page(), [], []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda request: places.append(request.url))
    yield page
    assert complaints == []
    assert {place for place in places if not place.startswith((f"{url}/", "data:"))} == set()
    context.close()


@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_the_page_shows_both_models_in_three_views(cached: Path, size: tuple[int, int]):
    talk = Conversation(config(f"checkpoint={cached / 'full'}"))
    with chromium() as browser, served(talk) as url, watched(browser, url, size) as page:
        asked(page, url, "What is this?", image=cached / "a.png", other=cached / "b.jpg")
        assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
        article = page.locator("article")
        views = ["with the image", "without it", "with another image"]
        assert article.locator("> h3").all_inner_texts() == views
        assert article.locator(".answer h3").all_inner_texts() == ["policy", "reference"] * 3
        by_view = sorted(talk.said[0].answers, key=lambda answer: views.index(answer.view))
        assert article.locator("pre").all_inner_texts() == [answer.text or "(empty)" for answer in by_view]
        ratios = [f"{answer.log_ratio:+.2f} nats, {len(answer.tokens)} tokens" for answer in by_view]
        assert [text.partition("= ")[2] for text in article.locator("summary").all_inner_texts()] == ratios
        article.locator("summary").first.click()
        tokens = article.locator("details").first.locator("small").all_inner_texts()
        assert tokens == [f"{ratio:+.2f}" for _, ratio in by_view[0].tokens]
        sizes = page.locator("article img").evaluate_all("images => images.map((image) => image.naturalWidth)")
        assert sizes == [64, 64]
        left, right = (article.locator(".answer").nth(number).bounding_box() for number in (0, 1))
        assert (left["y"] == right["y"]) == (size == DESKTOP)
        asked(page, url, "And why?")
        assert len(talk.said) == 2
        page.get_by_role("button", name="New conversation").click()
        page.locator("article").first.wait_for(state="detached")
        assert (talk.said, talk.other) == ([], None)


def test_hostile_text_is_shown_and_not_run(cached: Path, monkeypatch: pytest.MonkeyPatch):
    talk = Conversation(config(f"checkpoint={cached / 'full'}"))

    def answers(vlm: Any, prompts: Any, settings: Any) -> Iterator[list[tuple[int, Response]]]:
        yield [(number, Response(HOSTILE, True)) for number in range(len(prompts))]

    monkeypatch.setattr(conversation, "generate", answers)
    with chromium() as browser, served(talk) as url, watched(browser, url) as page:
        asked(page, url, f"{HOSTILE}?".replace("\x1b", ""))
        assert page.locator("pre").all_inner_texts() == [HOSTILE.replace("\x1b", "⟨U+001B⟩")] * 2
        assert page.locator("h2").inner_text() == f"{HOSTILE}?".replace("\x1b", "")
        page.locator("summary").first.click()
        assert page.locator("script, main img, main a, main b, main strong, [onerror]").count() == 0
        policy = page.locator("meta[http-equiv=Content-Security-Policy]").get_attribute("content")
        assert "default-src 'none'" in policy
        assert "script-src" not in policy


def test_an_upload_arrives_byte_by_byte_and_is_checked(cached: Path, monkeypatch: pytest.MonkeyPatch):
    talk, received = Conversation(config(f"checkpoint={cached / 'full'}")), list[bytes | None]()
    check = chat_page._image
    monkeypatch.setattr(chat_page, "_image", lambda data: received.append(data) or check(data))
    anything = bytes(range(256)) * 3 + b"\r\n--\r\n\n\r\r" + os.urandom(9999) + b"\r\n"
    bomb = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(bomb, "PNG")
    with served(talk) as url:
        for content, told in ((anything, "the image: is not an image"), (bomb.getvalue(), "too large to decode")):
            reply = httpx2.post(
                url, data={"question": "?"}, files={"image": ("x.png", content)}, headers={"Origin": url}
            )
            assert (reply.status_code, reply.headers["Location"]) == (303, "/#last")
            assert received == [content]
            assert told in httpx2.get(url).text
            received.clear()
    assert talk.said == []


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": "null"},
        {"Origin": "http://evil.example"},
        {"Origin": "http://evil.example:1", "Host": "evil.example:1"},
    ],
    ids=str,
)
def test_no_other_site_can_ask(headers: dict[str, str], cached: Path):
    talk = Conversation(config(f"checkpoint={cached / 'full'}", "compare=false"))
    with served(talk) as url:
        assert httpx2.post(url, data={"question": "?"}, headers=headers).status_code == 403
        assert httpx2.get(url).headers["X-Frame-Options"] == "DENY"
        assert httpx2.get(url, headers={"Host": "evil.example"}).status_code == 403
    assert talk.said == []


def test_a_request_that_is_too_large_is_not_read(cached: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(chat_page, "LARGEST", 1000)
    talk = Conversation(config(f"checkpoint={cached / 'full'}", "compare=false"))
    with served(talk) as url:
        assert httpx2.post(url, data={"question": "?" * 2000}, headers={"Origin": url}).status_code == 413
    assert talk.said == []


def test_an_address_that_others_reach_is_warned_of(capsys: pytest.CaptureFixture[str]):
    for host, warned in (("127.0.0.1", False), ("0.0.0.0", True)):
        with chat_page.bound(host, 0):
            assert ("whoever reaches this machine can use the models" in capsys.readouterr().err) == warned
