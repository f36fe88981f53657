"""Conversations as they stand in data sets, and the turns that they are."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from mmsafe.data.categories import LONGEST_TAG
from mmsafe.data.column_source import IMAGE, MEANING, TEMPLATES, UNREAD, plain_name
from mmsafe.data.example import Turn
from mmsafe.data.records import checked_text, kind
from mmsafe.data.row_error import RowError
from mmsafe.data.splits import listed

PLACEHOLDER = "<image>"
SPEAKER = re.compile(r"(?:^|(?<=\s))(USER|ASSISTANT):")
ROLES = ("user", "assistant")


def parse_question(question: str, images: int = 1) -> tuple[Turn, ...]:
    """Split `"USER: … ASSISTANT: … USER: <image>\\n… ASSISTANT:"` into turns; the last speaker label may be absent."""
    refuse_number(question.count(PLACEHOLDER), images, "question")
    return parse_conversation(question, "question")


def parse_conversation(text: str, field: str) -> tuple[Turn, ...]:
    """Split `"USER: … ASSISTANT: … USER: … ASSISTANT:"` into turns; `field` is what to call it in a message."""
    before, *parts = SPEAKER.split(text.strip())
    spoken = [(role.lower(), words) for role, words in zip(parts[::2], parts[1::2], strict=True)]
    if before or not spoken:
        raise malformed(field, "does not begin with a speaker, 'USER:'")
    if len(spoken) > 1 and spoken[-1][0] == "assistant" and not spoken[-1][1].strip():
        del spoken[-1]
    return as_turns(spoken, field)


def format_conversation(turns: Iterable[Turn]) -> str:
    """`"USER: … ASSISTANT: … USER: … ASSISTANT:"`, which `parse_conversation` splits into these turns again."""
    return " ".join([*(f"{turn.role.upper()}: {written(turn)}" for turn in turns), "ASSISTANT:"])


def written(turn: Turn) -> str:
    """The text with a placeholder for each image; those at its start are on lines of their own."""
    first = turn.images.count(0)
    rest = replace(turn, images=turn.images[first:])
    return f"{PLACEHOLDER}\n" * first + "".join(PLACEHOLDER if piece is None else piece for piece in rest.pieces())


def refuse_template(text: object, field: str) -> None:
    """Raise `RowError` for a whole conversation where one turn, or an answer, is expected."""
    for data, form in TEMPLATES.items():
        if isinstance(text, str) and form.match(text):
            raise RowError("a whole conversation", f"'{field}' is a conversation in one text, which data={data} reads")


def as_turns(spoken: Sequence[tuple[str, str]], field: str) -> tuple[Turn, ...]:
    """Turns of (role, text), the system's first if it is there.

    The others alternate and end with the user, none is empty, and images are the user's.
    """
    if spoken and spoken[0][0] == "system":
        if PLACEHOLDER in spoken[0][1] or not spoken[0][1].strip():
            raise malformed(field, f"has a system message that is empty or holds {PLACEHOLDER}")
        return (Turn("system", spoken[0][1].strip()), *as_turns(spoken[1:], field))
    if not spoken or any(role != ROLES[index % 2] for index, (role, _) in enumerate(spoken)):
        raise malformed(field, "does not alternate between user and assistant, beginning with the user")
    if len(spoken) % 2 == 0:
        raise malformed(field, "ends with words of the assistant, where a turn of the user is expected")
    return tuple(_turn(field, role, text) for role, text in spoken)


def messages(
    value: object,
    field: str,
    keys: tuple[str, str] = ("role", "content"),
    content: Callable[[object, str], str] = checked_text,
) -> list[tuple[str, str]]:
    """A list of messages as (role, text); `keys` say where a message has them, and `content` makes text of the other.

    Raises `RowError` for a message of the system that is not the first, and for one that holds more than words, such as
    calls of tools.
    """
    if not isinstance(value, list) or not value:
        what = "an empty list" if value == [] else kind(value)
        raise RowError("wrong type", f"'{field}' is {what}, where a list of messages is expected")
    spoken: list[tuple[str, str]] = []
    for message in value:
        if not isinstance(message, dict):
            raise RowError("wrong type", f"'{field}' holds {kind(message)}, where a message is expected")
        role = checked_text(message.get(keys[0]), f"{field}.{keys[0]}")
        if role.lower() in ("system", "developer"):
            role = "system"
            if spoken:
                raise RowError(
                    "system message", f"'{field}' holds a system message that is not the first; move it there"
                )
        if message.get("loss") is False or message.get("loss_scale") not in (None, 1):
            raise RowError(UNREAD, f"'{field}' has a message with 'loss' false or a 'loss_scale'; remove them, or it")
        for name in filter(message.get, message):
            if MEANING.search(plain_name(name)) or IMAGE.search(plain_name(name)):
                raise RowError(UNREAD, f"'{field}' has '{listed([name])}' in a message, which is not read; remove it")
        spoken.append((role, content(message.get(keys[1]), f"{field}.{keys[1]}")))
    return spoken


def question(value: object, field: str, images: int = 1) -> tuple[Turn, ...]:
    """One turn of the user; beside images, whether or not placeholders say where they stand."""
    return with_images(as_turns([("user", checked_text(value, field))], field), images, field)


def with_images(turns: tuple[Turn, ...], count: int, field: str) -> tuple[Turn, ...]:
    """The turns of a row that has so many images: without placeholders they begin the first turn of the user."""
    places = sum(len(turn.images) for turn in turns)
    if places == count:
        return turns
    if places:
        refuse_number(places, count, field)
    first = next(number for number, turn in enumerate(turns) if turn.role == "user")
    return (*turns[:first], replace(turns[first], images=(0,) * count), *turns[first + 1 :])


def refuse_number(places: int, images: int, field: str) -> None:
    """Raise `RowError` if there are more or fewer places for images than images."""
    if places != images:
        raise RowError("number of images", f"'{field}' holds {PLACEHOLDER} {places} ×, images of the row: {images}")


def turns_tag(turns: Sequence[Turn]) -> dict[str, str]:
    """The tag that tells conversations of one turn of the user from longer ones."""
    return {"turns": "single" if sum(turn.role == "user" for turn in turns) == 1 else "multi"}


def response(value: object, field: str) -> str:
    """The response without its speaker label."""
    text = checked_text(value, field).strip().removeprefix("ASSISTANT:").strip()
    if not text:
        raise RowError("empty response", f"'{field}' is empty")
    if PLACEHOLDER in text:
        # The tokenizer would make an image token of it, for which there is no image.
        raise RowError("image in response", f"'{field}' holds {PLACEHOLDER}; remove it from the response")
    return text


def unanswered(*responses: object) -> bool:
    """Whether a row has none of its responses: absent, null or empty, as published sets of prompts have them."""
    return all(value is None or value == [] or (isinstance(value, str) and not value.strip()) for value in responses)


def preference(chosen: object, rejected: object, fields: tuple[str, str] = ("chosen", "rejected")) -> dict[str, str]:
    """`{"chosen": …, "rejected": …}`, two different responses; `fields` is what the row calls them.

    Nothing, if it has neither: the row is a prompt.
    """
    if unanswered(chosen, rejected):
        return {}
    pair = {"chosen": response(chosen, fields[0]), "rejected": response(rejected, fields[1])}
    if pair["chosen"] == pair["rejected"]:
        raise RowError("no preference", f"'{fields[0]}' and '{fields[1]}' are the same; remove the row")
    return pair


def tags_of(value: Mapping[str, object], *fields: str) -> dict[str, str]:
    """The fields by which tables are broken down, where the row has them."""
    tags = {field: checked_text(value[field], field).strip() for field in fields if value.get(field) is not None}
    for field, tag in tags.items():
        if max(len(field), len(tag)) > LONGEST_TAG or not (field + tag).isprintable():
            problem = f"'{listed([field])}' is not the name of a category: it is too long, or not one line"
            raise RowError("no category", problem)
    return tags


def _turn(field: str, role: str, text: str) -> Turn:
    if role == "assistant":
        if PLACEHOLDER in text:
            raise malformed(field, f"has {PLACEHOLDER} in a turn of the assistant")
        if not text.strip():
            raise malformed(field, "has an empty turn of the assistant")
        return Turn("assistant", text.strip())
    refuse_template(text, field)
    turn = _shown(text)
    if not text.strip():
        raise malformed(field, "has an empty turn of the user")
    return turn


def _shown(text: str) -> Turn:
    """A turn of the user; one image alone comes first, wherever it stands, as LLaVA was trained."""
    if text.count(PLACEHOLDER) == 1:
        return Turn("user", text.replace(f"{PLACEHOLDER}\n", "").replace(PLACEHOLDER, "").strip(), (0,))
    words, *others = text.strip().split(PLACEHOLDER)
    places = []
    for piece in others:
        places.append(len(words))
        words += piece if words else piece.lstrip()
    return Turn("user", words, tuple(places))


def malformed(field: str, what: str) -> RowError:
    """The error of a field that is no conversation, and why."""
    return RowError(f"malformed {field}", f"'{field}' {what}")
