"""What answers the prompts of an evaluation: the model in this process, or one behind a chat endpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from mmsafe.core.options import options
from mmsafe.core.settings import Generation
from mmsafe.data.example import Example
from mmsafe.generation.served import ServedGeneration

if TYPE_CHECKING:
    from mmsafe.generation.generate import Response

OWN = ("seed", "batch_size")
"""Options of sampling that follow others, or change nothing."""


@options
class Engine:
    """Base of all engines."""


@options
class LocalEngine(Engine):
    """The model of `checkpoint=` or `model=`, loaded into this process."""


@options
class Served(ServedGeneration, Engine):
    """The model that an OpenAI-compatible engine serves, such as vLLM; in an evaluation it answers greedily."""

    @property
    def sampling(self) -> list[str]:
        """Names of the options of sampling that were chosen otherwise than by default."""
        default = Generation()
        names = (name for name in Generation.__dataclass_fields__ if name not in OWN)
        return [name for name in names if getattr(self, name) != getattr(default, name)]

    def responses(
        self, prompts: Sequence[Example], max_new_tokens: int, label: str, temperature: float = 0.0, seed: int = 0
    ) -> list[Response]:
        """A response to every prompt, greedy unless told otherwise, from the cache or asked for now.

        Raises `UserError` if any prompt got none, after all others were answered and kept.
        """
        from mmsafe.generation.responses import responses

        settings = replace(self, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)
        return responses(None, prompts, settings, label)
