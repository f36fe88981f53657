"""A file that gives examples their categories: written by `mmsafe.tag`, read by every data set."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, TypeAdapter, ValidationError
from typing_extensions import TypedDict  # pydantic wants it below Python 3.12

from mmsafe.core.errors import UserError
from mmsafe.data.example import Example

log = logging.getLogger(__name__)
LONGEST_TAG = 200
CATEGORY = "category"
"""The tag that an example has its category under."""
UNKNOWN = "unknown"
"""The category of an example that a tagger could put into none."""
NAMED = 5
"""Examples without a category that a message names."""


def category_name(name: str) -> str:
    """`name`, if a table can show it; else raises `ValueError`."""
    if not name.strip() or len(name) > LONGEST_TAG or not name.isprintable():
        raise ValueError("is not the name of a category: it is empty, too long, or not one line")
    return name


class CategoryRow(TypedDict):
    """A line of the file."""

    id: str
    prompt_hash: str
    """Of turns and image: what the category is found by, for ids are the same in many files."""
    category: Annotated[str, AfterValidator(category_name)]


ROW = TypeAdapter(CategoryRow)


def write_categories(path: Path, examples: Sequence[Example], categories: Sequence[str]) -> None:
    """One row per example."""
    from mmsafe.core.files import write_rows

    pairs = zip(examples, categories, strict=True)
    write_rows(path, [CategoryRow(id=e.id, prompt_hash=e.prompt_key(), category=category) for e, category in pairs])


def with_categories(examples: Sequence[Example], path: Path) -> list[Example]:
    """The examples with the tag `category`; those that the file has none for are counted and named in the log.

    Raises `UserError` if it has one for none of them: then it was made for other data.
    """
    categories = _read(path)
    keys = [example.prompt_key() for example in examples]
    missing = [example.id for example, key in zip(examples, keys, strict=True) if key not in categories]
    if missing:
        lack = f"has none for {len(missing)} of {len(examples)} examples, such as {', '.join(missing[:NAMED])}"
        if len(missing) == len(examples):
            raise UserError(f"data.categories: {path} {lack}: it was made for other data; make it anew by mmsafe.tag")
        log.warning("data.categories: %s %s; they count in no category", path, lack)
    return [
        replace(example, tags={**example.tags, CATEGORY: categories[key]}) if key in categories else example
        for example, key in zip(examples, keys, strict=True)
    ]


def _read(path: Path) -> dict[str, str]:
    """Categories by the hash of their prompts."""
    categories: dict[str, str] = {}
    number = 0
    try:
        with path.open(encoding="utf-8") as file:
            for line in file:
                number += 1
                row = ROW.validate_json(line, strict=True)
                if categories.setdefault(row["prompt_hash"], row["category"]) != row["category"]:
                    raise ValueError(f"another category than an earlier row for the prompt of id {row['id']}")
    except OSError as error:
        raise UserError(f"data.categories: cannot read {path} ({error.strerror}); make it by mmsafe.tag") from error
    except ValueError as error:
        reason = str(error)
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            reason = f"{'.'.join(map(str, first['loc'])) or 'row'}: {first['msg']}"
        raise UserError(
            f"data.categories: {path}: line {number} is damaged ({reason}); make it anew by mmsafe.tag"
        ) from error
    return categories
