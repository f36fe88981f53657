"""The layers of the language model, compiled while it trains."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch._dynamo.exc import BackendCompilerFailed

from mmsafe.core.errors import UserError
from mmsafe.models.family import family_of


@contextmanager
def compiled(model: Any) -> Iterator[None]:
    """For the block, have `torch.compile` run the language model's layers; nothing is compiled before they are called.

    Raises `UserError` where the block ends because this machine has no compiler.
    """
    layers = family_of(model.config.model_type).parts.language_model(model).layers
    for layer in layers:
        layer.compile()  # in place: weights keep their names, and layers that are alike share what was compiled
    try:
        yield
    except BackendCompilerFailed as error:
        why = str(error.inner_exception).splitlines()[0]
        raise UserError(f"model.compile: {why}; set model.compile=false") from error
    finally:
        for layer in layers:
            layer._compiled_call_impl = None  # torch has no other way back; generation has a new shape at every token
