"""Stage 6: what may not go into a set."""

from pathlib import Path
from typing import Any

import pytest

from mmsafe.curation.build.quality import QualityFilter
from mmsafe.curation.build.stage import Site
from mmsafe.microworld.tiny import TinyModel

GOOD = {
    "question": "USER: <image>\nWhere is this? ASSISTANT:",
    "image": "a.png",
    "chosen": "Here.",
    "rejected": "There.",
    "entity": "Rome",
}
BAD: dict[str, dict[str, Any]] = {
    "duplicate": {"question": "USER: <image>\nWhere  is this? ASSISTANT:", "chosen": "There.", "rejected": "Here."},
    "chosen is rejected": {"rejected": " Here. "},
    "missing image": {
        "image": "b.png",
    },
    "number of images": {"question": "USER: Where? ASSISTANT:"},
    "too long": {"chosen": "word " * 30},
    "entity named in the question": {"question": "USER: <image>\nIs this Rome? ASSISTANT:"},
}


@pytest.mark.parametrize("reason", BAD)
def test_a_bad_row_is_dropped_for_its_reason(reason: str, tmp_path: Path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").touch()
    rows = {"1": GOOD, "2": GOOD | BAD[reason], "3": GOOD | {"chosen": "Nowhere."}}
    (portion,) = QualityFilter(max_words=30).make(rows, Site(tmp_path, TinyModel()))
    assert [(key, outcome.reason) for key, outcome in portion] == [("1", None), ("2", reason), ("3", None)]
    assert [outcome.row is None for _, outcome in portion] == [False, True, False]


def test_a_named_entity_in_an_earlier_turn_or_by_choice_is_no_fault(tmp_path: Path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").touch()
    earlier = GOOD | {"question": "USER: Rome? ASSISTANT: Yes. USER: <image>\nWhere is this? ASSISTANT:"}
    ((_, outcome),) = next(QualityFilter().make({"1": earlier}, Site(tmp_path, TinyModel())))
    assert outcome.row == earlier
    named = GOOD | BAD["entity named in the question"]
    ((_, outcome),) = next(QualityFilter(entity_in_question=True).make({"1": named}, Site(tmp_path, TinyModel())))
    assert outcome.row == named
