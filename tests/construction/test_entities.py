"""Stage 2: entities by rule, and by a token-classification model small enough to write here."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertForTokenClassification, PreTrainedTokenizerFast

from mmsafe.core.errors import UserError
from mmsafe.curation.build.entities import Entities, Entity, TokenClassification, last_turn, mention
from mmsafe.curation.build.rule_entities import RuleEntities
from mmsafe.curation.build.stage import Outcome, Site
from mmsafe.microworld.tiny import TinyModel

SAMPLE = Path(__file__).resolve().parents[3] / "shared" / "data" / "mmsafe_po_sample.json"
SITE = Site(Path("unused"), TinyModel())
LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
NAMES = {"ann": "B-PER", "lee": "I-PER", "rome": "B-LOC", "##s": "I-LOC"}
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "where", "is", "and", "the", *NAMES]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that gives every word the label of `NAMES`; it reads 16 tokens and no more."""
    folder = tmp_path_factory.mktemp("bert")
    backend = Tokenizer(models.WordPiece({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=backend, **special).save_pretrained(folder)
    width = 16
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=width,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=16,
        id2label=dict(enumerate(LABELS)),
        label2id={label: i for i, label in enumerate(LABELS)},
    )
    model = BertForTokenClassification(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        for name, parameter in model.named_parameters():
            if name.endswith("LayerNorm.weight"):
                parameter.fill_(1.0)
        model.bert.embeddings.word_embeddings.weight[:, :] = torch.eye(len(WORDS), width) * 10
        for i, word in enumerate(WORDS):
            model.classifier.weight[LABELS.index(NAMES.get(word, "O")), i] = 3.0
    model.save_pretrained(folder)
    return folder


def found(stage: Entities, text: str) -> list[tuple[str, str]]:
    (entities,) = stage.find([text])
    return [(entity.text, entity.type) for entity in entities]


def made(stage: Entities, *texts: str) -> list[Outcome]:
    rows: dict[str, Any] = {str(i): {"text_prompt": f"USER: {text} ASSISTANT:"} for i, text in enumerate(texts)}
    return [outcome for portion in stage.make(rows, SITE) for _, outcome in portion]


def test_a_model_finds_entities_as_the_text_has_them(bert: Path):
    assert found(TokenClassification(path=str(bert)), "Where is Ann  Lee and ROME?") == [
        ("Ann  Lee", "PER"),
        ("ROME", "LOC"),
    ]


def test_a_text_that_is_longer_than_the_model_reads_is_read_to_its_end(bert: Path):
    text = "the " * 60 + "Rome"
    assert found(TokenClassification(path=str(bert), stride=4), text) == [("Rome", "LOC")]


def test_the_result_does_not_depend_on_the_batch(bert: Path):
    texts = ["where is Rome", "the " * 30 + "Ann", "is", "and Ann Lee"]
    one, many = ([*TokenClassification(path=str(bert), batch_size=size).find(texts)] for size in (1, 4))
    assert [[e.text for e in entities] for entities in one] == [["Rome"], ["Ann"], [], ["Ann Lee"]]
    assert [[e[:2] for e in entities] for entities in one] == [[e[:2] for e in entities] for entities in many]


def test_rows_keep_their_certain_entities_best_first(bert: Path):
    one, none = made(TokenClassification(path=str(bert)), "Where is Ann Lee and Rome?", "where is the")
    assert one.row is not None
    assert {entity["entity"] for entity in one.row["entities"]} == {"Ann Lee", "Rome"}
    scores = [entity["score"] for entity in one.row["entities"]]
    assert scores == sorted(scores, reverse=True)
    assert none == Outcome(None, "no entity")
    (unsure,) = made(TokenClassification(path=str(bert), min_score=1.0), "where is Rome")
    assert unsure == Outcome(None, "low entity score")


class Fixed(RuleEntities):
    """Finds the first three letters, whatever they are."""

    def find(self, texts: Any) -> Any:
        return ([Entity(text[:3], "LOC", 0.9, 0, 3)] for text in texts)


def test_an_entity_that_is_part_of_a_word_is_not_taken():
    part, whole = made(Fixed(), "Romeo is here", "Rom, or Rome?")
    assert part == Outcome(None, "part of a word")
    assert whole.row is not None


def test_a_model_that_cannot_be_had_is_one_line_with_the_way_out():
    with pytest.raises(UserError, match=r"entities\.path=no/such-model: .*entities=rule") as caught:
        TokenClassification(path="no/such-model").check(SITE)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "entities"),
    [
        ("Where is Paris?", [("Paris", "LOC")]),
        ("Paris is where?", [("Paris", "LOC")]),
        ("How do Americans see New York City?", [("Americans", "MISC"), ("New York City", "LOC")]),
        ("Where does Rand Paul live?", [("Rand Paul", "PER")]),
        ("Tell Rand Paul this", [("Rand Paul", "PER")]),
        ("I saw Senator Paul's house", [("Paul", "PER")]),
        ("He works for Acme Corporation", [("Acme Corporation", "ORG")]),
        ("What does a Corgi eat on Monday?", [("Corgi", "MISC")]),
        ("Stop it. Now. Please.", []),
        ("WHY ARE YOU SHOUTING", []),
        ("my dad asks what I'm doing", []),
    ],
)
def test_the_rule_finds_listed_names_and_capitals_inside_sentences(text: str, entities: list[tuple[str, str]]):
    assert found(RuleEntities(), text) == entities


def test_a_list_of_ones_own_takes_the_place_of_ours(tmp_path: Path):
    path = tmp_path / "names.json"
    path.write_text(json.dumps({"ORG": ["acme"]}))
    stage = RuleEntities(gazetteer=path)
    assert found(stage, "does acme deliver?") == [("acme", "ORG")]
    assert stage.identity(SITE) != RuleEntities().identity(SITE)
    path.write_text(json.dumps({"ORG": "acme"}))
    with pytest.raises(UserError, match=r"names\.json: must be"):
        found(RuleEntities(gazetteer=path), "does acme deliver?")


@pytest.mark.parametrize(
    ("entity", "text", "held"), [("US", "tell us", False), ("Paris", "paris?", True), ("Rom", "Rome", False)]
)
def test_an_entity_is_mentioned_as_whole_words(entity: str, text: str, held: bool):
    assert bool(mention(entity).search(text)) is held


@pytest.mark.skipif(not SAMPLE.exists(), reason="needs the MMSafe-PO sample in ../shared/data")
def test_the_rule_finds_most_entities_of_the_published_rows():
    rows = json.loads(SAMPLE.read_text())
    entities = RuleEntities().find([last_turn(row["text_prompt"]) for row in rows])
    hits = sum(row["entity"] in {entity.text for entity in own} for row, own in zip(rows, entities, strict=True))
    assert hits >= 68, f"{hits} of {len(rows)}"
