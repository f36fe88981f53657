"""Every command in README.md is one that works: it is taken from there and checked, not copied to here."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from mmsafe import report
from mmsafe.blind import BlindConfig
from mmsafe.cli import COMMANDS
from mmsafe.evaluate import EvaluateConfig
from mmsafe.preflight import check
from mmsafe.train import TrainConfig

ROOT = Path(__file__).resolve().parents[1]
ROOTS = {"train": TrainConfig, "blind": BlindConfig, "evaluate": EvaluateConfig}
README = (ROOT / "README.md").read_text(encoding="utf-8")


def commands(markdown: str) -> list[str]:
    """The lines of all ```bash blocks without comments; a line that ends with \\ goes on in the next."""
    blocks = re.findall(r"^```bash\n(.*?)^```", markdown, flags=re.M | re.S)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    words = (shlex.split(line, comments=True) for line in lines)
    return list(dict.fromkeys(shlex.join(found) for found in words if found))


def documented() -> Iterator[str]:
    """In README, and in the lab book where it has pages."""
    for path in [ROOT / "README.md", *sorted((ROOT / "experiments").glob("*/README.md"))]:
        yield from commands(path.read_text(encoding="utf-8"))


def targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.M))


def split(command: str) -> tuple[str, list[str]]:
    """The mmsafe command of a line, and its words; fails for a form that is not known here."""
    words = shlex.split(command)
    if words[:2] == ["python", "-m"] and words[2].startswith("mmsafe."):
        return words[2].removeprefix("mmsafe."), words[3:]
    if words[0] == "mmsafe":
        return words[1], words[2:]
    pytest.fail(f"a command of a form that this test cannot check: {command}")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the placeholders of the documents exist: train.json, test.json, images/, DIR."""
    for name in ("train.json", "test.json"):
        (tmp_path / name).write_text("[]")
    for name in ("images", "DIR"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_blocks_are_read():
    text = "```bash\n# only a comment\nmake demo   # five minutes\nmmsafe train \\\n  seed=1\n```\n```\nnot bash\n```\n"
    assert commands(text) == ["make demo", "mmsafe train seed=1"]
    assert commands(README)


def test_the_two_commands_to_begin_with_are_there():
    assert commands(README)[:2] == ["make demo", "make test"]


@pytest.mark.parametrize("command", list(dict.fromkeys(documented())))
def test_documented_command_works(command: str, place: Path):
    words = shlex.split(command)
    if words[0] == "make":
        assert {word for word in words[1:] if "=" not in word} <= targets()
    elif words[0] in ("bash", "sh") or words[0].endswith(".sh"):
        assert (ROOT / words[-1]).is_file()
    elif words[0] == "git":
        assert shutil.which("git") is None or words[1] in ("clone", "checkout")
    else:
        name, arguments = split(command)
        assert name in COMMANDS
        named = [word.partition("=")[2] for word in arguments if re.match(r"(data|model)\.\w*(path|dir)=", word)]
        named += [word.partition("=")[2] for word in arguments if re.match(r"(checkpoint|against)=", word)]
        assert all((place / path).exists() for path in named), "a placeholder that this test does not know"
        if name in ROOTS:
            check(name, ROOTS[name], arguments)
        elif name == "report":
            assert vars(report.parser().parse_args(arguments))["folders"] if hasattr(report, "parser") else arguments
        else:
            assert name == "demo"
            assert len(arguments) <= 1


def test_the_table_of_commands_is_the_list_of_the_console_script():
    assert set(re.findall(r"^\| `python -m mmsafe\.(\w+)` \|", README, flags=re.M)) == set(COMMANDS)


def test_options_that_are_named_in_the_text_exist():
    """Words like `data.on_bad=skip` in the running text, outside of blocks."""
    text = re.sub(r"^```.*?^```", "", README, flags=re.M | re.S)
    named = set(re.findall(r"`([a-z_]+(?:\.[a-z_]+)*=[\w.-]*)`", text))
    assert named
    data = ["data=mmsafe_po", "data.path=train.json"]
    for word in sorted(named):
        key, _, value = word.partition("=")
        if value and not key.startswith("hydra"):
            own = data if key.startswith("data.") else []
            name = "evaluate" if key in ("checkpoint", "reference") else "train"
            check(name, ROOTS[name], [*own, word])
