"""Figures of a report: one panel each, so that a page can arrange them for any screen."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mmsafe.core.files import write_atomically

INK = "#1a1c20"
"""Of text and axes; the page puts its own colour in its place."""
COLOURS = ("#3b7dd8", "#d0561f", "#2f9457", "#a95bc0", "#a67c0a", "#d1457c", "#178f9e", "#7d7d7d")
"""At least 3:1 against white and against the page's dark ground (WCAG 1.4.11)."""
DASHES = ("-", "--", ":", "-.")
STYLE: dict[Any, Any] = {
    "font.size": 9.0,
    "font.family": "sans-serif",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "grid.color": "#888888",
    "legend.frameon": False,
    "legend.fontsize": 8.0,
    "svg.fonttype": "none",
    "svg.hashsalt": "mmsafe",
    "figure.dpi": 100,
}
WIDTH, HEIGHT = 4.4, 2.9
"""Inches of the panel, legend not counted."""
LEGEND_LINE = 0.19


@dataclass(frozen=True)
class Chart:
    """A drawn panel."""

    name: str
    """Of its files."""
    title: str
    caption: str
    figure: Figure
    note: str = ""
    """Below the figure, in small print."""

    def write(self, folder: Path) -> None:
        """PNG and SVG on white."""
        for kind in ("png", "svg"):
            write_atomically(folder / f"{self.name}.{kind}", self._bytes(kind))

    def inline(self) -> Markup:
        """The SVG as part of an HTML page: its ink is the page's, its ids are its own, and it takes any width."""
        text = self._bytes("svg", transparent=True).decode("utf-8")
        text = text[text.index("<svg") :].replace(INK, "currentColor")
        text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
        text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{self.name}-", text)
        return Markup(re.sub(r' (?:width|height)="[\d.]+pt"', "", text, count=2))

    def _bytes(self, kind: str, transparent: bool = False) -> bytes:
        file = BytesIO()
        metadata = {"Date": None} if kind == "svg" else {"Software": None}
        with matplotlib.rc_context(STYLE):
            self.figure.savefig(file, format=kind, dpi=200, transparent=transparent, metadata=metadata)
        return file.getvalue()


class Curve(NamedTuple):
    """Points of one run or group, in the order of x."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    style: int = 0
    """Which colour and dash."""
    arms: Sequence[Sequence[Sequence[float]]] = ()
    """Error bars of shape `[2, 1]`, where it has any."""
    faint: bool = False
    """One seed of several: thin, and not in the legend."""


class Line(NamedTuple):
    """A number to compare with."""

    label: str
    value: float


def curves(
    name: str,
    title: str,
    drawn: Sequence[Curve],
    *,
    x: str,
    caption: str = "",
    log_x: bool = False,
    lines: Sequence[Line] = (),
) -> Chart:
    """Curves over `x`; with error bars where they have intervals, and horizontal reference lines."""

    def draw(axes: Axes) -> None:
        for curve in drawn:
            colour, dash = look(curve.style)
            if curve.arms:
                style: dict[str, Any] = {"fmt": f"o{dash}", "ms": 4, "capsize": 3, "color": colour}
                axes.errorbar(curve.x, curve.y, np.hstack(curve.arms), label=curve.label, **style)
                continue
            marker = "o" if len(curve.x) == 1 else ""
            width, alpha, label = (0.8, 0.35, None) if curve.faint else (1.5, 1.0, curve.label)
            axes.plot(curve.x, curve.y, dash, marker=marker, ms=4, lw=width, alpha=alpha, color=colour, label=label)
        references(axes.axhline, lines)
        axes.set_xlabel(x)
        if log_x:
            axes.set_xscale("log")
            ticks = sorted({value for curve in drawn for value in curve.x})
            axes.set_xticks(ticks, [f"{value:g}" for value in ticks])
            axes.set_xticks([], minor=True)

    return chart(name, title, caption, draw)


def chart(name: str, title: str, caption: str, draw: Callable[[Axes], object], height: float = HEIGHT) -> Chart:
    """A panel that `draw` fills, with a legend of what it labelled below."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        axes = figure.add_subplot()
        draw(axes)
        handles, labels = axes.get_legend_handles_labels()
        if labels:
            figure.set_figheight(height + LEGEND_LINE * len(labels))
            figure.legend(handles, [_short(label) for label in labels], loc="outside lower left")
    return Chart(name, title, caption, figure)


def look(style: int) -> tuple[str, str]:
    """Colour and dash of the curve with this number."""
    return COLOURS[style % len(COLOURS)], DASHES[style // len(COLOURS) % len(DASHES)]


def references(draw: Callable[..., object], lines: Sequence[Line]) -> None:
    """Thin lines in ink, dashed unlike the curves and each other."""
    for number, line in enumerate(lines):
        dash = (0, (1 + 4 * number, 2))
        draw(line.value, color=INK, lw=1, ls=dash, alpha=0.8, label=f"{line.label}: {line.value:g}")


def _short(label: str, longest: int = 60) -> str:
    return label if len(label) <= longest else label[: longest - 1] + "…"
