"""The console script `mmsafe`: one sub-command per question."""

from __future__ import annotations

import importlib
import sys

from mmsafe.core.config import suggestion
from mmsafe.core.endings import told
from mmsafe.core.errors import UserError

COMMANDS = {
    "build": "make a multimodal preference set from a text-only one",
    "inspect": "what is in a data set, and what is wrong with it",
    "prepare": "write any data set as one that datasets and TRL load, in a stream",
    "tag": "give the examples of a data set a category each",
    "train": "train a policy, making first what it needs, and evaluate it at the end",
    "blind": "generate the blind responses of a data set",
    "evaluate": "measure a checkpoint on a benchmark",
    "compare": "what changed between two evaluated runs, and whether it could be chance",
    "agreement": "how far judges agree with one another, or with people",
    "export": "write a checkpoint in Hugging Face's format or in LLaVA's original one",
    "demo": "the whole science in minutes, on the micro-world",
    "doctor": "what is installed, and whether a training run would fit",
    "report": "compare runs: a table, results.csv, and one HTML page with figures",
    "dashboard": "a workspace and a report in Weights & Biases, from code",
    "samples": "runs side by side, prompt by prompt: an HTML page, or logs for other tools",
}


def main() -> None:
    """Run `mmsafe COMMAND …` as `python -m mmsafe.COMMAND …`."""
    with told("mmsafe"):
        _run()


def _run() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in {"-h", "--help"}:
        print("usage: mmsafe COMMAND [overrides]\n")
        print("\n".join(f"  {command:11s}{about}" for command, about in COMMANDS.items()))
        return
    if name not in COMMANDS:
        raise UserError(f"no command '{name}'{suggestion(name, COMMANDS)}")
    sys.argv = [f"mmsafe {name}", *sys.argv[2:]]
    importlib.import_module(f"mmsafe.{name}").main()
