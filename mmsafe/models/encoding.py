"""From conversations to token ids, the way generation would produce them."""

import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple
from uuid import uuid4

import torch
from PIL import Image
from tokenizers import Tokenizer
from torch import Tensor

from mmsafe.core.errors import UserError
from mmsafe.data.corruption import CorruptedImage
from mmsafe.data.example import Example, ImageSource, Turn
from mmsafe.models.family import ImageInputs, family_of
from mmsafe.models.rendering import rendered

ENCODING = 2
"""Version of how conversations become ids, part of cache keys; 1 took control tokens for such wherever they stood."""
QUESTION = Example("", (Turn("user", "?"),), (), {})
ANSWER = "Yes"


class ControlTokens:
    """A copy of a tokenizer in which each control token has a name that nobody can know.

    One pass over a whole prompt then reads the named ones as tokens and everything else as words, merged and spaced as
    in any other text. Control tokens are the special ones, `image_token`, and whatever added token the template
    writes.
    """

    def __init__(self, tokenizer: Any, image_token: str, template: str) -> None:
        self._secret = uuid4().hex
        copied = json.loads(tokenizer.backend_tokenizer.to_str())
        copied |= {"truncation": None, "padding": None, "post_processor": None}
        control, contents = [], []
        for token in copied["added_tokens"]:
            text = token["content"]
            written = text in template and not text.isspace()
            if token["special"] or text == image_token or written:
                control.append(text)
                token |= {"content": self.name(text), "normalized": False}
            contents.append((token["content"], token["id"]))
        self._control = sorted(control, key=len, reverse=True)
        self.pattern = re.compile("|".join(map(re.escape, self._control)) or "(?!)")
        self._hidden = re.compile(f"{self._secret}-([0-9]+)-")
        self._backend = Tokenizer.from_str(json.dumps(copied))
        self._id = {self._backend.token_to_id(content): number for content, number in contents}

    def name(self, token: str) -> str:
        """What `ids` takes for this control token."""
        return f"{self._secret}{token}{self._secret}"

    def hidden(self, messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Chat-template messages in whose texts `named` sees no control token."""
        return [{**message, "content": [self._without(part) for part in message["content"]]} for message in messages]

    def named(self, rendered: str) -> str:
        """What the template made of `hidden` messages: its own control tokens by name, and the texts as they were."""
        named = self.pattern.sub(lambda match: self.name(match[0]), rendered)
        return self._hidden.sub(lambda match: self._control[int(match[1])], named)

    def ids(self, text: str) -> list[int]:
        """Ids of a text, whose control tokens are words unless they stand there by name."""
        ids = self._backend.encode(text, add_special_tokens=False).ids
        return [self._id.get(number, number) for number in ids]

    def _without(self, part: Mapping[str, Any]) -> dict[str, Any]:
        if "text" not in part:
            return dict(part)
        hide = self.pattern.sub(lambda match: f"{self._secret}-{self._control.index(match[0])}-", part["text"])
        return {**part, "text": hide}


class Place(NamedTuple):
    """What stands in a prompt for an image of one size."""

    inputs: ImageInputs
    """Without pixels."""
    named: str
    """Its text, with control tokens by name."""
    tokens: int
    """Its placeholder tokens."""


class Encoder:
    """Turns prompts, responses and images into model inputs.

    A prompt starts with one BOS; a response is tokenised as a continuation of its prompt and ends with `end_id`
    (`append_eos`). Prompt and responses are tokenised apart, so the prompt's ids are the same beside every response.
    Only the chat template writes control tokens: `</s>` or `<image>` in what was said are words like any other.
    """

    def __init__(self, processor: Any, *, append_eos: bool = True) -> None:
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.append_eos = append_eos
        self.family = family_of(type(processor).__name__)
        self._places: dict[tuple[bool, tuple[int, int]], Place] = {}

    @property
    def image_tokens(self) -> int:
        """Placeholder tokens of an image of 64 by 64 pixels, which is any image in a family of one size."""
        return self.place((64, 64), 1).tokens

    @cached_property
    def image_token(self) -> int:
        """Id of the placeholder that a feature takes the place of."""
        return self.family.image_token(self.processor)

    def places(self, images: Sequence[ImageSource]) -> list[Place]:
        """What stands for each image of a prompt, from its size alone: no pixels."""
        one_size = self.family.one_size
        return [self.place((64, 64) if one_size else image.shape, len(images)) for image in images]

    def image_inputs(self, images: Sequence[ImageSource]) -> list[ImageInputs]:
        """The images of a prompt, decoded and processed; what a corruption does to pixels comes last."""
        if not images:
            return []
        decoded = {number: image.load() for number, image in {id(image): image for image in images}.items()}
        made = self.family.image_inputs(self.processor, [decoded[id(image)] for image in images])
        return [self._corrupted(inputs, image) for inputs, image in zip(made, images, strict=True)]

    def ids_of(self, place: Place) -> list[int]:
        """Ids that stand for an image."""
        return self._control.ids(place.named)

    @cached_property
    def pad_id(self) -> int:
        """Id that fills masked positions."""
        pad = self.tokenizer.pad_token_id
        return int(pad if pad is not None else self.tokenizer.eos_token_id)

    def prompt_text(self, example: Example) -> str:
        """The prompt as the chat template renders it, up to where the response begins."""
        return self._rendered(example.messages())

    def prompt_ids(self, example: Example) -> list[int]:
        """Ids of the prompt with every image placeholder expanded; one BOS at the start."""
        return self.prompt(example)[0]

    def prompt(self, example: Example) -> tuple[list[int], list[ImageInputs]]:
        """Ids of the prompt, and what stands for its images in them."""
        places = self.places(example.images)
        text = self._control.named(self._rendered(self._control.hidden(example.messages())))
        before, *parts = text.split(self._control.name(self.processor.image_token))
        ids = self._control.ids(
            before + "".join(place.named + part for place, part in zip(places, parts, strict=False))
        )
        if example.turns[0].role == "system" and example.turns[0].text not in text:
            left_out = "the chat template leaves out its system message"
            raise UserError(f"example {example.id}: {left_out}; say it in the first turn of the user")
        count, expected = ids.count(self.image_token), sum(place.tokens for place in places)
        if len(parts) != len(places) or count != expected:
            raise UserError(
                f"example {example.id}: the rendered prompt holds {count} image tokens instead of {expected}; does the "
                "chat template show every image once?"
            )
        bos = self.tokenizer.bos_token_id
        return (ids if bos is None or ids[:1] == [bos] else [bos, *ids]), [place.inputs for place in places]

    def response_ids(self, text: str, *, cut: bool = False) -> list[int]:
        """Ids of a response as they follow their prompt, with their end if `append_eos` and it was not `cut` off."""
        end = [self.end_id] if self.append_eos and not cut else []
        if not text.strip():
            return end  # what a model says that ends at once
        anchor = self._anchor_ids
        joined = self.text_ids(f"{self._anchor}{self.between}{text.strip()}")
        if joined[: len(anchor)] != anchor:
            raise UserError("the tokenizer merges the end of the prompt with the response; this model is not supported")
        return [*joined[len(anchor) :], *end]

    def text_ids(self, text: str) -> list[int]:
        """Ids of plain text."""
        return self._control.ids(text)

    def pixels(self, image: ImageSource) -> Tensor:
        """A preprocessed image of one tile, `[3, height, width]`."""
        (inputs,) = self.image_inputs([image])
        return inputs.tensors["pixel_values"][0]

    def decode(self, ids: list[int]) -> str:
        """Text of generated ids, without special tokens."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip()

    def _rendered(self, messages: list[dict[str, Any]]) -> str:
        """Up to where the response begins, or on to the end of its beginning, where that is the last message."""
        begun = [self.between + one["content"][0]["text"] for one in messages[-1:] if one["role"] == "assistant"]
        before = messages[: len(messages) - len(begun)]
        return "".join([rendered(self.processor, before, add_generation_prompt=True).rstrip(" "), *begun])

    def place(self, size: tuple[int, int], count: int) -> Place:
        """What stands for an image of this height and width, one of `count` in its prompt."""
        key = self.family.together(count), size
        if key not in self._places:
            blank = Image.new("RGB", size[::-1])
            inputs = self.family.image_inputs(self.processor, [blank] * count)[0]
            kept = {name: value for name, value in inputs.tensors.items() if name != "pixel_values"}
            tokens = inputs.text.count(self.tokenizer.convert_ids_to_tokens(self.image_token))
            named = self._control.named(inputs.text)
            self._places[key] = Place(inputs._replace(tensors=kept), named, tokens)
        return self._places[key]

    def _corrupted(self, inputs: ImageInputs, image: ImageSource) -> ImageInputs:
        if not isinstance(image, CorruptedImage) or not image.changes_pixels:
            return inputs
        patch, tiles = getattr(self.processor, "patch_size", None), inputs.tensors["pixel_values"]
        if patch is None:
            raise UserError(f"{image.name}: this corruption works on patches of a LLaVA; choose corruption=crop")
        return inputs._replace(
            tensors={**inputs.tensors, "pixel_values": torch.stack([image.pixels(tile, patch) for tile in tiles])}
        )

    @cached_property
    def _control(self) -> ControlTokens:
        return ControlTokens(self.tokenizer, self.processor.image_token, str(self.processor.chat_template))

    @cached_property
    def _anchor(self) -> str:
        """The last word of every prompt, such as `ASSISTANT:`, with the line that ends there, if one does."""
        text = self.prompt_text(QUESTION)
        return text[text.rindex(text.split()[-1]) :]

    @cached_property
    def between(self) -> str:
        """What the chat template writes between the end of a prompt and its response: a space, or nothing."""
        prompt = self.prompt_text(QUESTION)
        after, answer, _ = self._answered.removeprefix(prompt).partition(ANSWER)
        fits = answer and self._answered.startswith(prompt) and not after.strip()
        return after if fits else " " * (not prompt[-1:].isspace())

    @cached_property
    def end_id(self) -> int:
        """Id that ends a response: the control token that the chat template writes behind one, or else EOS."""
        control = self._control.pattern.match(self._answered.rpartition(ANSWER)[2].lstrip())
        return int(self.tokenizer.convert_tokens_to_ids(control[0]) if control else self.tokenizer.eos_token_id)

    @cached_property
    def _answered(self) -> str:
        answer = {"role": "assistant", "content": [{"type": "text", "text": ANSWER}]}
        return rendered(self.processor, [*QUESTION.messages(), answer])

    @cached_property
    def _anchor_ids(self) -> list[int]:
        return self.text_ids(self._anchor)
