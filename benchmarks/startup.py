"""`python -m benchmarks.startup`: CPU-seconds and wall of `--help` and of a one-step run that finds all in the cache.

Medians of several runs, in turn for each checkout: `--against ../before` measures another one beside this. The first
round, which writes bytecode and fills the cache, is not counted.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from mmsafe.reporting.table import print_tables, table_of

TINY = ("model=random", "data.size=16", "data.batch_size=4", "data.num_workers=0")
STEP = [*TINY, "trainer.max_steps=1", "evaluate=false"]
CASES = {"--help": ["--help"], "one step, cached": STEP}


def measured(words: list[str], checkout: Path, folder: Path) -> tuple[float, float]:
    """CPU-seconds and wall of `python -m mmsafe.train`, as the code in `checkout` has it."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MMSAFE_CACHE": str(folder / "cache")}
    environment["PYTHONPATH"] = str(checkout)
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    begin, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "mmsafe.train", *words]
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--against", type=Path, action="append", default=[], help="other checkouts")
    args = parser.parse_args()
    here = Path(__file__).resolve().parents[1]
    checkouts = [*(path.resolve() for path in args.against), here]
    found: dict[tuple[str, Path], list[tuple[float, float]]] = {
        (name, path): [] for name in CASES for path in checkouts
    }
    with tempfile.TemporaryDirectory() as temporary:
        for round_ in range(args.rounds + 1):
            for (name, path), rows in found.items():
                words = [] if name == "--help" else [f"hydra.run.dir={round_}-{checkouts.index(path)}"]
                rows.append(measured([*CASES[name], *words], path, Path(temporary)))
    table = [
        [name, str(path), *(f"{statistics.median(row[kind] for row in rows[1:]):.2f}" for kind in (0, 1))]
        for (name, path), rows in found.items()
    ]
    title = f"medians of {args.rounds}"
    print_tables([table_of(title, ("python -m mmsafe.train", "checkout", "CPU-s", "wall, s"), table, left=2)])


if __name__ == "__main__":
    main()
