"""Hypothesis strategies for rows of every reader with whatever in their fields."""

from typing import Any

from hypothesis import strategies as st
from reader_rows import READERS, ROWS

plain = st.sampled_from([None, True, 0, -1, 7, 10**400, 0.5, float("nan"), "", "x", "\ud800", "\0", "é\u2028"])
junk = plain | st.lists(plain, max_size=2) | st.dictionaries(st.sampled_from(["bytes", "path", "a"]), plain, max_size=2)
words = [
    "",
    " ",
    "<image>",
    "USER:",
    "ASSISTANT:",
    "\n\nHuman:",
    "\n\nAssistant:",
    "\0",
    "\ud800",
    "hi",
    "\n",
    "{",
    "%00",
]
texts = st.lists(st.sampled_from(words), max_size=5).map("".join)
names = st.sampled_from(
    ["a.png", "link.png", "out/secret.png", "../../secret.png", "pipe.png", ".", "/", "%2e%2e/", "a\0"]
)
parts = st.lists(
    st.fixed_dictionaries({"type": st.sampled_from(["text", "image", None]), "text": texts | junk}), max_size=2
)
messages = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "role": st.sampled_from(["user", "assistant", "system"]) | junk,
            "from": st.sampled_from(["human", "gpt"]) | junk,
            "content": texts | parts | junk,
            **dict.fromkeys(("value", "response", "instruction", "safe_instruction"), texts | junk),
        },
    ),
    max_size=4,
)
fields = names | texts | messages | junk | st.lists(names, max_size=2)


def changed(name: str) -> st.SearchStrategy[Any]:
    """A row as published, with some of its fields changed or gone; now and then no row at all."""
    known = st.sampled_from([*ROWS[name], "id", "split", "blind"])
    changes = st.dictionaries(known, fields | st.just(...), max_size=3)
    rows = changes.map(lambda change: {k: v for k, v in (ROWS[name] | change).items() if v is not ...})
    return st.one_of(rows, rows, rows, rows, junk)


ANY = {name: st.lists(changed(name), max_size=4) for name in READERS}
