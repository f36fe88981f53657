"""`mmsafe.demo`: base, DPO and BPO on the micro-world, by the same commands a user types."""

import subprocess
import sys
from pathlib import Path
from typing import ClassVar

from mmsafe.core.command_line import as_text
from mmsafe.core.declared import declared_of, together
from mmsafe.core.endings import show_results
from mmsafe.core.options import OutputPath, options
from mmsafe.core.run_record import metrics_of
from mmsafe.core.terminal import VERBOSITY
from mmsafe.runs.run_context import RunContext

ARMS = {
    "base": ["mmsafe.evaluate"],
    "DPO": ["mmsafe.train", "objective=dpo"],
    "BPO": ["mmsafe.train", "objective=bpo"],
}


@options
class DemoConfig:
    """`conf/demo.yaml`, typed."""

    out: OutputPath
    runs_here: ClassVar[bool] = False
    old_spelling: ClassVar[dict[str, str]] = {"": "out={}"}


def command(arm: str, folder: Path) -> list[str]:
    """Module and overrides of one job."""
    name = arm.lower()
    return [*ARMS[arm], f"name={name}", f"hydra.run.dir={as_text(folder / name)}"]


def run_demo(config: DemoConfig, run: RunContext) -> None:
    """Run the three jobs, skipping what is finished, and print one table; ends with a job's status if it fails."""
    from mmsafe.reporting.table import print_tables, result_table

    metrics, declared = {}, []
    for arm in ARMS:
        words = [*command(arm, config.out), *(word for word in run.overrides if word.startswith(f"{VERBOSITY}="))]
        print(f"\n$ python -m {' '.join(words)}", flush=True)
        status = subprocess.run([sys.executable, "-m", *words]).returncode
        if status:
            print(f"mmsafe.demo: {arm} ended with status {status}", file=sys.stderr)
            sys.exit(status)
        metrics[arm] = metrics_of(config.out / arm.lower())
        declared.append(declared_of(config.out / arm.lower(), metrics[arm]))
    title = "micro-world, one seed: see experiments/blindness for ten"
    print_tables([result_table(metrics, title, together(declared))])
    show_results(config.out, "python -m mmsafe.report runs={} against=dpo")
