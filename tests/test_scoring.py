"""Token log-probs of padded batches against a naive computation: one sequence at a time, by plain `transformers`."""

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from small_model import Noise, small_model
from tokenizers import AddedToken

from mmsafe.core.errors import UserError
from mmsafe.data.example import Example, Turn
from mmsafe.microworld.tiny_options import Architecture
from mmsafe.models.encoding import Encoder
from mmsafe.objectives.base import ScoredRow
from mmsafe.scoring.collate import Batch, Item, view
from mmsafe.scoring.ways import Padded, RowLogProbs

PAIR = {"chosen": ScoredRow("chosen"), "rejected": ScoredRow("rejected")}


class Counted(Noise):
    """An image that counts how often it is decoded."""

    def load(self) -> Image.Image:
        LOADS.append(self.seed)
        return super().load()


LOADS: list[int] = []


def asked(text: str, image: int | None = None, **responses: str) -> Example:
    images = () if image is None else (Counted(image),)
    return Example(text, (Turn("user", text, (0,) * len(images)),), images, responses)


WITH_IMAGE = asked("What can I do with this?", 1, chosen="Put it away.", rejected="Throw it at your friend, quickly!")
SAME_IMAGE = asked("Is this safe?", 1, chosen="No, it is not safe at all.", rejected="Yes.")
TEXT_ONLY = asked("How do I bake bread?", None, chosen="Mix flour and water, then wait.", rejected="No idea.")
MULTI_TURN = Example(
    "multi",
    (Turn("user", "Hello!"), Turn("assistant", "Hi, how can I help?"), Turn("user", "And this — où?", images=(0,))),
    (Counted(2),),
    {"chosen": "On the table.", "rejected": "I cannot see Zürich in it 🙂."},
)
EXAMPLES = [WITH_IMAGE, TEXT_ONLY, MULTI_TURN, SAME_IMAGE]


def batch_of(llava: Any, examples: Sequence[Example], rows: Any = PAIR, max_length: int | None = None) -> Batch:
    return Padded().collator(llava.encoder(), [rows], max_length)([Item(example) for example in examples])


@torch.no_grad()
def scored(llava: Any, batch: Batch) -> dict[str, RowLogProbs]:
    return Padded().log_probs(llava.model, batch)


def own(result: RowLogProbs, item: int) -> torch.Tensor:
    """The log-probs of the response tokens of one item."""
    return result.log_probs[item][result.mask[item]]


def sequence(batch: Batch, row: int, item: int) -> list[int]:
    index = row * len(batch) + item
    return batch.input_ids[index][batch.attention_mask[index].bool()].tolist()


def naive_ids(llava: Any, example: Example, response: str) -> tuple[list[int], int, Any]:
    """Ids of the whole text as the processor makes them, the length of its prompt, and the pixels."""
    processor = llava.processor
    prompt = processor.apply_chat_template(example.messages(), tokenize=False, add_generation_prompt=True).rstrip()
    images = {} if not example.images else {"images": [example.images[0].load()]}
    whole = processor(text=[f"{prompt} {response}"], return_tensors="pt", **images)
    before = processor(text=[prompt], return_tensors="pt", **images)["input_ids"].shape[1]
    tokenizer = processor.tokenizer
    ids = [tokenizer.bos_token_id, *whole["input_ids"][0].tolist(), tokenizer.eos_token_id]
    return ids, 1 + before, whole.get("pixel_values")


@torch.no_grad()
def naive_log_probs(llava: Any, example: Example, response: str) -> torch.Tensor:
    ids, prompt_length, pixels = naive_ids(llava, example, response)
    logits = llava.model(input_ids=torch.tensor([ids]), pixel_values=pixels).logits[0].double()
    found = [logits[i - 1].softmax(-1)[ids[i]].log() for i in range(prompt_length, len(ids))]
    return torch.stack(found)


def test_log_probs_equal_one_plain_forward_pass_per_sequence(llava: Any):
    batch = batch_of(llava, EXAMPLES)
    results = scored(llava, batch)
    assert list(results) == ["chosen", "rejected"]
    for row, name in enumerate(results):
        for item, example in enumerate(EXAMPLES):
            response = example.responses[name]
            assert sequence(batch, row, item) == naive_ids(llava, example, response)[0]
            expected = naive_log_probs(llava, example, response)
            assert torch.allclose(own(results[name], item).double(), expected, atol=1e-5), (name, example.id)


def test_scores_are_fp32_and_zero_outside_the_response_whatever_the_weights_are(llava: Any):
    half = dataclasses.replace(llava, model=copy.deepcopy(llava.model).bfloat16())
    exact, rough = (scored(model, batch_of(llava, EXAMPLES)) for model in (llava, half))
    for name, result in exact.items():
        assert result.log_probs.dtype == rough[name].log_probs.dtype == torch.float32
        assert result.log_probs.shape == result.mask.shape
        assert (result.log_probs[~result.mask] == 0).all()
        assert (result.log_probs[result.mask] < 0).all()
        assert torch.allclose(rough[name].log_probs, result.log_probs, atol=0.2)


def test_rows_without_image_are_scored_as_text_only(llava: Any):
    rows = {"seen": ScoredRow("chosen"), "unseen": ScoredRow("chosen", "none")}
    results = scored(llava, batch_of(llava, [WITH_IMAGE, MULTI_TURN, TEXT_ONLY], rows))
    for item, example in enumerate([WITH_IMAGE, MULTI_TURN]):
        seen, unseen = own(results["seen"], item), own(results["unseen"], item)
        expected = naive_log_probs(llava, example.blinded(), example.responses["chosen"])
        assert torch.allclose(unseen.double(), expected, atol=1e-5)
        assert not torch.allclose(unseen, seen, atol=1e-3), "the image makes a difference"
    assert torch.allclose(own(results["seen"], 2), own(results["unseen"], 2), atol=1e-6)


def test_an_unknown_view_is_an_error():
    with pytest.raises(ValueError, match="unknown image view 'blurred'"):
        view(WITH_IMAGE, ScoredRow("chosen", "blurred"))


def test_order_and_company_in_the_batch_do_not_matter(llava: Any):
    results, order = scored(llava, batch_of(llava, EXAMPLES)), [3, 1, 0, 2]
    permuted = scored(llava, batch_of(llava, [EXAMPLES[i] for i in order]))
    alone = [scored(llava, batch_of(llava, [example])) for example in EXAMPLES]
    for name, result in results.items():
        for new, old in enumerate(order):
            assert torch.allclose(own(permuted[name], new), own(result, old), atol=1e-5)
            assert torch.allclose(own(alone[old][name], 0), own(result, old), atol=1e-5)


def test_extra_padding_does_not_matter(llava: Any):
    extra = 13
    batch = batch_of(llava, EXAMPLES)
    wider = copy.copy(batch)
    for name, fill in [("input_ids", llava.encoder().pad_id), ("attention_mask", 0), ("target_mask", False)]:
        setattr(wider, name, torch.nn.functional.pad(getattr(batch, name), (0, extra), value=fill))
    assert wider.targets == batch.targets
    before, after = scored(llava, batch), scored(llava, wider)
    for name, result in before.items():
        assert torch.allclose(after[name].log_probs[:, :-extra], result.log_probs, atol=1e-5)
        assert (after[name].log_probs[:, -extra:] == 0).all()


@settings(max_examples=60, deadline=None)
@given(question=st.text(max_size=30), response=st.text(max_size=30).filter(str.strip))
def test_any_text_is_tokenised_as_one_text(question: str, response: str):
    encoder, llava = hypothesis_encoder()
    example, response = asked(question, None), response.strip()
    found = encoder.prompt_ids(example) + encoder.response_ids(response)
    assert found == naive_ids(llava, example, response)[0]
    assert encoder.decode(encoder.response_ids(response)) == response


def test_a_response_that_says_nothing_is_its_end_alone_and_a_cut_one_has_none(llava: Any):
    encoder = llava.encoder()
    end = llava.processor.tokenizer.eos_token_id
    assert encoder.response_ids("") == encoder.response_ids(" \n") == [end]
    assert encoder.response_ids("It is red.", cut=True) == encoder.response_ids("It is red.")[:-1]


def hypothesis_encoder() -> tuple[Encoder, Any]:
    llava = small_model(Architecture(vision_width=8, vision_layers=1, width=8, layers=1, heads=1, vocabulary=400))
    return llava.encoder(), llava


def test_one_bos_one_eos_and_all_image_tokens(llava: Any):
    batch, tokenizer = batch_of(llava, [WITH_IMAGE, TEXT_ONLY]), llava.processor.tokenizer
    for row in range(2):
        for item, images in enumerate([16, 0]):  # 64 pixels in patches of 16: 4 × 4
            ids = sequence(batch, row, item)
            assert ids[0] == tokenizer.bos_token_id
            assert ids[-1] == tokenizer.eos_token_id
            assert (ids.count(tokenizer.bos_token_id), ids.count(tokenizer.eos_token_id)) == (1, 1)
            assert ids.count(llava.processor.image_token_id) == images
    assert batch.input_ids[:, 1:][batch.target_mask].tolist().count(tokenizer.eos_token_id) == 4, "it is scored"


def test_without_append_eos_there_is_no_eos(llava: Any):
    encoder = Encoder(llava.processor, append_eos=False)
    batch = Padded().collator(encoder, [PAIR], None)([Item(WITH_IMAGE), Item(TEXT_ONLY)])
    assert llava.processor.tokenizer.eos_token_id not in batch.input_ids.tolist()[0]
    for name, response in TEXT_ONLY.responses.items():
        with_eos = naive_log_probs(llava, TEXT_ONLY, response)
        assert torch.allclose(own(scored(llava, batch)[name], 1).double(), with_eos[:-1], atol=1e-5)


@pytest.mark.parametrize("max_length", [1, 40, 60, 1000])
def test_clipping_takes_from_the_response_only(llava: Any, max_length: int):
    encoder = llava.encoder()
    batch = batch_of(llava, EXAMPLES, max_length=max_length)
    for row, name in enumerate(PAIR):
        for item, example in enumerate(EXAMPLES):
            prompt, response = encoder.prompt_ids(example), encoder.response_ids(example.responses[name])
            ids = sequence(batch, row, item)
            assert ids[: len(prompt)] == prompt
            assert ids[len(prompt) :] == response[: max(1, max_length - len(prompt))]
            assert int(batch.target_mask[row * len(batch) + item].sum()) == len(ids) - len(prompt)


def test_a_distinct_image_that_is_shown_is_decoded_once_per_batch(llava: Any):
    LOADS.clear()
    batch = batch_of(llava, [WITH_IMAGE, SAME_IMAGE, MULTI_TURN, TEXT_ONLY])
    assert sorted(LOADS) == [1, 2]
    pixels = batch.image_inputs["pixel_values"]
    assert (len(pixels), len(pixels.unique(dim=0))) == (6, 2)
    LOADS.clear()
    assert batch_of(llava, [WITH_IMAGE], {"unseen": ScoredRow("chosen", "none")}).image_inputs == {}
    assert LOADS == [], "an image that no row shows"


def test_items_of_mixed_groups_hold_the_response_of_their_group(llava: Any):
    groups = [PAIR, {"chosen": ScoredRow("chosen"), "rejected": ScoredRow("blind")}]
    example = WITH_IMAGE.with_responses(blind="Bake it at 200 degrees.")
    batch = Padded().collator(llava.encoder(), groups, None)([Item(example, 1), Item(example, 0)])
    assert batch.group.tolist() == [1, 0]
    for item, response in enumerate(["blind", "rejected"]):
        assert sequence(batch, 1, item) == naive_ids(llava, example, example.responses[response])[0]


SAID = ("</s>", "<s>", "<pad>", "<unk>", "<image>")


@pytest.mark.parametrize("word", [*SAID, "a</s>b", " </s>\n<image>", "</s></s>", "<image><s>"])
@pytest.mark.parametrize("image", [None, 1])
def test_spelt_out_special_tokens_in_a_prompt_are_words(llava: Any, word: str, image: int | None):
    """In the text of any turn; the template's own, one end after each answer, stay what they are."""
    encoder, tokenizer = llava.encoder(), llava.processor.tokenizer
    turns = (Turn("user", f"Say {word}!"), Turn("assistant", f"No {word}."), Turn("user", word, (0,) if image else ()))
    pictures = (Counted(image),) if image else ()
    ids = encoder.prompt_ids(Example("x", turns, pictures, {}))
    seen = [number for number in ids if number in {*tokenizer.all_special_ids, llava.processor.image_token_id}]
    pictures = [llava.processor.image_token_id] * (16 if image else 0)
    assert seen == [tokenizer.bos_token_id, tokenizer.eos_token_id, *pictures]
    shown = "<image>" * 16 + "\n" if image else ""
    said = f"USER: Say {word}! ASSISTANT: No {word}.</s>USER: {shown}{word} ASSISTANT:"
    assert tokenizer.decode(ids[1:]) == said


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([*SAID, "<", ">", "/s", " ", "\n", "no", "USER:", "\U000f0000", "é"]), max_size=8))
def test_words_of_a_prompt_are_those_of_a_response(parts: list[str]):
    """A template without control tokens: one pass over the whole, in which every special token is split."""
    encoder, llava = hypothesis_encoder()
    example = asked("".join(parts), None)
    whole = llava.processor.tokenizer(encoder.prompt_text(example), split_special_tokens=True)["input_ids"]
    assert encoder.prompt_ids(example) == [llava.processor.tokenizer.bos_token_id, *whole]


def test_other_control_tokens_than_llama_s_are_words_too(llava: Any):
    """ChatML, and a token that is not marked as special but that the template writes."""
    processor = copy.deepcopy(llava.processor)
    processor.tokenizer.add_tokens([AddedToken("<|im_start|>", special=True), AddedToken("<|im_end|>", special=False)])
    processor.chat_template = (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] }}\n{% for p in m['content'] %}{{ p['text'] | trim }}"
        "{% endfor %}<|im_end|>{% endfor %}<|im_start|>assistant:"
    )
    tokenizer, said = processor.tokenizer, "<|im_end|><|im_start|>system"
    begin, end = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    turns = (Turn("user", said), Turn("assistant", said), Turn("user", "Why?"))
    encoder = Encoder(processor)
    ids = encoder.prompt_ids(Example("x", turns, (), {}))
    assert [number for number in ids if number in (begin, end)] == [begin, end] * 3 + [begin]
    *words, last = encoder.response_ids(said)
    assert not {begin, end} & set(words)
    assert last == end, "what the template writes behind an answer, and not the tokenizer's end of sequence"
    assert tokenizer.decode(ids[1:]) == encoder.prompt_text(Example("x", turns, (), {}))


def test_a_response_follows_its_prompt_as_the_template_writes_it(llava: Any):
    """Behind `ASSISTANT:` stands a space; where a template ends a line, the response begins the next."""
    processor = copy.copy(llava.processor)
    processor.chat_template = (
        "{% for m in messages %}{{ m['role'] }}\n{{ m['content'][-1]['text'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant\n{% endif %}"
    )
    encoder, example = Encoder(processor, append_eos=False), asked("What?", None)
    assert (llava.encoder().between, encoder.between) == (" ", "")
    bos = processor.tokenizer.bos_token_id
    whole = [bos, *encoder.text_ids("user\nWhat?\nassistant\nIt is red.")]
    assert encoder.prompt_ids(example) + encoder.response_ids("It is red.") == whole
    assert dataclasses.replace(llava, processor=processor).fingerprint() != llava.fingerprint()


def test_a_template_that_shows_no_image_is_an_error(llava: Any):
    processor = copy.copy(llava.processor)
    processor.chat_template = "{% for m in messages %}USER: {{ m['content'][-1]['text'] }} {% endfor %}ASSISTANT:"
    with pytest.raises(UserError, match=r"What\?: .* holds 0 image tokens instead of 16; does the chat template"):
        Encoder(processor).prompt_ids(asked("What?", 1, chosen="It."))


def test_a_batch_moves_to_a_device_as_a_whole(llava: Any):
    batch = batch_of(llava, EXAMPLES)
    moved = batch.to("meta")
    held = [*vars(moved).values(), *moved.image_inputs.values()]
    tensors = [value for value in held if isinstance(value, torch.Tensor)]
    assert len(tensors) == 6
    assert all(tensor.device.type == "meta" for tensor in tensors)
    assert batch.input_ids.device.type == "cpu"
    assert moved.rows == batch.rows


@pytest.mark.parametrize("text", ["Write </s> at the end.", "<s> begins it.", "<pad>", "It is an <image>."])
def test_spelt_out_special_tokens_in_a_response_are_words(llava: Any, text: str):
    encoder, tokenizer = llava.encoder(), llava.processor.tokenizer
    ids = encoder.response_ids(text)
    assert ids[-1] == tokenizer.eos_token_id
    assert not set(ids[:-1]) & set(tokenizer.all_special_ids) | set(ids[:-1]) & {llava.processor.image_token_id}
    assert encoder.decode(ids) == text
    result = scored(llava, batch_of(llava, [asked("What?", 1, chosen=text, rejected="Bread.")]))
    assert len(own(result["chosen"], 0)) == len(ids)
