"""Stage 1: HH-RLHF into conversations."""

import json
from pathlib import Path

import pytest
from hh_rows import hh_row, write_hh

from mmsafe.core.errors import UserError
from mmsafe.curation.build.conversations import HHConversations
from mmsafe.curation.build.stage import Outcome, Site
from mmsafe.microworld.tiny import TinyModel

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
SAMPLE, HH = SHARED / "mmsafe_po_sample.json", SHARED / "hh_harmless_base_test.jsonl.gz"
real = pytest.mark.skipif(not HH.exists(), reason="needs the HH-RLHF and MMSafe-PO rows in ../shared/data")


def made(path: Path, **options: object) -> dict[str, Outcome]:
    stage = HHConversations(path=path, **options)  # type: ignore[arg-type]
    return dict(outcome for portion in stage.make({}, Site(path.parent, TinyModel())) for outcome in portion)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_a_pair_becomes_a_conversation_and_two_responses(name: str, tmp_path: Path):
    before = "\n\nHuman: Hello\n\nAssistant: Hi there."
    found = made(write_hh(tmp_path / name, [hh_row(" Where is Rome? ", before, " In Italy.\n", " Far.")]))
    assert found == {
        "1": Outcome(
            {
                "text_prompt": "USER: Hello ASSISTANT: Hi there. USER: Where is Rome? ASSISTANT:",
                "chosen": "In Italy.",
                "rejected": "Far.",
                "type": "harmless",
            }
        )
    }


BAD = {
    "two conversations": {**hh_row("a"), "rejected": hh_row("b")["rejected"]},
    "malformed chosen": {"chosen": "no speaker", "rejected": hh_row("a")["rejected"]},
    "malformed rejected": {**hh_row("a"), "rejected": "\n\nAssistant: first\n\nHuman: a"},
    "empty response": hh_row("a", rejected=" "),
    "missing field": {"chosen": hh_row("a")["chosen"]},
    "wrong type": {**hh_row("a"), "rejected": 3},
    "image placeholder in text": hh_row("what is <image>?"),
    "speaker label in text": hh_row("say USER: three times"),
    "not an object": [1],
}


@pytest.mark.parametrize("reason", BAD)
def test_a_row_that_is_no_pair_is_dropped_with_the_reason(reason: str, tmp_path: Path):
    rows = [BAD[reason], hh_row("a good one")]
    found = made(write_hh(tmp_path / "rows.jsonl", rows))  # type: ignore[arg-type]
    assert found["1"] == Outcome(None, reason)
    assert found["2"].row is not None


def test_limit_reads_the_first_rows(tmp_path: Path):
    assert list(made(write_hh(tmp_path / "rows.jsonl"), limit=3)) == ["1", "2", "3"]


def test_a_moved_file_is_the_same_and_a_changed_one_is_not(tmp_path: Path):
    site = Site(tmp_path, TinyModel())
    first, moved = write_hh(tmp_path / "a.jsonl"), write_hh(tmp_path / "b.jsonl.gz")
    changed = write_hh(tmp_path / "c.jsonl", [hh_row("another")])
    identities = [HHConversations(path=path).identity(site) for path in (first, moved, changed)]
    assert identities[0] == identities[1] != identities[2]


def test_a_damaged_file_is_named_with_its_line(tmp_path: Path):
    path = write_hh(tmp_path / "rows.jsonl")
    path.write_text(path.read_text() + '{"chosen" 1}\n')
    with pytest.raises(UserError, match=r"rows\.jsonl: .*line 14"):
        made(path)


def final(row: dict[str, str]) -> tuple[str, str]:
    """The two responses, white space normalised and without speaker."""
    chosen, rejected = (" ".join(row[name].removeprefix("ASSISTANT:").split()) for name in ("chosen", "rejected"))
    return chosen, rejected


@real
def test_81_of_the_90_real_rows_of_mmsafe_po_are_found_among_the_converted_rows():
    rows = [outcome.row for outcome in made(HH).values() if outcome.row]
    converted: dict[tuple[str, str], set[str]] = {}
    for row in rows:
        converted.setdefault(final(row), set()).add(row["text_prompt"])
    published = json.loads(SAMPLE.read_text())
    found = [row for row in published if final(row) in converted]
    assert (len(published), len(found)) == (90, 81)
    assert sum(row["text_prompt"] in converted[final(row)] for row in found) == 79  # two differ in a space or a turn


@real
def test_few_real_rows_are_dropped_and_each_for_a_reason():
    found = made(HH).values()
    reasons = sorted(str(outcome.reason) for outcome in found if outcome.row is None)
    assert len(found) == 2312
    assert reasons == ["empty response"] * 4 + ["malformed chosen"] * 8 + ["malformed rejected"]
