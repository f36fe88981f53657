"""What is in a data set, drawn: lengths, turns, sizes of images, and how many rows have each tag."""

import re
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from mmsafe.core.settings import Lengths
from mmsafe.curation.inspection.row_statistics import looks_in, token_columns
from mmsafe.curation.inspection.row_tables import Statistics, tag_counts
from mmsafe.curation.inspection.rows import MEASURES, Inspected
from mmsafe.reporting.figures import LEGEND_LINE, Chart, Line, chart, look, references

BINS, BARS, LONGEST = 40, 15, 28
NO_NAME = re.compile(r"[^A-Za-z0-9_-]")
"""What a file should not be called by."""


def charts(inspected: Inspected, numbers: Statistics, rule: Lengths) -> list[Chart]:
    """A panel for each length, and one for each tag that has several values."""
    columns = {split: token_columns(rows) for split, rows in inspected.rows.items()}
    drawn = []
    for name, meaning in MEASURES.items():
        values = {split: by_name.get(name, []) for split, by_name in columns.items()}
        limits = [Line("limit", rule.max_length)] if name == "sequence" and rule.max_length is not None else []
        drawn.append(_histogram(f"tokens-{name}", f"tokens: {name}", values, "tokens", meaning, limits))
    for position, (split, by_name) in enumerate(columns.items()):
        responses = {name: values for name, values in by_name.items() if name not in MEASURES}
        drawn.append(_histogram(f"tokens-responses-{position}", f"tokens: responses of {split}", responses, "tokens"))
    sides = {
        split: [max(image.width, image.height) for image in looks_in(rows, inspected.looks)]
        for split, rows in inspected.rows.items()
    }
    drawn.append(_histogram("image-size", "images: longer side", sides, "pixels"))
    lengths = sorted({n for part in numbers.values() for n in part["turns"]})
    turns = {str(n): [part["turns"].get(n, 0) for part in numbers.values()] for n in lengths}
    drawn.append(_bars("turns", "turns of a conversation", turns, list(numbers)))
    for tag in dict.fromkeys(tag for part in numbers.values() for tag in part["tags"]):
        drawn.append(_bars(f"tag-{NO_NAME.sub('-', tag)}", tag, tag_counts(numbers, tag), list(numbers)))
    return [panel for panel in drawn if panel is not None]


def _histogram(
    name: str, title: str, values: Mapping[str, Sequence[int]], x: str, caption: str = "", limits: Sequence[Line] = ()
) -> Chart | None:
    """The share of each curve's values by size; None where there is nothing to draw."""
    drawn = {label: curve for label, curve in values.items() if curve}
    if not drawn:
        return None
    low, high = min(map(min, drawn.values())), max(map(max, drawn.values()))
    width = -(-(high - low + 1) // BINS)  # whole numbers to each bin
    edges = np.arange(low, high + width + 1, width)

    def draw(axes: Axes) -> None:
        for position, (label, curve) in enumerate(drawn.items()):
            colour, dash = look(position)
            heights = np.histogram(curve, edges)[0] / len(curve)
            axes.stairs(heights, edges, color=colour, ls=dash, lw=1.4, label=_plain(label))
        references(axes.axvline, limits)
        axes.set_xlabel(x)
        axes.set_ylabel("share of rows")

    return chart(name, title, caption, draw)


def _bars(name: str, title: str, counts: Mapping[str, Sequence[int]], splits: Sequence[str]) -> Chart | None:
    """A bar for each of the first `BARS` values and each split; None where all rows have one value."""
    if len(counts) < 2:
        return None
    shown = list(counts.items())[:BARS]
    height = 0.8 / len(splits)

    def draw(axes: Axes) -> None:
        for position, split in enumerate(splits):
            total = sum(by_split[position] for by_split in counts.values()) or 1
            places = [row + position * height for row in range(len(shown))]
            shares = [by_split[position] / total for _, by_split in shown]
            axes.barh(places, shares, height, color=look(position)[0], label=_plain(split))
        axes.set_yticks([row + 0.4 - height / 2 for row in range(len(shown))], [_plain(value) for value, _ in shown])
        axes.invert_yaxis()
        axes.set_xlabel("share of rows")

    caption = f"the {BARS} most frequent of {len(counts)} values" if len(counts) > BARS else ""
    return chart(name, title, caption, draw, height=1.1 + LEGEND_LINE * 1.6 * len(shown))


def _plain(label: str) -> str:
    """A label in which dollar signs are no formula, short enough for an axis."""
    return (label if len(label) <= LONGEST else label[: LONGEST - 1] + "…").replace("$", r"\$")
