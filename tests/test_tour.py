"""docs/tour.md says what is so: its files are as long as it says, and its session gives the numbers that it shows."""

import doctest
import re
from pathlib import Path

TOUR = Path(__file__).resolve().parent.parent / "docs" / "tour.md"
SPINE = 1700
"""Lines that are to be read to know the main job."""


def test_the_spine_is_as_long_as_the_tour_says():
    page = TOUR.read_text(encoding="utf-8")
    rows = re.findall(r"^\| \d+ \| \[\S+\]\((\S+)\) (\\\*)? ?\| (\d+) \|", page, flags=re.M)
    lines = {name: len((TOUR.parent / name).read_text(encoding="utf-8").splitlines()) for name, *_ in rows}
    assert {name: lines[name] for name, _, said in rows if abs(lines[name] - int(said)) > 10} == {}
    assert f"{sum(int(said) for _, star, said in rows if not star):,} lines together" in page
    assert sum(lines[name] for name, star, _ in rows if not star) <= SPINE


def test_the_walk_of_a_batch_gives_the_numbers_of_the_tour():
    assert doctest.testfile(str(TOUR), module_relative=False).failed == 0
