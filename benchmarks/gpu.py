"""`python -m benchmarks.gpu --all`: training steps of LLaVA-1.5-7B beside TRL's, at real lengths, on one card.

Random weights, made on the card; nothing is downloaded. Every case runs alone in a process and leaves `NAME.json` in
`--out`; one that is there is not run again, so a run that was stopped goes on where it was. A case that fails, or that
this version lacks, is a row with its reason. `--part K/N` runs every Nth group of cases and stops before nine minutes.
Without `--all` or `--part`, and after either: the table of all results, and a figure, in `--out` too. `--toy` runs all
on a CPU at toy sizes.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu_cases import REAL, TOY, Case, Scale, cases
from mmsafe.core.errors import UserError
from mmsafe.core.files import write_atomically

CASE_SECONDS = 240.0
ALL_MINUTES, PART_MINUTES = 25.0, 8.75


def part_of(found: Sequence[Case], part: str) -> list[Case]:
    """The cases of part `K/N`; the cases of a group stay together, so that one card runs them one after the other."""
    if not (match := re.fullmatch(r"(\d+)/(\d+)", part)) or not 1 <= int(match[1]) <= int(match[2]):
        raise UserError(f"--part {part}: is not K/N with K from 1 to N, such as 1/4")
    groups = list(dict.fromkeys(case.group for case in found))
    wanted = groups[int(match[1]) - 1 :: int(match[2])]
    return [case for case in found if case.group in wanted]


def prepare(scale: Scale, inputs: Path) -> None:
    """Write questions for each length of response, and a model folder without weights."""
    from benchmarks import data
    from benchmarks.models import write_all_but_weights
    from mmsafe.data.readers.mmsafe_po import MMSafePO

    examples = []
    for tokens, words in scale.responses.items():
        rng, lengths = random.Random("benchmark rows"), ((scale.prompt,) * 2, (words,) * 2)
        rows = [data.row(rng, 2 * number, *lengths) for number in range(scale.steps * scale.questions)]
        path = data.write(rows, inputs / str(tokens), random.Random("benchmark images"))
        examples += MMSafePO(path=path, check_images="header").test().examples
    write_all_but_weights(scale.model, examples, inputs / "model")


def run(wanted: Sequence[Case], out: Path, words: Sequence[str], minutes: float, *, together: bool = False) -> None:
    """Run the cases without a result, in a process each or `together`; no case is started after so many minutes."""
    end = time.monotonic() + 60 * minutes
    left = [case for case in wanted if not result(out, case).exists()]
    while left and (seconds := end - time.monotonic()) > 0:
        started = left if together else left[:1]
        limit = seconds if together else min(seconds, CASE_SECONDS)
        print(f"{len(left)} of {len(wanted)} left: {', '.join(case.name for case in started)}", flush=True)
        why = child([*words, "--case", *(case.name for case in started)], out / "log.txt", limit)
        left = [case for case in left if not result(out, case).exists()]
        if why is None and seconds < CASE_SECONDS:
            break  # it had less time than it may take, so that says nothing about it
        if left and left[0] in started:
            save(out, left.pop(0), {"failed": why or f"takes more than {limit:.0f} s"})
    if left:
        print(f"{len(left)} of {len(wanted)} cases are left; the same command runs them")


def child(words: Sequence[str], log: Path, seconds: float) -> str | None:
    """Run this command in a process; returns what it said last of an error, None if it took too long."""
    with log.open("w") as file:
        try:
            command = [sys.executable, "-m", "benchmarks.gpu", *words]
            status = subprocess.run(command, timeout=seconds, stdout=file, stderr=file, check=False).returncode
        except subprocess.TimeoutExpired:
            return None
    lines = log.read_text(errors="replace").strip().splitlines()
    return f"status {status}: " + next((line for line in reversed(lines) if "Error" in line), *lines[-1:] or [""])[:200]


def result(out: Path, case: Case) -> Path:
    return out / f"{case.name}.json"


def save(out: Path, case: Case, found: dict[str, Any]) -> None:
    write_atomically(result(out, case), json.dumps(found, indent=1))


def measured(case: Case, inputs: Path) -> dict[str, Any]:
    from benchmarks.gpu_measure import measure

    try:
        return measure(case, inputs)
    except UserError as error:
        return {"skipped": str(error)}


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--all", action="store_true", help=f"run all cases, for {ALL_MINUTES:.0f} minutes at most")
    found.add_argument("--part", metavar="K/N", help="run part K of N, within nine minutes")
    found.add_argument("--resume", action=argparse.BooleanOptionalAction, default=True, help="keep results there are")
    found.add_argument("--toy", action="store_true", help="toy sizes, on a CPU")
    found.add_argument("--out", type=Path, help="folder of the results (default: bench-gpu, bench-gpu-toy)")
    found.add_argument("--case", nargs="+", help=argparse.SUPPRESS)
    return found


def command(words: Sequence[str]) -> None:
    """The command; raises `UserError`."""
    args = parser().parse_args(words)
    scale, out = (TOY if args.toy else REAL), args.out or Path("bench-gpu-toy" if args.toy else "bench-gpu")
    found, inputs = cases(scale), out.absolute() / "inputs"
    if args.case:
        for case in found:
            if case.name in args.case:
                save(out, case, measured(case, inputs))
        return
    if args.all or args.part:
        import torch

        if not args.toy and not torch.cuda.is_available():
            raise UserError("this machine has no GPU; --toy shows on a CPU that everything runs")
        wanted = part_of(found, args.part) if args.part else found
        if not args.resume:
            for case in wanted:
                result(out, case).unlink(missing_ok=True)
        if not (inputs / "model" / "config.json").exists():
            prepare(scale, inputs)
        same = ["--out", str(out), *["--toy"] * args.toy]
        run(wanted, out, same, PART_MINUTES if args.part else ALL_MINUTES, together=args.toy)
    from benchmarks.gpu_report import report

    results = [(case, json.loads(result(out, case).read_text())) for case in found if result(out, case).exists()]
    if not results:
        raise UserError(f"--out {out}: has no results; run `python -m benchmarks.gpu --all`")
    print(report(results, out))


def main() -> None:
    try:
        command(sys.argv[1:])
    except UserError as error:
        print(f"benchmarks.gpu: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
