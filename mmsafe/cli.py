"""The console script `mmsafe`: one sub-command per question."""

from __future__ import annotations

import importlib
import sys

from mmsafe.config import suggestion

COMMANDS = {
    "train": "train a policy, making first what it needs, and evaluate it at the end",
    "blind": "generate the blind responses of a data set",
    "evaluate": "measure a checkpoint on a benchmark",
    "export": "write a checkpoint in Hugging Face's format or in LLaVA's original one",
    "demo": "the whole science in minutes, on the micro-world",
    "doctor": "what is installed, and whether a training run would fit",
    "report": "compare finished runs: results.csv and a table",
}


def main() -> None:
    """Run `mmsafe COMMAND …` as `python -m mmsafe.COMMAND …`."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in {"-h", "--help"}:
        print("usage: mmsafe COMMAND [overrides]\n")
        print("\n".join(f"  {command:10s}{about}" for command, about in COMMANDS.items()))
        return
    if name not in COMMANDS:
        print(f"mmsafe: no command '{name}'{suggestion(name, COMMANDS)}", file=sys.stderr)
        sys.exit(2)
    sys.argv = [f"mmsafe {name}", *sys.argv[2:]]
    importlib.import_module(f"mmsafe.{name}").main()
