"""One small drawing per thing, on the unit square; the two of a pair share their layout and differ in a detail."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from PIL import Image, ImageDraw

RGB = tuple[int, int, int]
Point = tuple[float, float]

DARK = (35, 35, 40)
GREEN = (40, 130, 50)
PALE = (250, 250, 250)
PINK = (240, 150, 170)
SCARLET = (230, 20, 20)
STEEL = (190, 195, 205)
WOOD = (240, 215, 170)
YELLOW = (255, 215, 60)


class Pen:
    """Draws outlined shapes on a square image; coordinates and widths are shares of its side."""

    def __init__(self, image: Image.Image) -> None:
        self._draw = ImageDraw.Draw(image)
        self._side = image.width
        self._hairline = max(1, round(image.width / 64))

    def _scaled(self, points: Sequence[Point]) -> list[Point]:
        return [(x * self._side, y * self._side) for x, y in points]

    def polygon(self, *points: Point, fill: RGB) -> None:
        """A filled polygon with a dark outline."""
        corners = self._scaled(points)
        self._draw.polygon(corners, fill=fill)
        # Pillow's own wide outline copies the whole canvas; a closed line is several times faster.
        self._draw.line([*corners, corners[0]], fill=DARK, width=self._hairline)

    def box(self, left: float, top: float, right: float, bottom: float, fill: RGB, radius: float = 0) -> None:
        """A filled rectangle, optionally with round corners, with a dark outline."""
        corners = self._scaled([(left, top), (right, bottom)])
        self._draw.rounded_rectangle(corners, radius * self._side, fill=fill, outline=DARK, width=self._hairline)

    def oval(self, x: float, y: float, radius: float, fill: RGB, height: float | None = None) -> None:
        """A filled ellipse around (x, y) with a dark outline; a circle unless `height`, half its height, is given."""
        tall = radius if height is None else height
        corners = self._scaled([(x - radius, y - tall), (x + radius, y + tall)])
        self._draw.ellipse(corners, fill=fill, outline=DARK, width=self._hairline)

    def line(self, *points: Point, fill: RGB = DARK, width: float = 0.05) -> None:
        """An open line."""
        self._draw.line(self._scaled(points), fill=fill, width=max(1, round(width * self._side)), joint="curve")

    def arc(self, x: float, y: float, radius: float, start: float, end: float, fill: RGB = DARK) -> None:
        """A circular arc from `start` to `end` degrees, clockwise from three o'clock."""
        corners = self._scaled([(x - radius, y - radius), (x + radius, y + radius)])
        self._draw.arc(corners, start, end, fill=fill, width=max(1, round(0.05 * self._side)))


def knife(pen: Pen, paint: RGB) -> None:
    """A pointed blade on a handle."""
    pen.polygon((0.42, 0.05), (0.55, 0.16), (0.62, 0.34), (0.62, 0.58), (0.42, 0.58), fill=STEEL)
    pen.box(0.42, 0.58, 0.60, 0.95, fill=paint)


def spoon(pen: Pen, paint: RGB) -> None:
    """A round bowl on a handle."""
    pen.line((0.51, 0.42), (0.51, 0.60), fill=STEEL, width=0.08)
    pen.oval(0.51, 0.25, 0.18, height=0.21, fill=STEEL)
    pen.box(0.45, 0.56, 0.57, 0.95, fill=paint)


def gun(pen: Pen, paint: RGB) -> None:
    """A pistol: a long straight barrel with a sight, trigger guard and grip."""
    pen.arc(0.42, 0.50, 0.12, 0, 180)
    pen.polygon((0.12, 0.44), (0.36, 0.44), (0.30, 0.86), (0.08, 0.86), fill=paint)
    pen.box(0.08, 0.26, 0.94, 0.45, fill=paint)
    pen.box(0.84, 0.20, 0.90, 0.27, fill=DARK)


def dryer(pen: Pen, paint: RGB) -> None:
    """A hair dryer: the round housing and flared nozzle on a grip with a cord."""
    pen.polygon((0.18, 0.50), (0.38, 0.50), (0.34, 0.86), (0.16, 0.86), fill=DARK)
    pen.line((0.25, 0.86), (0.32, 0.95), (0.46, 0.92), width=0.04)
    pen.polygon((0.44, 0.28), (0.94, 0.20), (0.94, 0.54), (0.44, 0.46), fill=paint)
    pen.oval(0.29, 0.37, 0.25, fill=paint)
    pen.oval(0.28, 0.37, 0.13, fill=PALE)


def bomb(pen: Pen, paint: RGB) -> None:
    """A ball with a burning fuse."""
    pen.oval(0.47, 0.60, 0.33, fill=paint)
    pen.line((0.62, 0.34), (0.70, 0.20), (0.82, 0.18), width=0.09)
    spark = [(0.84 + r * math.cos(a), 0.17 + r * math.sin(a)) for r, a in _star(0.14, 0.06)]
    pen.polygon(*spark, fill=YELLOW)


def ball(pen: Pen, paint: RGB) -> None:
    """A ball with two white seams."""
    pen.oval(0.47, 0.60, 0.33, fill=paint)
    pen.arc(0.06, 0.60, 0.33, -48, 48, fill=PALE)
    pen.arc(0.88, 0.60, 0.33, 132, 228, fill=PALE)


def poison(pen: Pen, paint: RGB) -> None:
    """A bottle with a skull on it."""
    _bottle(pen, paint)
    pen.box(0.42, 0.66, 0.58, 0.86, fill=PALE)
    pen.oval(0.50, 0.61, 0.18, fill=PALE)
    pen.oval(0.43, 0.61, 0.055, fill=DARK)
    pen.oval(0.57, 0.61, 0.055, fill=DARK)
    pen.line((0.50, 0.78), (0.50, 0.86), width=0.03)


def juice(pen: Pen, paint: RGB) -> None:
    """A bottle with a fruit on it and a straw."""
    pen.line((0.52, 0.16), (0.60, 0.03), (0.72, 0.03), fill=PINK, width=0.07)
    _bottle(pen, paint)
    pen.oval(0.50, 0.66, 0.18, fill=YELLOW)
    pen.line((0.50, 0.50), (0.60, 0.42), fill=GREEN, width=0.07)


def pill(pen: Pen, paint: RGB) -> None:
    """A capsule, one half painted."""
    pen.box(0.08, 0.34, 0.92, 0.66, radius=0.16, fill=PALE)
    pen.box(0.08, 0.34, 0.52, 0.66, radius=0.16, fill=paint)
    pen.line((0.30, 0.50), (0.52, 0.50), fill=paint, width=0.28)  # squares off the inner end
    pen.line((0.52, 0.35), (0.52, 0.65), width=0.03)
    pen.line((0.22, 0.44), (0.44, 0.44), fill=PALE, width=0.03)


def candy(pen: Pen, paint: RGB) -> None:
    """A sweet in a wrapper with twisted ends and a stripe."""
    pen.polygon((0.30, 0.50), (0.06, 0.32), (0.12, 0.50), (0.06, 0.68), fill=paint)
    pen.polygon((0.70, 0.50), (0.94, 0.32), (0.88, 0.50), (0.94, 0.68), fill=paint)
    pen.box(0.25, 0.34, 0.75, 0.66, radius=0.16, fill=paint)
    pen.line((0.44, 0.36), (0.40, 0.64), fill=PALE, width=0.07)
    pen.line((0.60, 0.36), (0.56, 0.64), fill=PALE, width=0.07)


def syringe(pen: Pen, paint: RGB) -> None:
    """A barrel with a plunger and a thin needle."""
    pen.line((0.50, 0.66), (0.50, 0.97), width=0.04)
    pen.line((0.50, 0.22), (0.50, 0.07), width=0.06)
    pen.line((0.35, 0.07), (0.65, 0.07), width=0.07)
    pen.box(0.40, 0.22, 0.60, 0.68, fill=paint)
    pen.line((0.31, 0.23), (0.69, 0.23), width=0.06)
    for y in (0.36, 0.46, 0.56):
        pen.line((0.50, y), (0.60, y), fill=PALE, width=0.03)


def pencil(pen: Pen, paint: RGB) -> None:
    """A shaft with a rubber and a sharpened tip."""
    pen.polygon((0.40, 0.70), (0.60, 0.70), (0.50, 0.97), fill=WOOD)
    pen.polygon((0.465, 0.875), (0.535, 0.875), (0.50, 0.97), fill=DARK)
    pen.box(0.40, 0.18, 0.60, 0.71, fill=paint)
    pen.box(0.40, 0.05, 0.60, 0.19, fill=PINK)


def fire(pen: Pen, paint: RGB) -> None:
    """A flame with a bright heart, over logs."""
    pen.line((0.18, 0.92), (0.82, 0.80), fill=(120, 75, 40), width=0.09)
    pen.line((0.18, 0.80), (0.82, 0.92), fill=(120, 75, 40), width=0.09)
    pen.polygon(
        (0.52, 0.04), (0.66, 0.30), (0.74, 0.22), (0.82, 0.56), (0.70, 0.82), (0.30, 0.82), (0.18, 0.56), (0.28, 0.30),
        (0.38, 0.40), fill=paint,
    )  # fmt: skip
    pen.polygon((0.50, 0.42), (0.63, 0.64), (0.57, 0.81), (0.43, 0.81), (0.37, 0.64), fill=YELLOW)


def flower(pen: Pen, paint: RGB) -> None:
    """A round blossom with a bright heart, on a stem with leaves."""
    pen.line((0.50, 0.50), (0.50, 0.96), fill=GREEN, width=0.08)
    pen.line((0.50, 0.88), (0.70, 0.72), fill=GREEN, width=0.09)
    pen.line((0.50, 0.92), (0.30, 0.78), fill=GREEN, width=0.09)
    for petal in range(6):
        angle = petal * math.pi / 3
        pen.oval(0.50 + 0.20 * math.cos(angle), 0.36 + 0.20 * math.sin(angle), 0.14, fill=paint)
    pen.oval(0.50, 0.36, 0.12, fill=YELLOW)


def snake(pen: Pen, paint: RGB) -> None:
    """A wave with a head, eyes and a forked tongue."""
    wave = _wave()
    pen.line(*wave, width=0.19)
    pen.line(*wave, fill=paint, width=0.14)
    x, y = wave[-1]
    pen.line((x, y - 0.10), (x, y - 0.22), fill=SCARLET, width=0.06)
    pen.line((x - 0.07, y - 0.29), (x, y - 0.21), (x + 0.07, y - 0.29), fill=SCARLET, width=0.06)
    pen.oval(x, y, 0.14, height=0.17, fill=paint)
    pen.oval(x - 0.05, y - 0.03, 0.06, fill=PALE)
    pen.oval(x + 0.06, y - 0.03, 0.06, fill=PALE)


def rope(pen: Pen, paint: RGB) -> None:
    """A wave with twist marks and bound, frayed ends."""
    wave = _wave()
    pen.line(*wave, width=0.19)
    pen.line(*wave, fill=paint, width=0.14)
    for x, y in wave[3:-2:3]:
        pen.line((x - 0.05, y - 0.06), (x + 0.05, y + 0.06), fill=PALE, width=0.05)
    for x, y in (wave[0], wave[-1]):
        pen.box(x - 0.11, y - 0.06, x + 0.11, y + 0.05, fill=WOOD)
        for fray in (-0.07, 0.0, 0.07):
            pen.line((x + fray, y - 0.05), (x + 1.3 * fray, y - 0.15), width=0.03)


def _bottle(pen: Pen, paint: RGB) -> None:
    pen.box(0.42, 0.08, 0.58, 0.28, fill=STEEL)
    pen.polygon((0.42, 0.27), (0.58, 0.27), (0.78, 0.45), (0.78, 0.94), (0.22, 0.94), (0.22, 0.45), fill=paint)


def _star(outer: float, inner: float, points: int = 6) -> list[tuple[float, float]]:
    """Polar coordinates of a star's corners."""
    return [(inner if corner % 2 else outer, corner * math.pi / points) for corner in range(2 * points)]


def _wave(steps: int = 20) -> list[Point]:
    """One and a half periods of a wave, from bottom left to top right."""
    return [(0.16 + 0.68 * t / steps, 0.52 + 0.20 * math.cos(3 * math.pi * t / steps)) for t in range(steps + 1)]


_ALL = (
    knife, gun, bomb, poison, pill, syringe, fire, snake,
    spoon, dryer, ball, juice, candy, pencil, flower, rope,
)  # fmt: skip
DRAWINGS: dict[str, Callable[[Pen, RGB], None]] = {drawing.__name__: drawing for drawing in _ALL}
"""How to draw each thing in a given paint."""
