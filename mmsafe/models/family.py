"""What model families do each their own way; the rest of the code asks a `Family` and never looks at a model's name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from mmsafe.core.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

TEXT_PART = ("model.language_model", "lm_head")


class ImageInputs(NamedTuple):
    """One image as a family's processor makes it."""

    text: str
    """What stands for the image in the prompt, placeholder tokens and the tokens around them."""
    tensors: Mapping[str, Tensor]
    """All that the processor made of it, as for a batch of this image alone."""


@dataclass(frozen=True)
class Features:
    """What vision tower and connector made of one image, in the width of the language model: `[tokens, width]` each."""

    tokens: Tensor
    deepstack: tuple[Tensor, ...] = ()
    """Added to the hidden states after the first layers, one to a layer (Qwen3-VL)."""

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Features:
        """The same on another device."""
        return Features(self.tokens.to(device, dtype), tuple(level.to(device, dtype) for level in self.deepstack))


@dataclass(frozen=True)
class Parts:
    """Names of the modules and parameters of each part, under the whole model; every weight is in one."""

    vision: tuple[str, ...]
    connector: tuple[str, ...]
    language: tuple[str, ...] = field(default=TEXT_PART)

    def of(self, parameter: str) -> str:
        """`vision`, `connector` or `language`, whichever holds this parameter; the longest name that fits decides.

        Raises `KeyError` for a parameter outside all parts.
        """
        fitting = [
            (len(name), part)
            for part in ("vision", "connector", "language")
            for name in getattr(self, part)
            if parameter == name or parameter.startswith(f"{name}.")
        ]
        if not fitting:
            raise KeyError(parameter)
        return max(fitting)[1]


class Family(ABC):
    """Base of the families: what is the same in most of them."""

    model_types: ClassVar[tuple[str, ...]]
    """`model_type` in `config.json` of the checkpoints that it serves."""
    parts: ClassVar[Parts] = Parts(vision=("model.vision_tower",), connector=("model.multi_modal_projector",))
    token_types: ClassVar[str | None] = None
    """The input that tells image tokens (1) from words (0), where a model wants one."""
    one_tensor: ClassVar[bool] = False
    """Whether the model wants the features of all images as one tensor, and not as a list."""

    @property
    def name(self) -> str:
        """What `model.family` calls it: the name of its module."""
        return type(self).__module__.rpartition(".")[2]

    @abstractmethod
    def tiny(self) -> tuple[Any, Any]:
        """Config and processor of a model of a few thousand weights: for `model=random` and the tests."""

    def image_inputs(self, processor: Any, images: Sequence[Image]) -> list[ImageInputs]:
        """Each image of one prompt; how many there are may decide how finely each is cut."""
        alone = (processor.image_processor(images=[image], return_tensors="pt") for image in images)
        return [ImageInputs(processor.replace_image_token(made, 0), self._tensors(made)) for made in alone]

    def image_batch(self, images: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """The tensors of several images as those of one batch."""
        return {name: torch.cat([image[name] for image in images]) for name in images[0]}

    def image_token(self, processor: Any) -> int:
        """Id of the placeholder that a feature takes the place of."""
        return int(processor.image_token_id)

    def features(self, model: Any, images: Mapping[str, Tensor], counts: Sequence[int]) -> list[Features]:
        """Features of every image of a batch, with gradients where its parts have them; `counts` are their tokens."""
        made = model.model.get_image_features(**images, return_dict=True)
        levels = getattr(made, "deepstack_features", None) or ()
        deepstack = list(zip(*(_flat(level).split(list(counts)) for level in levels), strict=True))
        tokens = _flat(made.pooler_output).split(list(counts))
        return [Features(own, deepstack[i] if deepstack else ()) for i, own in enumerate(tokens)]

    def encoder_outputs(self, shown: Sequence[Features]) -> dict[str, Any] | None:
        """Features in the order of the placeholders, as the model takes them in place of pixels; None without images."""
        if not shown:
            return None
        tokens = [features.tokens for features in shown]
        pooled: Any = torch.cat(tokens)[None] if self.one_tensor else tokens
        output = BaseModelOutputWithPooling(pooler_output=pooled)
        output.deepstack_features = [list(level) for level in zip(*(f.deepstack for f in shown), strict=True)]
        return {"image": output}

    def positions(self, ids: Sequence[int], image_token: int, images: Sequence[Mapping[str, Tensor]]) -> Tensor:
        """Positions of a prompt, `[axes, tokens]`; a response goes on from the largest of them on all axes."""
        return torch.arange(len(ids))[None]

    def masks(self, model: Any, allowed: Tensor, order: Tensor, image_block: Tensor) -> Any:
        """What the language model takes as its attention mask, from a table of who may look at whom.

        `allowed` is `[lines, 1, time, time]`; `order` the number of a token in its own sequence and `image_block` that
        of the image which it stands for (0: none), `[lines, time]` each. So a window that slides has responses behind
        each other in a line as near to their prompt as if they stood alone.
        """
        text = model.config.get_text_config()
        kinds = set(getattr(text, "layer_types", None) or ["sliding_attention" if _window(text) else "full_attention"])
        if not kinds <= {"full_attention", "sliding_attention"}:
            raise UserError(f"scoring=shared_prefix: layers of {', '.join(sorted(kinds))}; choose scoring=padded")
        table = {"full_attention": allowed}
        if "sliding_attention" in kinds:
            near = (order[:, :, None] - order[:, None, :]) < _window(text)
            table["sliding_attention"] = allowed & near[:, None]
        chosen = {kind: table[kind] for kind in sorted(kinds)}
        return chosen if len(chosen) > 1 else next(iter(chosen.values()))

    def _tensors(self, made: Mapping[str, Any]) -> dict[str, Tensor]:
        return {name: value for name, value in made.items() if name in self.kept}

    kept: ClassVar[tuple[str, ...]] = ("pixel_values",)
    """What `get_image_features` reads of the image processor's tensors."""


class Mrope:
    """Positions on three axes (time, height, width), as Qwen2-VL and its successors have them."""

    merge: ClassVar[int] = 2
    """Patches that become one token, along a side."""

    def positions(self, ids: Sequence[int], image_token: int, images: Sequence[Mapping[str, Tensor]]) -> Tensor:
        """As `get_rope_index` of the model, for images: a word steps on all axes, an image spans its grid."""
        grids = iter(images)
        columns: list[Tensor] = []
        start = at = 0
        while at < len(ids):
            if ids[at] != image_token:
                columns.append(torch.full((3, 1), start))
                start, at = start + 1, at + 1
                continue
            time, height, width = (
                next(grids)["image_grid_thw"][0] // torch.tensor([1, self.merge, self.merge])
            ).tolist()
            columns.append(torch.cartesian_prod(*map(torch.arange, (time, height, width))).reshape(-1, 3).T + start)
            start, at = start + max(height, width), at + time * height * width
        return torch.cat(columns, dim=1)


def family_of(model_type: str) -> Family:
    """The family of checkpoints with this `model_type`; raises `UserError` that lists what is known."""
    for family in families():
        if model_type in family.model_types:
            return family
    known = ", ".join(sorted(kind for family in families() for kind in family.model_types))
    raise UserError(f"model_type {model_type}: no family of it is known; known are {known}")


@cache
def families() -> tuple[Family, ...]:
    """One of each file in `mmsafe/models/families/`."""
    return tuple(_found())


def _found() -> Iterator[Family]:
    package = import_module("mmsafe.models.families")
    for entry in iter_modules(package.__path__):
        module = import_module(f"{package.__name__}.{entry.name}")
        for kind in vars(module).values():
            if isinstance(kind, type) and issubclass(kind, Family) and kind.__module__ == module.__name__:
                yield kind()


def images_only(kind: type) -> type:
    """A processor class that is content without its video processor, which needs torchvision."""

    def check(self: Any, name: str, value: Any) -> Any:
        return None if value is None else super(made, self).check_argument_for_proper_class(name, value)

    made = type(kind.__name__, (kind,), {"check_argument_for_proper_class": check, "__module__": kind.__module__})
    return made


def _flat(features: Any) -> Tensor:
    whole = features if isinstance(features, Tensor) else torch.cat(list(features))
    return whole.flatten(0, -2)


def _window(text: Any) -> int:
    sliding = getattr(text, "use_sliding_window", True)
    return int(getattr(text, "sliding_window", None) or 0) if sliding else 0
