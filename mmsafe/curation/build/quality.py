"""Stage 6: what may go into the set, whatever made it."""

from collections.abc import Iterator, Mapping
from typing import ClassVar

from mmsafe.core.errors import UserError
from mmsafe.core.options import Count, options
from mmsafe.curation.build.entities import last_turn, mention
from mmsafe.curation.build.stage import BuildStage, Outcome, Row, Site
from mmsafe.data.conversation import parse_question
from mmsafe.data.images import find_image
from mmsafe.data.row_error import RowError


@options
class QualityFilter(BuildStage):
    """Drops rows that would teach nothing, or something wrong. Uncertain entities were left alone in stage 2."""

    whole: ClassVar[bool] = True

    max_words: Count = 1000
    """Of the conversation and its longer response together."""
    entity_in_question: bool = False
    """Keep rows whose last turn still holds the entity's name: the image is not needed to understand them."""

    def make(self, rows: Mapping[str, Row], site: Site) -> Iterator[list[tuple[str, Outcome]]]:
        seen: set[tuple[str, str, frozenset[str]]] = set()
        made = []
        for key, row in rows.items():
            responses = frozenset((_words(row["chosen"]), _words(row["rejected"])))
            pair = _words(row["question"]), row["image"], responses
            problem = "duplicate" if pair in seen else self._problem(row, site)
            seen.add(pair)
            made.append((key, Outcome(None if problem else row, problem)))
        yield made

    def _problem(self, row: Row, site: Site) -> str | None:
        if _words(row["chosen"]) == _words(row["rejected"]):
            return "chosen is rejected"
        try:
            find_image(site.images, row["image"])
            parse_question(row["question"])
        except UserError:
            return "missing image"
        except RowError as error:
            return error.reason
        longer = max(len(row[field].split()) for field in ("chosen", "rejected"))
        if len(row["question"].split()) + longer > self.max_words:
            return "too long"
        if not self.entity_in_question and mention(row["entity"]).search(last_turn(row["question"])):
            return "entity named in the question"
        return None


def _words(text: str) -> str:
    """The text with all white space alike."""
    return " ".join(text.split())
