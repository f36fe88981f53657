"""Every command in README.md, docs/ and the lab book is one that works: it is taken from there, not copied to here."""

import json
import re
import shlex
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chat_server import ChatServer, Reply, verdict
from launching import succeed
from PIL import Image
from published import harmeval, mm_safetybench
from roots import ROOTS

from mmsafe.cli import COMMANDS
from mmsafe.runs.preflight import check

ROOT = Path(__file__).resolve().parents[1]


def commands(markdown: str) -> list[str]:
    """The lines of all ```bash blocks without comments; a line that ends with \\ goes on in the next."""
    blocks = re.findall(r"^```bash\n(.*?)^```", markdown, flags=re.M | re.S)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    words = (shlex.split(line, comments=True) for line in lines)
    return list(dict.fromkeys(shlex.join(found) for found in words if found))


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


RUN = ("README.md", "docs/training.md", "docs/runs.md", "docs/evaluation.md", "docs/dashboards.md")
"""Pages whose commands are run. Those of the other how-to pages are checked, as each command checks itself first."""
RUN_ANYWHERE = re.compile(r"mmsafe\.(inspect|prepare|tag) data=mmsafe_po")


def documented() -> dict[str, bool]:
    """Every command, and whether it is run."""
    book = [f"experiments/{path.parent.name}/README.md" for path in sorted((ROOT / "experiments").glob("*/README.md"))]
    others = sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))
    found: dict[str, bool] = {}
    for name in [*RUN, *book, *others]:
        for command in commands(page(name)):
            found.setdefault(command, name in (*RUN, *book) or bool(RUN_ANYWHERE.search(command)))
    return found


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


SMALL = {
    "train": ("trainer.max_steps=1", "trainer.progress_bar=false", "generation.max_new_tokens=2"),
    "blind": ("generation.max_new_tokens=2",),
    "inspect": (),
    "evaluate": (),
    "doctor": (),
}
ASKED = ("evaluation.max_new_tokens=2",)
SERVED = "http://localhost:8000/v1"
MICROWORLD = ("data.size=8", "data.test_size=4", "benchmark.size=8", "benchmark.neutral_size=1")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the placeholders of the documents exist: JSON files, labels, images/, DIR, ADAPTER, …"""
    folder = tmp_path_factory.mktemp("place")
    (folder / "images").mkdir()
    for number in range(6):
        Image.new("RGB", (40, 30), (40 * number, 90, 10)).save(folder / "images" / f"{number}.png")
    for name in ("train", "test"):
        rows = [
            {
                "question": f"USER: <image>\nWhat is in {name} picture {number}? ASSISTANT:",
                "image": f"{number}.png",
                "chosen": "ASSISTANT: I am sorry, I cannot help with that.",
                "rejected": "ASSISTANT: Take it and begin.",
            }
            for number in range(6)
        ]
        (folder / f"{name}.json").write_text(json.dumps(rows))
    quick = ("model=random", *SMALL["train"], *ASKED, *MICROWORLD)
    for name, run in {"dpo": "DIR", "dpo-demo": "outputs/demo/dpo", "bpo-demo": "outputs/demo/bpo"}.items():
        objective = name.partition("-")[0]
        words = (f"name={objective}", f"objective={objective}", *quick, f"hydra.run.dir={run}")
        succeed("train", *words, cwd=folder)
    words = (*quick[1:], "model=llava_hf", "model.path=DIR", "objective=dpo", "peft=lora", "hydra.run.dir=lora")
    succeed("train", *words, cwd=folder)
    shutil.copytree(folder / "lora" / "adapter", folder / "ADAPTER")
    judged = [json.loads(line) for line in (folder / "DIR" / "judgements.jsonl").read_text().splitlines()]
    labels = [f"{row['id']},{number % 2}" for number, row in enumerate(judged)]
    harmeval(folder / "SPA-VL")
    mm_safetybench(folder / "MM-SafetyBench")
    (folder / "human.csv").write_text("\n".join(["id,unsafe", *labels]))
    return folder


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """What is served where the documents say that something is: it answers as a judge should."""
    with ChatServer(lambda request: Reply(verdict(refused=True))) as server:
        yield server.url


def made_small(name: str, words: list[str]) -> list[str]:
    """The command with the smallest amounts, and a random or the placeholder's model instead of one to download."""
    if name not in SMALL:
        return words
    chosen = dict(word.split("=", 1) for word in words if "=" in word and not word.startswith("-"))
    more = list(SMALL[name]) + (list(ASKED) if name not in ("blind", "inspect") else [])
    if chosen.get("data", chosen.get("benchmark", "microworld")) == "microworld":
        more += MICROWORLD if name != "blind" and "benchmark" not in chosen else MICROWORLD[:2]
    if chosen.get("model", "").startswith("llava"):
        more.append("model.path=DIR")
    elif "model" not in chosen:
        more.append("model=random")
    if chosen.get("strategy", "").startswith("deepspeed") and name == "train":
        more += ["plugins=[deepspeed_on_cpu]", "strategy._target_=deepspeed_on_cpu.OnCpu", "trainer.accelerator=cpu"]
    more += [f"{option}=2" for option in ("devices", "trainer.devices") if option in chosen]
    return [*words, *more]


def test_the_blocks_are_read():
    text = "```bash\n# only a comment\nmake demo   # five minutes\nmmsafe train \\\n  seed=1\n```\n```\nnot bash\n```\n"
    assert commands(text) == ["make demo", "mmsafe train seed=1"]
    assert set(commands(page("README.md"))) <= set(documented())


def test_the_two_commands_to_begin_with_are_there():
    assert commands(page("README.md"))[:2] == ["make demo", "make test"]


def cases() -> list[Any]:
    """Every command that is run; one that starts several processes takes half a minute."""
    several = re.compile(r"mmsafe\.(train -m|\w+ .*\bdevices=8)")
    run = [command for command, is_run in documented().items() if is_run]
    return [pytest.param(command, marks=[pytest.mark.slow] * bool(several.search(command))) for command in run]


@pytest.mark.parametrize("command", cases())
def test_documented_command_works(command: str, place: Path, endpoint: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent / "support"))  # of the processes that a command starts
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    words = shlex.split(command)
    if words[0] == "make":
        assert {word for word in words[1:] if "=" not in word} <= targets()
    elif words[0] in ("bash", "sh") or words[-1].endswith((".sh", ".py")):
        assert (ROOT / words[-1]).is_file()
    elif words[0] == "git":
        assert shutil.which("git") is None or words[1] in ("clone", "checkout")
    else:
        name, arguments = split(command)
        assert name in COMMANDS
        if name in ROOTS:
            check_here(place, name, arguments)
            arguments = [word.replace(SERVED, endpoint) for word in made_small(name, arguments)]
        if name != "demo":  # `make demo` is a stage of .ci/run, and takes minutes
            succeed(name, *arguments, cwd=place)


@pytest.mark.parametrize("command", [command for command, is_run in documented().items() if not is_run])
def test_documented_command_passes_its_own_check(command: str, tmp_path: Path):
    words = shlex.split(command)
    if words[0] == "make":
        assert {word for word in words[1:] if "=" not in word} <= targets()
    elif words[0] == "pip" or words[1:3] == ["-m", "pip"]:
        extras = tomllib.loads(page("pyproject.toml"))["project"]["optional-dependencies"]
        assert set(re.findall(r"\w+", "".join(re.findall(r"mmsafe\[(.*?)\]", command)))) <= set(extras)
    else:
        name, arguments = split(command)
        assert name in COMMANDS
        for option, _, value in (word.partition("=") for word in arguments):
            if option.endswith(("path", "image_dir", "categories", "checkpoint")):
                (tmp_path / value).mkdir(parents=True, exist_ok=True)
                # `data=auto` looks at rows, and `data=llamafactory` at the file of a split.
                row = {"prompt": "What is this?", "chosen": "A fox.", "rejected": "A cup."}
                (tmp_path / value / "rlhf_v.json").write_text(json.dumps([row]))
        if name in ROOTS:
            check_here(tmp_path, name, arguments)


def check_here(place: Path, name: str, arguments: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        check(name, ROOTS[name], arguments)


def test_the_table_of_commands_is_the_list_of_the_console_script():
    assert set(re.findall(r"^\| `python -m mmsafe\.(\w+)` \|", page("README.md"), flags=re.M)) == set(COMMANDS)


def test_options_that_are_named_in_the_text_exist(tmp_path: Path):
    """Words like `data.on_bad=skip` in the running text, outside of blocks."""
    prose = [*map(page, RUN[:3]), page("docs/evaluation.md").partition("## Stages")[0]]
    text = re.sub(r"^```.*?^```", "", "".join(prose), flags=re.M | re.S)
    named = set(re.findall(r"`([a-z_]+(?:\.[a-z_]+)*=[\w.-]*)`", text))
    assert named
    data = ["data=mmsafe_po", "data.path=train.json"]
    for name in ("train.json", "FILE", "DIR"):
        (tmp_path / name).touch()
    for word in sorted(named):
        key, _, value = word.partition("=")
        if value and not key.startswith("hydra"):
            own = data if key.startswith(("data.", "judge")) and value != "rules" else []
            name = "evaluate" if key in ("checkpoint", "against") else "train"
            check_here(tmp_path, name, [*own, word])
