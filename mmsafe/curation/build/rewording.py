"""Stage 5: a multimodal model words the last turn anew, so that it reads as if it had been asked beside the image."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from string import Template
from typing import Any, ClassVar, Literal, NamedTuple

from mmsafe.core.options import Positive, options
from mmsafe.curation.build.entities import last_turn, mention
from mmsafe.curation.build.stage import BuildStage, Outcome, Row, Site
from mmsafe.data.conversation import PLACEHOLDER, SPEAKER, format_conversation, parse_conversation
from mmsafe.data.example import digest

INSTRUCTION = Template(
    "Below is a request that somebody writes beside this image. Word it anew, so that it is natural and grammatical. "
    "Keep its meaning, its tone and whatever is asked for. Keep words that point at the image in place of a name: do "
    "not say who or what the image shows. Do not answer the request and do not comment on it. Reply with the new "
    "request alone, on one line.\n\nRequest: $request"
)
REFUSED = re.compile(
    r"(?:I'm |I am )?sorry\b|I (?:can ?not|can't|won't|will not)\b|I(?: am|'m) (?:unable|not)\b|as an AI\b", re.I
)
REQUEST = re.compile(
    r"\?|^(?:please|tell|give|show|explain|describe|list|write|suggest|name|find|help|provide|let)\b", re.I
)
SLACK = 60
"""Characters that a short request may grow by, whatever the factor."""


class RewordingReply(NamedTuple):
    """What a model said; `finished` unless it was cut off. `reason`, where it said nothing, tells why."""

    text: str
    finished: bool = True
    reason: str | None = None


@options
class Rewording(BuildStage):
    """Base of all ways to word a request anew."""

    costs: ClassVar[bool] = True

    max_growth: Positive = 3.0
    """Longest new wording, relative to the old one: more is an answer, or a comment."""
    on_failure: Literal["keep", "drop"] = "keep"
    """A row whose new wording fails the checks: keep it as substituted, or drop it. Both are counted."""

    def identity(self, site: Site) -> dict[str, Any]:
        """The instruction is part of it."""
        return super().identity(site) | {"instruction": digest(INSTRUCTION.template)}

    @abstractmethod
    def replies(self, rows: Sequence[Row], site: Site) -> Iterator[list[tuple[int, RewordingReply]]]:
        """What a model says to `request(row)` beside the row's image, with the row's position, in any order."""

    def make(self, rows: Mapping[str, Row], site: Site) -> Iterator[list[tuple[str, Outcome]]]:
        keys, given = list(rows), list(rows.values())
        for replies in self.replies(given, site):
            yield [(keys[position], self._outcome(given[position], reply)) for position, reply in replies]

    def _outcome(self, row: Row, reply: RewordingReply) -> Outcome:
        text = cleaned(reply.text)
        failure = reply.reason or ("cut off" if not reply.finished else self.failure(row, text))
        if failure is None:
            *before, last = parse_conversation(row["mid_prompt"], "mid_prompt")
            return Outcome({**row, "question": format_conversation([*before, replace(last, text=text)])})
        if self.on_failure == "drop":
            return Outcome(None, f"new wording failed: {failure}")
        return Outcome({**row, "question": row["mid_prompt"]}, f"not reworded: {failure}")

    def failure(self, row: Row, text: str) -> str | None:
        """Why `text` cannot take the place of the row's last turn; None if it can."""
        old = last_turn(row["mid_prompt"])
        if not text:
            return "empty"
        if PLACEHOLDER in text:
            return "more than one image"
        if SPEAKER.search(text):
            return "speaker label"
        if mention(row["entity"]).search(text):
            return "entity named"
        if len(text) > max(self.max_growth * len(old), len(old) + SLACK):
            return "too long"
        if "\n" in text and "\n" not in old:
            return "several lines"
        if REFUSED.match(text) and not REFUSED.match(old):
            return "refusal in place of a request"
        if "?" in old and not REQUEST.search(text):
            return "no longer a request"
        return None


@options
class NoRewording(BuildStage):
    """Leaves the words as they were substituted: "Senator the person in the photo"."""

    def make(self, rows: Mapping[str, Row], site: Site) -> Iterator[list[tuple[str, Outcome]]]:
        yield [(key, Outcome({**row, "question": row["mid_prompt"]})) for key, row in rows.items()]


def request(row: Row) -> str:
    """What a model is asked."""
    return INSTRUCTION.substitute(request=last_turn(row["mid_prompt"]))


def cleaned(reply: str) -> str:
    """The reply without what models put around it: a repeated placeholder or label, quotation marks."""
    text = reply.strip().removeprefix(PLACEHOLDER).strip()
    text = re.sub(r"^(?:new |reworded )?request:\s*", "", text, flags=re.IGNORECASE)
    if len(text) > 1 and text[0] + text[-1] in ('""', "“”"):
        text = text[1:-1]
    return text.strip()
