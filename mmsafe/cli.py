"""The console script `mmsafe`: one sub-command per question."""

import importlib

from mmsafe.core.command_line import words_typed
from mmsafe.core.config import conf_dir, suggestion
from mmsafe.core.endings import clean_exit
from mmsafe.core.errors import UserError

COMMANDS = (
    *("build", "inspect", "prepare", "tag", "train", "blind", "evaluate", "compare", "agreement", "export"),
    *("demo", "doctor", "report", "dashboard", "samples", "chat"),
)


def main() -> None:
    """Run `mmsafe COMMAND …` as `python -m mmsafe.COMMAND …`."""
    with clean_exit("mmsafe"):
        name, *words = words_typed() or ["--help"]
        if name in {"-h", "--help"}:
            print("usage: mmsafe COMMAND [OPTION=VALUE …]; mmsafe COMMAND --help shows the options\n")
            print("\n".join(f"  {command:11s}{about(command)}" for command in COMMANDS))
            return
        if name not in COMMANDS:
            raise UserError(f"no command '{name}'{suggestion(name, COMMANDS)}")
        importlib.import_module(f"mmsafe.{name}").main(words)


def about(command: str) -> str:
    """What it answers: the first line of its config."""
    return (conf_dir() / f"{command}.yaml").read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
