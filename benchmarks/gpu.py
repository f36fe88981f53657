"""`python -m benchmarks.gpu --all`: training steps of LLaVA-1.5-7B beside TRL's, at real lengths, on one card.

Random weights, made on the card; nothing is downloaded. Every case runs alone in a process and leaves `NAME.json` in
`--out`; one that is there is not run again, so a run that was stopped goes on where it was. A case that fails, or that
this version lacks, is a row with its reason. `--part K/N` runs every Nth group of cases and stops before nine minutes.
At the end, or without `--all` and `--part` at once: all results as `table.md` and `figure.svg`.
"""

import argparse
import json
import random
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import torch
from matplotlib.figure import Figure

from benchmarks import data
from benchmarks.gpu_cases import REAL, SHIPPED, TOY, TUNED, Case, Scale, cases
from benchmarks.models import write_parts
from benchmarks.sides import PAIRS
from mmsafe.core.errors import UserError
from mmsafe.core.files import write_atomically
from mmsafe.data.readers.mmsafe_po import MMSafePO
from mmsafe.reporting.figures import COLOURS, STYLE

CASE_SECONDS, ALL_MINUTES, PART_MINUTES = 240.0, 25.0, 8.75
PEAK = 989e12  # dense bf16 FLOP per second of an H100 or H200 (SXM), as NVIDIA states them
TOLERANCE = {True: (1e-5, 1e-3, 4), False: (0.05, 0.05, 1)}
"""Of losses, for a pair, and of gradient norms, relative, over how many steps: in fp32, and in bf16."""
COLUMNS = """| | s a step | questions/s | with reference pass | unique tokens/s | MFU | of matmul peak | GiB \
| × shipped | × tuned | same numbers |
|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|"""
Result = tuple[Case, Mapping[str, Any]]


def part_of(found: Sequence[Case], part: str) -> list[Case]:
    """The cases of part `K/N`; those of a group stay together, so that one card runs them one after the other."""
    if not (match := re.fullmatch(r"(\d+)/(\d+)", part)) or not 1 <= int(match[1]) <= int(match[2]):
        raise UserError(f"--part {part}: is not K/N with K from 1 to N, such as 1/4")
    wanted = list(dict.fromkeys(case.group for case in found))[int(match[1]) - 1 :: int(match[2])]
    return [case for case in found if case.group in wanted]


def prepare(scale: Scale, inputs: Path) -> None:
    """Write questions for each length of response, and a model folder without weights."""
    examples = []
    for tokens, words in scale.responses.items():
        rng, lengths = random.Random("benchmark rows"), ((scale.prompt,) * 2, (words,) * 2)
        rows = [data.row(rng, 2 * number, *lengths) for number in range(scale.steps * scale.questions)]
        path = data.write(rows, inputs / str(tokens), random.Random("benchmark images"))
        examples += MMSafePO(path=path, check_images="header").test().examples
    write_parts(scale.model, examples, inputs / "model")


def run(wanted: Sequence[Case], out: Path, words: Sequence[str], minutes: float, *, together: bool = False) -> None:
    """Run the cases without a result, in a process each or `together`; no process lives longer than `minutes` allow."""
    end = time.monotonic() + 60 * minutes
    while left := [case for case in wanted if not case.file(out).exists()]:
        seconds = max(0.0, end - time.monotonic())
        started = left if together else left[:1]
        print(f"{len(left)} of {len(wanted)} left: {', '.join(case.name for case in started)}", flush=True)
        limit, log = seconds if together else min(seconds, CASE_SECONDS), out / f"{left[0].name}.log"
        why = child([*words, "--case", *(case.name for case in started)], log, limit)
        if why is None and seconds < CASE_SECONDS:  # less than it may take, which says nothing about it
            print(f"{len(left)} of {len(wanted)} cases are left; the same command runs them")
            break
        if failed := [case for case in started if not case.file(out).exists()]:
            failed[0].save(out, {"failed": why or f"takes more than {limit:.0f} s"})


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


def rate(case: Case, found: Mapping[str, Any]) -> float:
    """Questions per second of the steady steps; before the last one no next batch is prepared."""
    return case.scale.questions / statistics.median(found["seconds"][case.scale.warm_up : -1])


def agreement(case: Case, found: Mapping[str, Any], other: Case, anchor: Mapping[str, Any]) -> tuple[bool, str]:
    """Whether losses and gradient norms are the anchor's, and how far apart they are."""
    most, relative, steps = TOLERANCE[case.exact and other.exact]
    loss = max(abs(a - b) for a, b in zip(found["loss"][:steps], anchor["loss"][:steps], strict=True))
    norm = max(abs(a / b - 1) for a, b in zip(found["grad_norm"][:steps], anchor["grad_norm"][:steps], strict=True))
    agree = loss <= most * len(PAIRS[case.objective]) and norm <= relative  # NaN does not
    return agree, f"{'yes' if agree else '**no**'}: {loss:.0e}, {norm:.0e}"


def report(results: Sequence[Result], out: Path) -> str:
    """The table in Markdown; it and the figure are written into `out`."""
    lines: list[str] = []
    good = [(case, found) for case, found in results if "seconds" in found]
    for group in dict.fromkeys(case.group for case, _ in results):
        of_group = [row for row in good if row[0].group == group]
        about = "P {prompt_tokens:.0f}, R {response_tokens:.0f}, {device}, {date}"
        conditions = "; ".join(sorted({about.format(**found) for _, found in of_group}))
        lines += ["", f"**{' '.join(map(str, group))}** ({conditions})", "", COLUMNS]
        lines += [_line(*row, of_group) for row in results if row[0].group == group]
    table = "\n".join([*lines, ""])
    write_atomically(out / "table.md", table)
    _draw(good, out / "figure.svg")
    return table


def _line(case: Case, found: Mapping[str, Any], group: Sequence[Result]) -> str:
    if "seconds" not in found:
        return f"| {case.way} | " + "; ".join(f"{kind}: {why}" for kind, why in found.items()) + " |" * 10
    now, questions = rate(case, found), case.scale.questions * case.scale.steps
    useful, once = now * found["flops"], questions / (questions / now + found["reference_seconds"])
    times, said = {SHIPPED: "–", TUNED: "–"}, "–"
    for other, theirs in reversed(group):
        if other.is_trl and theirs["device"] == found["device"]:
            agree, said = agreement(case, found, other, theirs)
            if agree:  # what computes something else may be as fast as it likes
                times[other.way] = f"{now / rate(other, theirs):.1f}"
    return (
        f"| {case.way} | {1 / now * case.scale.questions:.3f} | {now:.2f} | {once:.2f} "
        f"| {now * found['unique_tokens']:,.0f} | {useful / PEAK:.1%} | {useful / found['matmul_peak']:.1%} "
        f"| {found['peak_gib']:.1f} | {times[SHIPPED]} | {times[TUNED]} | {said} |"
    )


def _draw(good: Sequence[Result], path: Path) -> None:
    """Questions a second of every case that was measured."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7, 0.8 + 0.24 * len(good)), layout="constrained")
        axes = figure.subplots()
        names, colours = [case.name for case, _ in good], [COLOURS[case.is_trl] for case, _ in good]
        axes.bar_label(axes.barh(names, [rate(*row) for row in good], color=colours), fmt="%.2f", padding=3)
        axes.set_xlabel("questions/s")
        axes.invert_yaxis()
        figure.savefig(path)


def command(words: Sequence[str]) -> None:
    """The command; raises `UserError`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help=f"run all cases, for {ALL_MINUTES:.0f} minutes at most")
    parser.add_argument("--part", metavar="K/N", help="run part K of N, within nine minutes")
    parser.add_argument("--resume", action=argparse.BooleanOptionalAction, default=True, help="keep results there are")
    parser.add_argument("--toy", action="store_true", help="toy sizes, on a CPU")
    parser.add_argument("--out", type=Path, help="folder of the results (default: bench-gpu, bench-gpu-toy)")
    parser.add_argument("--case", nargs="+", default=[], help=argparse.SUPPRESS)
    args = parser.parse_args(words)
    scale, out = (TOY if args.toy else REAL), args.out or Path("bench-gpu-toy" if args.toy else "bench-gpu")
    found, inputs = cases(scale), out.absolute() / "inputs"
    for case in [case for case in found if case.name in args.case]:
        from benchmarks.gpu_measure import config_of, measure

        try:
            config = config_of(case, inputs)
        except UserError as error:
            case.save(out, {"skipped": str(error)})
        else:
            case.save(out, measure(case, inputs, config))
    if args.case:
        return
    if args.all or args.part:
        if not args.toy and not torch.cuda.is_available():
            raise UserError("this machine has no GPU; --toy shows on a CPU that everything runs")
        wanted = part_of(found, args.part) if args.part else found
        for case in [] if args.resume else wanted:
            case.file(out).unlink(missing_ok=True)
        if not (inputs / "model" / "config.json").exists():
            prepare(scale, inputs)
        minutes = PART_MINUTES if args.part else ALL_MINUTES
        run(wanted, out, ["--out", str(out), *["--toy"] * args.toy], minutes, together=args.toy)
    results = [(case, json.loads(case.file(out).read_text())) for case in found if case.file(out).exists()]
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
