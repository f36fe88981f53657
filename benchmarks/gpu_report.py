"""The table and the figure of `benchmarks.gpu`."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu_cases import SHIPPED, TUNED, Case
from mmsafe.core.files import write_atomically

PEAK = 989e12
"""Dense bf16 FLOP per second of an H100 or H200 (SXM), as NVIDIA states them."""
TOLERANCE = {True: (1e-5, 1e-3), False: (0.05, 0.05)}
"""Of losses, for a pair, and of gradient norms, relative: exact in fp32; in bf16, for the first step."""
COLUMNS = (
    "seconds a step",
    "questions/s",
    "with the reference pass",
    "unique tokens/s",
    "MFU",
    "of matmul peak",
    "GiB",
    "× shipped",
    "× tuned",
    "same numbers",
)
Results = Sequence[tuple[Case, Mapping[str, Any]]]


def figures(case: Case, found: Mapping[str, Any]) -> dict[str, float]:
    """Rates of the steady steps; MFU counts each token once. `epoch` has our one-off reference pass in it."""
    step = statistics.median(found["seconds"][case.scale.warm_up : -1])
    rate = case.scale.questions / step
    questions = case.scale.questions * case.scale.steps
    return {
        "step": step,
        "rate": rate,
        "epoch": questions / (questions / rate + found["reference_seconds"]),
        "tokens": rate * found["unique_tokens"],
        "mfu": rate * found["flops"] / PEAK,
        "share": rate * found["flops"] / found["matmul_peak"],
    }


def agreement(case: Case, found: Mapping[str, Any], other: Case, anchor: Mapping[str, Any]) -> tuple[bool, str]:
    """Whether losses and gradient norms are the anchor's, and how far apart they are."""
    exact = case.exact and other.exact
    steps = 4 if exact else 1
    pairs = zip(found["loss"][:steps], anchor["loss"][:steps], strict=True)
    loss = max(abs(a - b) for a, b in pairs)
    norms = zip(found["grad_norm"][:steps], anchor["grad_norm"][:steps], strict=True)
    norm = max(abs(a / b - 1) for a, b in norms)
    most, relative = TOLERANCE[exact]
    agree = loss <= most * (2 if case.objective == "bpo" else 1) and norm <= relative  # NaN does not
    return agree, f"{'yes' if agree else '**no**'}: {loss:.0e}, {norm:.0e}"


def report(results: Results, out: Path) -> str:
    """The table in Markdown; it and the figure are written into `out`."""
    groups: dict[Any, dict[str, tuple[Case, Mapping[str, Any]]]] = defaultdict(dict)
    for case, found in results:
        groups[case.group][case.way] = case, found
    lines = []
    for (objective, train, response), ways in groups.items():
        good = {way: row for way, row in ways.items() if "seconds" in row[1]}
        about = {
            f"P {found['prompt_tokens']:.0f}, R {found['response_tokens']:.0f}, {found['device']}, {found['date']}"
            for _, found in good.values()
        }
        lines += [f"**{objective.upper()}, {train}, R ≈ {response}** ({'; '.join(sorted(about)) or 'not run'})", ""]
        lines += ["| | " + " | ".join(COLUMNS) + " |", "|---" + "|--:" * len(COLUMNS) + "|"]
        for way, (case, found) in ways.items():
            lines.append(f"| {way} | " + " | ".join(_cells(case, found, good)) + " |")
        lines.append("")
    write_atomically(out / "table.md", "\n".join(lines))
    _draw(groups, out / "figure.svg")
    return "\n".join(lines)


def _cells(case: Case, found: Mapping[str, Any], good: Mapping[str, tuple[Case, Mapping[str, Any]]]) -> list[str]:
    if "seconds" not in found:
        return ["; ".join(f"{kind}: {why}" for kind, why in found.items()), *[""] * (len(COLUMNS) - 1)]
    now = figures(case, found)
    same_card = [row for way, row in good.items() if way in (SHIPPED, TUNED) and row[1]["device"] == found["device"]]
    said, times = "–", {}
    for other in same_card:
        agree, apart = agreement(case, found, *other)
        said = apart if said == "–" and other[0] is not case else said
        if agree:  # a step that computes something else may be as fast as it likes
            times[other[0].way] = f"{now['rate'] / figures(*other)['rate']:.1f}"
    return [
        f"{now['step']:.3f}",
        f"{now['rate']:.2f}",
        f"{now['epoch']:.2f}",
        f"{now['tokens']:,.0f}",
        f"{now['mfu']:.1%}",
        f"{now['share']:.1%}",
        f"{found['peak_gib']:.1f}",
        *(times.get(way, "–") for way in (SHIPPED, TUNED)),
        said,
    ]


def _draw(groups: Mapping[Any, Mapping[str, tuple[Case, Mapping[str, Any]]]], path: Path) -> None:
    """Questions a second by way, a panel for each group that was measured in every way."""
    import matplotlib
    from matplotlib.figure import Figure

    from mmsafe.reporting.figures import COLOURS, STYLE

    shown = {group: ways for group, ways in groups.items() if group[2] == next(iter(ways.values()))[0].scale.middle}
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.4 * len(shown), 2.6), layout="constrained")
        for axes, ((objective, train, _), ways) in zip(
            figure.subplots(1, len(shown), squeeze=False)[0], shown.items(), strict=True
        ):
            rates = {way: figures(*row)["rate"] if "seconds" in row[1] else 0.0 for way, row in ways.items()}
            colours = [COLOURS[way in (SHIPPED, TUNED)] for way in rates]
            bars = axes.barh(list(rates), list(rates.values()), color=colours)
            axes.bar_label(bars, [f"{rate:.2f}" if rate else "not measured" for rate in rates.values()], padding=3)
            axes.set(title=f"{objective.upper()}, {train}", xlabel="questions/s")
            axes.margins(x=0.25)
            axes.invert_yaxis()
        figure.savefig(path)
