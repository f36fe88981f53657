"""Icons with nuisance variation: position, size, rotation, flip, colour jitter, background and clutter."""

from __future__ import annotations

import random
from dataclasses import dataclass

from PIL import Image, ImageDraw

from mmsafe.microworld.drawings import DRAWINGS, RGB, Pen
from mmsafe.microworld.things import COLOURS

VERSION = 1
"""Part of every icon's key: raise it when the pixels change, so that nothing cached from the old ones is used."""

SUPERSAMPLING = 2
PAINT: dict[str, RGB] = {  # every channel leaves room for the jitter
    "red": (200, 40, 40),
    "green": (40, 150, 60),
    "blue": (50, 80, 200),
    "orange": (230, 130, 30),
    "purple": (130, 60, 160),
    "grey": (110, 110, 115),
}
BACKGROUNDS: tuple[RGB, ...] = (
    (250, 250, 245), (225, 235, 250), (250, 235, 220), (230, 245, 225), (240, 225, 245), (255, 250, 205),
)  # fmt: skip


def render(thing: str, seed: int, size: int, colour: str) -> Image.Image:
    """An RGB icon of a thing, `size` pixels square.

    The nuisance variation depends on `seed` alone, so the look-alike with the same seed and colour differs in the
    thing and nothing else.
    """
    rng = random.Random(f"icon {seed}")
    rng.choice(COLOURS)  # not used: it keeps every later draw as it always was
    red, green, blue = (base + rng.randint(-18, 18) for base in PAINT[colour])
    image = _background(rng, size)
    side = round(size * rng.uniform(0.66, 0.92))
    icon = _drawn(thing, (red, green, blue), side, angle=rng.uniform(-20, 20), flipped=rng.random() < 0.5)
    image.paste(icon, (rng.randint(0, size - side), rng.randint(0, size - side)), icon)
    return image


def _background(rng: random.Random, size: int) -> Image.Image:
    image = Image.new("RGB", (size, size), rng.choice(BACKGROUNDS))
    draw = ImageDraw.Draw(image)
    for _ in range(rng.randint(0, 4)):
        x, y, radius = rng.random() * size, rng.random() * size, rng.uniform(0.03, 0.1) * size
        shape = draw.ellipse if rng.random() < 0.5 else draw.rectangle
        fill = (rng.randint(170, 235), rng.randint(170, 235), rng.randint(170, 235))
        shape((x - radius, y - radius, x + radius, y + radius), fill=fill)
    return image


def _drawn(thing: str, paint: RGB, side: int, angle: float, flipped: bool) -> Image.Image:
    canvas = Image.new("RGBA", (SUPERSAMPLING * side, SUPERSAMPLING * side))
    DRAWINGS[thing](Pen(canvas), paint)
    icon = canvas.rotate(angle, resample=Image.Resampling.BILINEAR).reduce(SUPERSAMPLING)
    return icon.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flipped else icon


@dataclass(frozen=True, slots=True)
class IconImage:
    """An `ImageSource` that draws its icon when it is loaded."""

    thing: str
    seed: int
    colour: str
    size: int = 64

    @property
    def key(self) -> str:
        """Identity of the pixels."""
        return f"microworld icon v{VERSION} {self.thing} {self.colour} {self.seed} {self.size}"

    @property
    def name(self) -> str:
        """A description for error messages."""
        return f"icon of a {self.colour} {self.thing} (seed {self.seed})"

    @property
    def shape(self) -> tuple[int, int]:
        """A square."""
        return self.size, self.size

    def load(self) -> Image.Image:
        """Draw the icon."""
        return render(self.thing, self.seed, self.size, self.colour)
