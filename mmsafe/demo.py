"""`python -m mmsafe.demo [DIR]`: base, DPO and BPO on the micro-world, by the same commands a user types."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from mmsafe.core.endings import told

ARMS = {
    "base": ["mmsafe.evaluate"],
    "DPO": ["mmsafe.train", "objective=dpo"],
    "BPO": ["mmsafe.train", "objective=bpo"],
}


def command(arm: str, folder: Path) -> list[str]:
    """Module and overrides of one job."""
    name = arm.lower()
    return [*ARMS[arm], f"name={name}", f"hydra.run.dir={folder / name}"]


def main() -> None:
    """Run the three jobs, skipping what is finished, and print one table; ends with a job's status if it fails."""
    with told("mmsafe.demo"):
        _run()


def _run() -> None:
    from mmsafe.core.declared import declared_of, together
    from mmsafe.core.run_record import metrics_of
    from mmsafe.reporting.table import print_tables, result_table

    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "outputs/demo")
    found, declared = {}, []
    for arm in ARMS:
        words = command(arm, folder)
        print(f"\n$ python -m {' '.join(words)}", flush=True)
        status = subprocess.run([sys.executable, "-m", *words]).returncode
        if status:
            print(f"mmsafe.demo: {arm} ended with status {status}", file=sys.stderr)
            sys.exit(status)
        found[arm] = metrics_of(folder / arm.lower())
        declared.append(declared_of(folder / arm.lower(), found[arm]))
    title = "micro-world, one seed: see experiments/microworld for five"
    print_tables([result_table(found, title, together(declared))])


if __name__ == "__main__":
    main()
