"""Where a model comes from: what a file in `conf/model/` configures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from mmsafe.core.options import options
from mmsafe.models.model_options import CheckpointOptions, ModelOptions

if TYPE_CHECKING:
    from mmsafe.models.encoding import Encoder
    from mmsafe.models.vlm import VLM


@options
class ModelSource(ModelOptions, ABC):
    """Base of all models."""

    @abstractmethod
    def load(self) -> VLM:
        """Model and processor, ready to use; raises `UserError` saying what to download where it is missing."""

    def encoder(self) -> Encoder:
        """What turns examples into this model's token ids; models of ours load no weights for it."""
        return self.load().encoder()


@options
class Pretrained(CheckpointOptions, ModelSource):
    """A checkpoint of a family in `mmsafe/models/families/`, a folder or a hub name, told by its `config.json`.

    LLaVA-1.5 may also be in its original format. A folder with a LoRA adapter means its base with the adapter merged.
    """

    def load(self) -> VLM:
        from mmsafe.models.load import load_pretrained

        return load_pretrained(self)

    def encoder(self) -> Encoder:
        """Read tokenizer, image processor and chat template from `path`, and no weights."""
        from mmsafe.models.load import load_encoder

        return load_encoder(self)


PretrainedLlava = Pretrained
"""The name that runs have recorded."""
