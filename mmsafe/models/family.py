"""What model families do each their own way; the rest of the code asks a `Family` and never looks at a model's name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any, ClassVar, NamedTuple

import torch
from PIL.Image import Image
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from mmsafe.core.errors import UserError
from mmsafe.models.checkpoints import CheckpointError
from mmsafe.models.parts import Parts
from mmsafe.models.processors import read_processor

Sizes = Sequence[tuple[int, int]]
Mask = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""Whether a token may look at another: line, head, query, key, indices that broadcast (FlexAttention's `mask_mod`)."""


class ImageInputs(NamedTuple):
    """One image as a family's processor makes it."""

    text: str
    """What stands for the image in the prompt: placeholder tokens and the tokens around them."""
    tensors: Mapping[str, Tensor]
    """What the vision tower reads; `pixel_values` are `[tiles, ...]`, and images follow each other along that axis."""
    size: tuple[int, int] = (0, 0)
    """Height and width in pixels, where the connector wants to know them."""


@dataclass(frozen=True)
class ImageBatch:
    """Several images as the vision tower reads them: together, one after the other."""

    tensors: Mapping[str, Tensor]
    tiles: tuple[int, ...]
    """Rows of `pixel_values` of each image."""

    @classmethod
    def of(cls, images: Sequence[ImageInputs]) -> ImageBatch:
        """The images in this order."""
        tensors = {name: torch.cat([image.tensors[name] for image in images]) for name in images[0].tensors}
        return cls(tensors, tuple(len(image.tensors["pixel_values"]) for image in images))


class Features(NamedTuple):
    """What vision tower and connector made of one image, in the width of the language model: `[tokens, width]` each."""

    tokens: Tensor
    deepstack: tuple[Tensor, ...] = ()
    """Added to the hidden states after the first layers, one to a layer (Qwen3-VL)."""


class Family(ABC):
    """Base of the families: what is the same in most of them."""

    model_types: ClassVar[tuple[str, ...]]
    """`model_type` in `config.json` of the checkpoints that it serves."""
    processors: ClassVar[tuple[str, ...]]
    """Class names of the processors of its checkpoints."""
    one_size: ClassVar[bool] = False
    """Whether all images are as many tokens, whatever their size."""
    largest: ClassVar[int] = 4096
    """No image of its checkpoints is larger: pixels of a side, or what else its image processor counts."""
    parts: ClassVar[Parts] = Parts(vision=("model.vision_tower",), connector=("model.multi_modal_projector",))
    tower_parts: ClassVar[tuple[str, ...]] = ("vision",)
    """The parts that `tower` runs: what it makes of an image may be kept while they are frozen."""
    token_types: ClassVar[str | None] = None
    """The input that tells image tokens (1) from words (0), where a model wants one."""
    one_tensor: ClassVar[bool] = False
    """Whether the model wants the features of all images as one tensor, and not as a list."""
    one_mask: ClassVar[bool] = False
    """Whether its `get_placeholder_mask` is about images alone, and not about videos, too."""

    @property
    def name(self) -> str:
        """The name of its module, which is its first `model_type`."""
        return self.model_types[0]

    @abstractmethod
    def tiny(self) -> tuple[Any, Any]:
        """Config and processor of a model of a few thousand weights: for `model=random` and the tests."""

    def processor(self, folder: Path, config: Any, tokenizer: Any) -> Any:
        """The processor of the checkpoint in `folder`, with PIL for images."""
        return read_processor(folder, config.model_type, tokenizer, self.largest)

    def square(self, images: Any, aspect: str | None) -> None:
        """Have the image processor follow `model.image_aspect_ratio`, which only LLaVA-1.5 can."""
        if aspect == "crop":
            raise CheckpointError("makes images its own way; model.image_aspect_ratio=crop is for LLaVA-1.5")

    def image_options(self, processor: Any) -> list[Any]:
        """What decides, beside the image processor, what an image is in a prompt: a part of cache keys."""
        return [{k: v for k, v in processor.to_dict().items() if k not in ("image_processor", "video_processor")}]

    def image_inputs(self, processor: Any, images: Sequence[Image]) -> list[ImageInputs]:
        """Each image of one prompt; how many there are may decide how finely each is cut."""
        options = getattr(processor, "images_kwargs", {})  # of its class, before those of its image processor
        made = [processor.image_processor(images=[image], return_tensors="pt", **options) for image in images]
        return [
            ImageInputs(processor.replace_image_token(one, 0), self.tensors(one), image.size[::-1])
            for one, image in zip(made, images, strict=True)
        ]

    def tensors(self, made: Mapping[str, Any]) -> dict[str, Tensor]:
        """What the tower reads of the image processor's tensors for one image."""
        return {"pixel_values": made["pixel_values"]}

    def forward_inputs(self, rows: Sequence[Sequence[ImageInputs]]) -> dict[str, Tensor]:
        """The images of each prompt as the model's own `forward` and `generate` take them; empty without images."""
        images = [image.tensors for row in rows for image in row]
        return {name: torch.cat([image[name] for image in images]) for name in images[0]} if images else {}

    def together(self, count: int) -> bool:
        """Whether an image is read in another way because its prompt has `count` of them."""
        return False

    def image_token(self, processor: Any) -> int:
        """Id of the placeholder that a feature takes the place of."""
        return int(processor.image_token_id)

    def placeholder(self, config: Any) -> int:
        """Id of the placeholder, by the model's config."""
        return int(config.image_token_id)

    def token_kinds(self, ids: Tensor, config: Any) -> dict[str, Tensor]:
        """The input that tells placeholders from words, where the model wants one."""
        return {self.token_types: (ids == self.placeholder(config)).long()} if self.token_types else {}

    def towers(self, model: Any) -> list[torch.nn.Module]:
        """The modules that `tower` runs."""
        return [model.get_submodule(name) for part in self.tower_parts for name in getattr(self.parts, part)]

    def attention(self, model: Any) -> str:
        """Name of the attention implementation of the language model."""
        return str(self.parts.language_model(model).config._attn_implementation)

    @abstractmethod
    def tower(self, model: Any, images: ImageBatch) -> list[Tensor]:
        """What `tower_parts` make of each image: the same whatever images are beside it, so it can be kept."""

    @abstractmethod
    def connect(self, model: Any, seen: Sequence[Tensor], sizes: Sizes) -> list[Features]:
        """What the rest, up to the language model, makes of the images that the tower saw."""

    def encoder_outputs(self, shown: Sequence[Features]) -> dict[str, Any] | None:
        """Features in the order of the placeholders as the model takes them in place of pixels, or None."""
        if not shown:
            return None
        tokens = [features.tokens for features in shown]
        pooled: Any = torch.cat(tokens)[None] if self.one_tensor else tokens
        output = BaseModelOutputWithPooling(pooler_output=pooled)
        output.deepstack_features = [list(level) for level in zip(*(image.deepstack for image in shown), strict=True)]
        return {"image": output}

    @contextmanager
    def uncounted(self, model: Any) -> Iterator[None]:
        """For a forward pass that is trained: placeholders are not counted, for which the model waits for the device.

        What is wrong with their number is found in passes without gradient, as those of the reference.
        """
        if not (self.one_mask and torch.is_grad_enabled()):
            yield
            return
        token = self.placeholder(model.config)
        model.model.get_placeholder_mask = lambda input_ids, **_: (input_ids == token)[..., None]
        try:
            yield
        finally:
            del model.model.get_placeholder_mask

    def positions(self, ids: Sequence[int], image_token: int, images: Sequence[ImageInputs]) -> list[list[int]]:
        """Positions of a prompt on each axis; a response goes on from the largest of them on all axes."""
        return [list(range(len(ids)))]

    def masks(self, model: Any, allowed: Mask, order: Tensor, ids: Tensor) -> dict[str, Mask]:
        """A mask for each kind of attention in the layers of the language model, from that of who may look at whom.

        `order` and `ids` are `[lines, time]`; `order` is the number of a token in its own sequence. So a window that
        slides has responses behind each other in a line as near to their prompt as if they stood alone.
        """
        kinds, window = _kinds(model), _window(model.config.get_text_config())

        def near(line: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return allowed(line, head, query, key) & (order[line, query] - order[line, key] < window)

        table = {"full_attention": allowed, "sliding_attention": near}
        return {kind: table[kind] for kind in sorted(kinds)}


def position_ids(lines: Sequence[Sequence[list[int]]], table: Callable[[list[list[int]]], Tensor]) -> Tensor:
    """Positions of lines on each axis as models take them; `table` fills the lines of an axis up.

    `[lines, time]`, or `[axes, lines, time]` where there are several axes.
    """
    axes = [table(list(axis)) for axis in zip(*lines, strict=True)]
    return torch.stack(axes) if len(axes) > 1 else axes[0]


@cache
def family_of(name: str) -> Family:
    """The family of this `model_type`, or of a processor of this class; raises `UserError` that lists what is known."""
    for family in families():
        if name in family.model_types or name in family.processors:
            return family
    known = ", ".join(sorted(kind for family in families() for kind in family.model_types))
    raise UserError(f"model_type {name}: no family of it is known; known are {known}")


@cache
def families() -> tuple[Family, ...]:
    """One of each file in `mmsafe/models/families/`."""
    package = import_module("mmsafe.models.families")
    modules = [import_module(f"{package.__name__}.{entry.name}") for entry in iter_modules(package.__path__)]
    return tuple(
        kind()
        for module in modules
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, Family) and kind.__module__ == module.__name__
    )


def _kinds(model: Any) -> set[str]:
    """Kinds of attention in the language model's layers; raises `UserError` for one that no mask is known of."""
    text = model.config.get_text_config()
    kinds = set(getattr(text, "layer_types", None) or ["sliding_attention" if _window(text) else "full_attention"])
    if not kinds <= {"full_attention", "sliding_attention"}:
        raise UserError(f"scoring=shared_prefix: layers of {', '.join(sorted(kinds))}; choose scoring=padded")
    return kinds


def _window(text: Any) -> int:
    sliding = getattr(text, "use_sliding_window", True)
    return int(getattr(text, "sliding_window", None) or 0) if sliding else 0
