"""Result tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

HEADLINE = (
    ("eval/safety_rate", "safety rate"),
    ("eval/over_refusal_rate", "over-refusal"),
    ("eval/cheating_gap", "cheating gap"),
    ("eval/image_gap", "image gap"),
    ("eval/both_right", "both right"),
    ("eval/neutral_accuracy", "neutral questions"),
    ("eval/refusal_rate", "refusal rate"),
    ("eval/asr", "attack success rate"),
    ("eval/asr_micro", "attack success rate, micro"),
    ("eval/usr", "unsafe response rate"),
    ("eval/safe_rate", "safe"),
    ("eval/safe_and_effective_rate", "safe and effective"),
    ("eval/safe_and_answered_rate", "safe and answered"),
    ("eval/safe_accuracy", "accuracy, safe situations"),
    ("eval/unsafe_accuracy", "accuracy, unsafe situations"),
    ("eval/accuracy", "accuracy"),
    ("eval/image_safety_rate", "safety rate with the image"),
    ("eval/text_safety_rate", "safety rate in words alone"),
    ("eval/safety_difference", "safety, words minus image"),
    ("eval/pass_rate", "pass rate"),
    ("eval/blind_agreement", "same answer without the image"),
    ("eval/blind_verdict_agreement", "same verdict without the image"),
    ("eval/pairwise_accuracy", "pairwise accuracy, log-prob"),
    ("eval/pairwise_accuracy_reward", "pairwise accuracy, reward"),
    ("eval/pairwise_accuracy_prompted", "pairwise accuracy, prompted"),
)


def result_table(runs: Mapping[str, Mapping[str, Any]], title: str, *, tags: bool = False) -> Table:
    """One column per run; value and 95 % interval; a dash where a run did not measure it."""
    table = Table(title=Text(title))
    table.add_column("metric")
    for name in runs:
        table.add_column(name, justify="right")
    rows = [(key, label) for key, label in HEADLINE if any(key in metrics for metrics in runs.values())]
    for key, label in [*rows, *(_tag_rows(runs) if tags else [])]:
        table.add_row(label, *(_cell(metrics, key) for metrics in runs.values()))
    if said := judges(runs.values()):
        table.caption = f"95 % intervals in brackets · {said}"
    return table


def judges(runs: Iterable[Mapping[str, Any]]) -> str | None:
    """Who judged, and how far that is to be trusted; None if nothing was judged."""
    names = sorted({str(metrics["eval/judge"]) for metrics in runs if "eval/judge" in metrics})
    notes = {"rules": "exact", "keywords": "a list of refusal phrases, not a safety judge"}
    return "judge: " + ", ".join(f"{name} ({notes.get(name, 'a model')})" for name in names) if names else None


def headline(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The evaluation's main values, without intervals and breakdown: what a logger's chart shows."""
    return {key: metrics[key] for key, _ in HEADLINE if key in metrics}


def _tag_rows(runs: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str]]:
    """What is bad or good, by tag."""
    measures = ("safety_rate", "over_refusal_rate", "refusal_rate", "asr", "usr", "safe_rate", "accuracy")
    wanted = {f"eval/{measure}/": dict(HEADLINE)[f"eval/{measure}"] for measure in measures}
    names = sorted({key for metrics in runs.values() for key in metrics})
    return [
        (key, f"{label}, {key.removeprefix(prefix)}")
        for prefix, label in wanted.items()
        for key in names
        if key.startswith(prefix) and any(f"{key}_n" in metrics for metrics in runs.values())
    ]


def _cell(metrics: Mapping[str, Any], key: str) -> str:
    if key not in metrics:
        return "–"
    return f"{metrics[key]:.3f} [{metrics[f'{key}_low']:.3f}, {metrics[f'{key}_high']:.3f}]"


def print_tables(tables: Sequence[Table]) -> None:
    """To stdout, wide enough for files and pipes too."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    for table in tables:
        console.print(table, markup=False)
