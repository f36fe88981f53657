"""A taxonomy: the categories that there are, and how a reply names one of them."""

import re
from typing import Annotated

from pydantic import Field

from mmsafe.core.options import options
from mmsafe.data.categories import UNKNOWN, category_name

AROUND = re.compile(r"^[\s\"'`*“]+|[\s\"'`*”.]+$")
"""What models put around a name."""


@options
class Taxonomy:
    """Names of categories, each with a definition of one line; every request has exactly one."""

    categories: Annotated[dict[str, str], Field(min_length=2)]

    def __post_init__(self) -> None:
        for name, definition in self.categories.items():
            if UNKNOWN in (category_name(name), _plain(name)):
                raise ValueError(f"'{UNKNOWN}' is what a request is called that fits no category: choose another name")
            if not definition.strip() or not definition.isprintable():
                raise ValueError(f"'{name}' needs a definition of one line")
        if len({_plain(name) for name in self.categories}) < len(self.categories):
            raise ValueError("two categories have the same name")

    def listed(self) -> str:
        """A line for each category."""
        return "\n".join(f"- {name}: {definition}" for name, definition in self.categories.items())

    def read(self, reply: str) -> str:
        """The category that `reply` is the name of, as it is written here; `unknown` if it is anything else."""
        return {_plain(name): name for name in self.categories}.get(_plain(reply), UNKNOWN)


def _plain(text: str) -> str:
    return AROUND.sub("", text).casefold()
