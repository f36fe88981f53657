"""What `benchmarks.step` prints, and whether the two sides agree."""

import json
import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks.sides import Step

LOSS_TOLERANCE = 1e-5
"""Absolute, for a pair."""
NORM_TOLERANCE = 1e-3
"""Relative."""
COMPARED = 4
"""Steps; later, rounding that grew through the optimiser would be compared."""


def parity(ours: Sequence[Step], theirs: Sequence[Step], pairs: int) -> dict[str, Any]:
    """Largest differences over the first steps, and whether they are small; a question has `pairs` pairs."""
    both = list(zip(ours, theirs, strict=True))[:COMPARED]
    loss = max(abs(a.loss - b.loss) for a, b in both)
    norm = max(abs(a.grad_norm / b.grad_norm - 1) for a, b in both)
    agree = loss <= LOSS_TOLERANCE * pairs and norm <= NORM_TOLERANCE  # NaN does not
    return {"steps": len(both), "loss_difference": loss, "grad_norm_relative": norm, "agree": agree}


def summary(found: dict[str, Any]) -> dict[str, dict[str, float]]:
    """What the table shows, by key: ours, TRL's, and how many times better ours is."""
    ours, theirs = found["ours"], found["trl"]
    rows = {key: _row(ours[key], theirs[key]) for key in ("cpu", "collate_cpu", "compute_cpu", "wall")}
    if found["plan"]["reference"] == "cached":
        once = found["reference_pass"]["cpu"]
        rows["cpu_with_reference_pass"] = _row([step + once for step in ours["cpu"]], theirs["cpu"])
    wall, questions = rows["wall"], found["plan"]["batch_size"]
    for key, many in (("questions", questions), ("tokens", questions * found["tokens_per_question"])):
        rows[key] = {"ours": many / wall["ours"], "trl": many / wall["trl"], "ratio": wall["ratio"]}
    for key in ("peak", "above_imports") if found["memory_mib"] else ():
        sides = {side: found["memory_mib"][side][key] for side in ("ours", "trl")}
        rows[key] = {**sides, "ratio": sides["trl"] / sides["ours"]}
    return rows


def _row(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """The ratio is a median over the steps too: they differ in length, the two sides of a step do not."""
    ratios = [b / a for a, b in zip(_steady(ours), _steady(theirs), strict=True)]
    sides = {"ours": _steady(ours), "trl": _steady(theirs), "ratio": ratios}
    return {name: statistics.median(values) for name, values in sides.items()}


def _steady(values: Sequence[float]) -> Sequence[float]:
    """Without the first step, which sets things up, and the last, for which the next batch is not prepared."""
    return values[1:-1] or values


def print_report(found: dict[str, Any], *, as_json: bool) -> None:
    """Print the numbers as one line of JSON; unless `as_json`, two tables before it."""
    found["summary"] = summary(found)
    if not as_json:
        _print_tables(found)
    print(json.dumps(found))


LABELS = {
    "cpu": "CPU-s per step",
    "collate_cpu": "  batch: images, tokens",
    "compute_cpu": "  all else",
    "cpu_with_reference_pass": "CPU-s per step with its reference pass",
    "wall": "seconds per step",
    "questions": "questions/s",
    "tokens": "tokens/s",
    "peak": "peak MiB",
    "above_imports": "peak MiB above imports",
}


def _print_tables(found: dict[str, Any]) -> None:
    from mmsafe.reporting.table import print_tables, table_of

    plan, agreed = found["plan"], found["parity"]
    title = f"{plan['objective']}, {plan['batch_size']} questions a step, {found['threads']} thread(s), fp32"
    caption = "medians, first and last step dropped; ratio: TRL / ours, of time step by step"
    ours = f"ours ({plan['scoring']}, reference {plan['reference']})"
    trl = f"TRL {found['versions']['trl']} ({plan['trl_head']} head)"
    rows = []
    for key, label in LABELS.items():
        if row := found["summary"].get(key):
            sides = (f"{row[side]:,.3f}" if row[side] < 100 else f"{row[side]:,.0f}" for side in ("ours", "trl"))
            rows.append([label, *sides, f"{row['ratio']:.2f}"])
    verdict = "they agree" if agreed["agree"] else "THEY DISAGREE"
    same = (
        f"same numbers? {verdict}: loss {agreed['loss_difference']:.1e}, "
        f"gradient norm {agreed['grad_norm_relative']:.1e} relative, {found['identical_sequences']} sequences identical"
    )
    columns = [found[side][key] for key in ("loss", "grad_norm") for side in ("ours", "trl")]
    steps = [
        [str(number), *(f"{value:.6f}" for value in values)]
        for number, values in enumerate(zip(*columns, strict=True), start=1)
    ]
    compared = table_of(same, ("step", "loss, ours", "TRL", "gradient norm, ours", "TRL"), steps, left=0)
    print_tables([table_of(title, ("", ours, trl, "ratio"), rows, caption), compared])
