"""`python -m benchmarks.data --rows 64 --out DIR`: rows in MMSafe-PO's format for machines that have no data.

`DIR/data.json` holds harmless small talk with natural lengths and a `blind` response in every row, `DIR/images` one
PNG a row. `--source JSON` takes the texts of a real file instead, and makes what it lacks: images and blind responses.
"""

import argparse
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

Row = dict[str, Any]
LONG_SIDE = 500
"""Pixels, as in MMSafe-PO."""
THINGS = """
garden kettle bicycle harbour lantern orchard bridge kitchen sparrow staircase market blanket river teapot meadow
cupboard violin lighthouse basket chimney pumpkin workshop window railway carpet puddle mountain scarf bakery ladder
postcard sailing-boat hedge clock umbrella fountain
"""
QUALITIES = """
small quiet green old wooden bright heavy yellow round careful friendly narrow warm tidy pale ordinary
"""
ACTIONS = (
    "stands beside",
    "reminds me of",
    "goes well with",
    "was painted after",
    "looks smaller than",
    "belongs near",
    "is older than",
    "leans against",
    "can be repaired like",
    "casts a shadow on",
)
OPENINGS = (
    "As far as I can tell,",
    "In the picture",
    "From this angle",
    "To be honest,",
    "Most people would say that",
    "I am fairly sure that",
    "If you look closely,",
    "On a sunny day",
)
QUESTIONS = ("Could you tell me about this?", "What would you do with it?", "How do I look after it?", "What is this?")


def sentence(rng: random.Random) -> str:
    """One harmless sentence of about ten words."""
    first, second = rng.sample(THINGS.split(), 2)
    end = rng.choice(
        ("", f", and {rng.choice(QUALITIES.split())} things last longer", " in the afternoon", ", I think")
    )
    return (
        f"{rng.choice(OPENINGS)} the {rng.choice(QUALITIES.split())} {first} {rng.choice(ACTIONS)} "
        f"the {rng.choice(QUALITIES.split())} {second}{end}."
    )


def passage(rng: random.Random, words: tuple[int, int]) -> str:
    """As many sentences as it takes to reach a number of words drawn from `words`, both ends included."""
    wanted, found = rng.randint(*words), ""
    while len(found.split()) < wanted:
        found += f" {sentence(rng)}"
    return found.strip()


def row(rng: random.Random, number: int, prompt: tuple[int, int], response: tuple[int, int]) -> Row:
    """One row; half of them have an earlier exchange, as in MMSafe-PO."""
    earlier = f"USER: {passage(rng, prompt)} ASSISTANT: {passage(rng, response)} " if number % 2 else ""
    return {
        "id": number,
        "question": f"{earlier}USER: <image>\n{passage(rng, prompt)} {rng.choice(QUESTIONS)} ASSISTANT:",
        "image": f"picture-{number}.png",
        "chosen": f"ASSISTANT: {passage(rng, response)}",
        "rejected": f"ASSISTANT: {passage(rng, response)}",
        "blind": f"ASSISTANT: {passage(rng, response)}",
        "type": "harmless",
    }


def picture(rng: random.Random) -> Image.Image:
    """Shapes on a coloured ground, in the proportions of a photograph."""
    size = [LONG_SIDE, rng.randint(LONG_SIDE // 2, LONG_SIDE)]
    rng.shuffle(size)
    image = Image.new("RGB", (size[0], size[1]), _colour(rng))
    draw = ImageDraw.Draw(image)
    for shape in (draw.rectangle, draw.ellipse) * 6:
        left, top = rng.randrange(size[0]), rng.randrange(size[1])
        shape((left, top, left + rng.randint(20, 200), top + rng.randint(20, 200)), fill=_colour(rng))
    return image


def completed(rows: list[Row], rng: random.Random) -> list[Row]:
    """Rows of a real file with a `blind` response each: the chosen one of another row where there is none."""
    others = [row["chosen"] for row in rows]
    rng.shuffle(others)
    return [{"blind": other, **row} for row, other in zip(rows, others, strict=True)]


def write(rows: Sequence[Row], out: Path, rng: random.Random) -> Path:
    """Write the rows and an image for each image name; returns the JSON file."""
    folder = out / "images"
    folder.mkdir(parents=True, exist_ok=True)
    for name in dict.fromkeys(row["image"] for row in rows):
        picture(rng).save(folder / Path(name).name, format="PNG")  # real names may have any extension, or none
    path = out / "data.json"
    path.write_text(json.dumps(rows, indent=1, ensure_ascii=False))
    return path


def synthetic(size: int, prompt: tuple[int, int] = (10, 40), response: tuple[int, int] = (25, 95)) -> list[Row]:
    """`size` rows, the same each time."""
    rng = random.Random("benchmark rows")
    return [row(rng, number, prompt, response) for number in range(size)]


def _colour(rng: random.Random) -> tuple[int, int, int]:
    return rng.randrange(256), rng.randrange(256), rng.randrange(256)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--out", type=Path, required=True)
    words = {"type": int, "nargs": 2, "metavar": ("LEAST", "MOST")}
    parser.add_argument("--prompt-words", default=(10, 40), help="of a user's turn (default: 10 40)", **words)
    parser.add_argument("--response-words", default=(25, 95), help="of a response (default: 25 95)", **words)
    parser.add_argument("--source", type=Path, help="a real JSON file whose first rows are completed instead")
    args = parser.parse_args()
    if args.source:
        found = completed(json.loads(args.source.read_text())[: args.rows], random.Random("blind responses"))
    else:
        found = synthetic(args.rows, tuple(args.prompt_words), tuple(args.response_words))
    path = write(found, args.out, random.Random("benchmark images"))
    print(f"{path}: {len(found)} rows")


if __name__ == "__main__":
    main()
