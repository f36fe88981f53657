"""Stage 4: words that point at the image take the entity's place."""

import json
from pathlib import Path
from typing import Any

import pytest

from mmsafe.curation.build.stage import Outcome, Site
from mmsafe.curation.build.substitution import Substitution, substituted
from mmsafe.microworld.tiny import TinyModel

SAMPLE = Path(__file__).resolve().parents[3] / "shared" / "data" / "mmsafe_po_sample.json"
SITE = Site(Path("unused"), TinyModel())
ROME = {
    "entity": "Rome",
    "entity_type": "LOC",
    "text_prompt": "USER: Rome? ASSISTANT: Yes. USER: Is Rome ROME? ASSISTANT:",
}


def stage(**options: Any) -> Substitution:
    return Substitution(
        **{"nouns": {"LOC": ["place", "site"], "PER": ["person"]}, "phrases": ["shown", "here"], **options}
    )


def made(stage: Substitution, row: dict[str, Any], count: int = 1) -> list[Outcome]:
    rows = {str(number): row for number in range(count)}
    return [outcome for portion in stage.make(rows, SITE) for _, outcome in portion]


def test_the_image_stands_before_the_last_turn_and_the_entity_is_gone_from_it():
    (outcome,) = made(stage(nouns={"LOC": ["place"]}, phrases=["shown"]), ROME)
    assert outcome.row is not None
    assert outcome.row["replacement"] == "the place shown"
    assert outcome.row["mid_prompt"] == (
        "USER: Rome? ASSISTANT: Yes. USER: <image>\nIs the place shown the place shown? ASSISTANT:"
    )


def test_only_the_first_mention_is_replaced_if_that_is_asked_for():
    (outcome,) = made(stage(nouns={"LOC": ["place"]}, phrases=["shown"], occurrences="first"), ROME)
    assert outcome.row is not None
    assert outcome.row["mid_prompt"].endswith("<image>\nIs the place shown ROME? ASSISTANT:")


def test_other_words_are_left_alone():
    assert substituted("USER: Romeo, Rom or (Rom)? ASSISTANT:", "Rom", r"\1", first=False) == (
        "USER: <image>\nRomeo, \\1 or (\\1)? ASSISTANT:"
    )


def test_replacements_vary_fit_the_type_and_do_not_depend_on_other_rows():
    outcomes = made(stage(), ROME, 40)
    found = [outcome.row["replacement"] for outcome in outcomes if outcome.row]
    assert set(found) == {"the place shown", "the place here", "the site shown", "the site here"}
    assert [stage().replacement(str(number), "LOC") for number in range(40)] == found
    assert [stage(seed=1).replacement(str(number), "LOC") for number in range(40)] != found
    (other,) = made(stage(), ROME | {"entity_type": "DATE"})
    assert other == Outcome(None, "entity of a type without nouns")


def test_empty_lists_of_words_are_refused():
    with pytest.raises(ValueError, match="needs phrases, and nouns for every type"):
        stage(nouns={"LOC": []})


@pytest.mark.skipif(not SAMPLE.exists(), reason="needs the MMSafe-PO sample in ../shared/data")
def test_the_published_mid_prompts_come_out_wherever_the_entity_was_a_whole_word():
    rows = json.loads(SAMPLE.read_text())
    prompts = [substituted(row["text_prompt"], row["entity"], row["replacement"], first=True) for row in rows]
    assert sum(prompt == row["mid_prompt"] for prompt, row in zip(prompts, rows, strict=True)) == 84
