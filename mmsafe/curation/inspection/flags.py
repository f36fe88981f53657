"""What can be wrong with a row: repetitions, leakage between splits, bad images, too many tokens."""

from collections.abc import Mapping, Sequence

from mmsafe.data.data_source import PAIR, BadRow
from mmsafe.data.example import Example, digest

MEANING = {
    "bad_row": "cannot be used, and is dropped",
    "missing_image": "there is no such image",
    "damaged_image": "the image cannot be decoded",
    "equal_responses": "chosen and rejected are the same",
    "repeated_instruction_exact": "an earlier row has the instruction, letter by letter",
    "repeated_instruction": "an earlier row has the instruction",
    "repeated_instruction_and_image": "an earlier row has the instruction beside the same image",
    "repeated_responses": "an earlier row has the responses, letter by letter",
    "repeated_row": "an earlier row has conversation, image and responses",
    "leaked_instruction": "another split has the instruction",
    "leaked_conversation": "another split has the conversation",
    "leaked_image": "another split has the image, byte by byte",
    "leaked_look": "another split has an image that looks alike",
    "over_length": "has more tokens than lengths.max_length",
    "equal_when_clipped": "chosen and rejected are the same tokens within lengths.max_length, and are left out",
}
"""An instruction is the last turn of the user. White space and case make no difference, unless it says so."""
OF_REASON: dict[str, str] = {
    "missing image": "missing_image",
    "damaged image": "damaged_image",
    "no preference": "equal_responses",
}
"""For reasons to drop a row that are told apart here."""
REPEATED = ("instruction_exact", "instruction", "instruction_and_image", "responses", "row")
LEAKED = ("instruction", "conversation", "image")
"""Which of `keys_of_row` have a flag."""
Flags = dict[str, str]
"""What is wrong with a row: each flag with the row or the reason that it is about."""
Keys = Sequence[tuple[str, str]]
FirstRows = dict[tuple[str, str], str]
"""Of a split: the first row that has each key of each kind, as `keys_of_row` tells them."""


def keys_of_row(example: Example, images: Sequence[str]) -> list[tuple[str, str]]:
    """Hashes by which rows are compared, each with what it is of; `images` are the keys of the row's images."""
    instruction = example.turns[-1].text
    conversation = [[turn.role, normalised(turn.text)] for turn in example.turns]
    responses = [example.responses.get(name) for name in sorted(PAIR)]
    compared: dict[str, object] = {}
    if any(turn.text.strip() for turn in example.turns):  # beside an image there may be no words
        compared["conversation"] = conversation
    if instruction.strip():
        compared |= {"instruction_exact": instruction, "instruction": normalised(instruction)}
        if images:
            compared["instruction_and_image"] = [normalised(instruction), images]
    if any(responses):
        answers = [None if text is None else normalised(text) for text in responses]
        compared |= {"responses": responses, "row": [conversation, images, answers]}
    return [*((name, digest(value)) for name, value in compared.items()), *(("image", key) for key in images)]


def equal_responses(example: Example) -> Flags:
    """Whether there is nothing to prefer, but for white space and case."""
    pair = [normalised(example.responses[name]) for name in PAIR if name in example.responses]
    return {"equal_responses": "chosen and rejected"} if len(pair) == 2 and pair[0] == pair[1] else {}


def repeated(keys: Keys, name: str, first: FirstRows) -> Flags:
    """The first row of the split that had each key; notes the row `name` in `first`, where it is the first itself."""
    rows = {kind: first.setdefault((kind, key), name) for kind, key in keys}
    return {f"repeated_{kind}": rows[kind] for kind in REPEATED if rows.get(kind, name) != name}


def leaked(keys: Keys, others: Mapping[str, FirstRows]) -> Flags:
    """The first row of another split that has each key."""
    flags: Flags = {}
    for kind, key in keys:
        for split, first in others.items():
            if kind in LEAKED and (kind, key) in first:
                flags.setdefault(f"leaked_{kind}", f"{split}: {first[kind, key]}")
    return flags


def of_bad_row(row: BadRow) -> Flags:
    """That it is one, and what is told apart of that."""
    return {flag: row.reason for flag in ("bad_row", OF_REASON.get(row.reason)) if flag}


def normalised(text: str) -> str:
    """Text in which white space and case make no difference."""
    return " ".join(text.split()).casefold()
