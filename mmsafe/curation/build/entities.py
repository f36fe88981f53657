"""Stage 2: what the last turn of the user names."""

import re
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from mmsafe.core.errors import UserError
from mmsafe.core.options import Count, Share, options
from mmsafe.curation.build.stage import BuildStage, Outcome, Row, Site
from mmsafe.data.conversation import parse_conversation


class Entity(NamedTuple):
    """A name in a text, from `start` to `end`; `type` is PER, LOC, ORG or MISC, as in CoNLL-2003."""

    text: str
    type: str
    score: float
    start: int
    end: int


@options
class Entities(BuildStage):
    """Base of all extractors: finds entities in texts; the best come first, each name once."""

    portion: ClassVar[int] = 256
    """Rows that are kept together."""

    min_score: Share = 0.5
    """An entity that is less certain is left alone."""

    @abstractmethod
    def find(self, texts: Sequence[str]) -> Iterator[list[Entity]]:
        """The entities of every text."""

    def make(self, rows: Mapping[str, Row], site: Site) -> Iterator[list[tuple[str, Outcome]]]:
        texts = [last_turn(row["text_prompt"]) for row in rows.values()]
        extracted = zip(rows.items(), texts, self.find(texts), strict=True)
        while portion := [
            (key, self._outcome(row, text, entities)) for (key, row), text, entities in islice(extracted, self.portion)
        ]:
            yield portion

    def _outcome(self, row: Row, text: str, entities: Sequence[Entity]) -> Outcome:
        whole = [entity for entity in entities if is_whole(text, entity)]
        certain = [entity for entity in whole if entity.score >= self.min_score]
        if not certain:
            return Outcome(None, "low entity score" if whole else "part of a word" if entities else "no entity")
        best: dict[str, dict[str, Any]] = {}
        for entity in sorted(certain, key=lambda entity: (-entity.score, entity.start)):
            best.setdefault(entity.text, {"entity": entity.text, "entity_type": entity.type, "score": entity.score})
        return Outcome({**row, "entities": list(best.values())})


@options
class TokenClassification(Entities):
    """A token-classification model of transformers; the default is that of the paper."""

    costs: ClassVar[bool] = True
    idle: ClassVar[frozenset[str]] = frozenset({"batch_size"})

    path: str = "dbmdz/bert-large-cased-finetuned-conll03-english"
    stride: Count = 64
    """Tokens by which the parts of a text overlap that is longer than the model can read."""
    batch_size: Count = 8

    def check(self, site: Site) -> None:
        from mmsafe.models.locate import reachable

        if not Path(self.path).expanduser().is_dir() and not reachable(self.path):
            raise UserError(
                f"entities.path={self.path}: no such folder, and the hub cannot be reached; download it elsewhere and "
                "name its folder, or choose entities=rule"
            )

    def find(self, texts: Sequence[str]) -> Iterator[list[Entity]]:
        tagger = self._tagger()
        for text, parts in zip(texts, tagger((text for text in texts), batch_size=self.batch_size), strict=True):
            spans = [(part, part["start"], part["end"]) for part in parts]  # the tokenizer may change case and spaces
            yield [Entity(text[i:j], part["entity_group"], float(part["score"]), i, j) for part, i, j in spans]

    def plan(self, count: int, rows: object) -> str:
        return f"{self.path} reads {count} turns of users"

    def _tagger(self) -> Any:
        from huggingface_hub import snapshot_download
        from transformers import AutoModelForTokenClassification, AutoTokenizer, TokenClassificationPipeline

        from mmsafe.models.checkpoints import wanted_files
        from mmsafe.models.loading import own_device
        from mmsafe.models.pretrained import check_files, from_pretrained, in_one_line, load_model

        folder = Path(self.path).expanduser()
        with in_one_line(f"entities.path={self.path}"):
            if not folder.is_dir():
                files = [*wanted_files(pickles=True), "*.txt"]
                folder = Path(snapshot_download(self.path, allow_patterns=files))
            check_files(folder)
            tokenizer = from_pretrained(AutoTokenizer, folder)
            model = load_model(AutoModelForTokenClassification, folder, allow_pickle=True)
            longest = getattr(model.config, "max_position_embeddings", tokenizer.model_max_length)
            tokenizer.model_max_length = min(tokenizer.model_max_length, longest)
            tagger = TokenClassificationPipeline(
                model=model,
                tokenizer=tokenizer,
                aggregation_strategy="simple",
                stride=min(self.stride, tokenizer.model_max_length // 2),
                device=own_device("auto"),
            )
            tagger("?")
        return tagger


def last_turn(prompt: str) -> str:
    """The last turn of the user, in a conversation that `format_conversation` has written."""
    return parse_conversation(prompt, "text_prompt")[-1].text


def is_whole(text: str, entity: Entity) -> bool:
    """Whether the entity is made of whole words: a model that reads parts of words may find one inside of another."""
    around = text[max(entity.start - 1, 0) : entity.start] + text[entity.end : entity.end + 1]
    return entity.text.strip() == entity.text != "" and not re.search(r"\w", around)


def mention(entity: str) -> re.Pattern[str]:
    """Finds `entity` as whole words, in any case unless it is all capitals: "US" is not "us"."""
    return re.compile(rf"(?<!\w){re.escape(entity)}(?!\w)", 0 if entity.isupper() else re.IGNORECASE)
