"""`python -m benchmarks.prepare --rows 1000000 --out DIR`: time and peak memory of `mmsafe.prepare` on many rows.

Rows are preference pairs in words or, with `--images N`, beside one of N small pictures, which are referenced. The
measured process is the command itself, as a user starts it.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.data import QUESTIONS, sentence

POOL = 1000
"""Different sentences."""


def write(path: Path, rows: int, images: int) -> None:
    """JSONL, written row by row."""
    rng = random.Random("benchmark rows")
    pool = [sentence(rng) for _ in range(POOL)]
    for number in range(images):
        (path.parent / "images").mkdir(parents=True, exist_ok=True)
        colour = (number % 256, number // 256 % 256, 0)
        Image.new("RGB", (32, 32), colour).save(path.parent / f"images/{number}.png")
    with path.open("w", encoding="utf-8") as file:
        for number in range(rows):
            answers = (" ".join(rng.choices(pool, k=4)) for _ in range(2))
            shown = {"images": [f"{number % images}.png"]} if images else {}
            prompt = f"{rng.choice(pool)} {rng.choice(QUESTIONS)} ({number})"
            file.write(
                json.dumps({"prompt": prompt, "chosen": next(answers), "rejected": next(answers), **shown}) + "\n"
            )


def measured(path: Path, out: Path, options: list[str]) -> dict[str, Any]:
    """Run the command; seconds, CPU-seconds and peak MiB of its process."""
    words = ["data=trl", f"data.path={path}", f"out={out}", f"hydra.run.dir={out.parent}/run", *options]
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-m", "mmsafe.prepare", *words], check=True)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "options": options,
        "seconds": round(time.perf_counter() - begin, 1),
        "cpu": round(used.ru_utime + used.ru_stime, 1),
        "peak_mib": used.ru_maxrss // 1024,
        "source_mib": path.stat().st_size >> 20,
        "prepared_mib": sum(file.stat().st_size for file in out.rglob("*") if file.is_file()) >> 20,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--images", type=int, default=0, help="different pictures (default: none)")
    parser.add_argument("--out", type=Path, required=True, help="an empty folder")
    parser.add_argument("options", nargs="*", help="of mmsafe.prepare, such as format=arrow")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "data.jsonl"
    write(path, args.rows, args.images)
    options = [*(["images=referenced"] if args.images else []), *args.options]
    print(json.dumps({"rows": args.rows, **measured(path, args.out / "prepared", options)}))


if __name__ == "__main__":
    main()
