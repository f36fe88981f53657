"""The one door to what `transformers` reads of a checkpoint: no code of it runs, and its faults are one line."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, dynamic_module_utils
from transformers.initialization import no_init_weights
from transformers.modeling_utils import set_zero3_state
from transformers.utils import logging as transformers_logging

from mmsafe.core.errors import UserError
from mmsafe.models.checkpoints import ADAPTER_CONFIG, CheckpointError, WeightFiles, first_few, read_json

log = logging.getLogger(__name__)
dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0  # never asks; not every loader passes `trust_remote_code` on
JSON = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "processor_config.json",
    "preprocessor_config.json",
    "chat_template.json",
    ADAPTER_CONFIG,
)
TEMPLATE = "chat_template.jinja"
LAYERS = 1000
"""More than any model has; each is built before weights are looked at."""
SPARE = 100_000_000
"""Weights that a config may ask for beside one and a half times those in the files, before that is called damaged."""


def from_pretrained(kind: Any, folder: Path | str | None, **options: Any) -> Any:
    """`kind.from_pretrained`, which never runs code that the checkpoint brings along or names."""
    return kind.from_pretrained(folder, trust_remote_code=False, **options)


def new_model(config: Any) -> Any:
    """A model of `config` with random weights."""
    return AutoModelForImageTextToText.from_config(config, trust_remote_code=False)


def load_model(kind: Any, folder: Path, *, allow_pickle: bool | None = None, **options: Any) -> Any:
    """The model in `folder`, which has to hold every weight; `allow_pickle` as for `WeightFiles`.

    `config` and `state_dict` among the `options` stand in for what is in the folder. Raises `CheckpointError` where
    weights are missing or of another shape, or where the config asks for far more than there are.
    """
    state = options.get("state_dict")
    if state is None:
        held = WeightFiles(folder, allow_pickle=allow_pickle).count
    else:
        held = sum(tensor.numel() for tensor in state.values())
    check_size(kind, options.get("config") or from_pretrained(AutoConfig, folder), held)
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # a table of what does not fit
    try:
        model, report = from_pretrained(
            kind,
            folder if state is None else None,
            use_safetensors=None if allow_pickle else True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **options,
        )
    finally:
        transformers_logging.set_verbosity(verbosity)
    if missing := report["missing_keys"]:
        raise CheckpointError(f"{len(missing)} weights are missing, such as {min(missing)}")
    if wrong := sorted(report["mismatched_keys"]):
        name, shape, wanted = wrong[0]
        raise CheckpointError(f"its weight {name} has the shape {tuple(shape)}, config.json asks for {tuple(wanted)}")
    if extra := report["unexpected_keys"]:
        log.warning("%s: %d weights are not of this model and were left out: %s", folder, len(extra), first_few(extra))
    return model


def check_files(folder: Path) -> None:
    """Raise `CheckpointError` naming the file that is damaged, of those with words and numbers in `folder`."""
    for name in JSON:
        if os.path.lexists(folder / name):
            value = read_json(folder / name)
            if name == JSON[0]:
                _check_config(value)
    try:
        (folder / TEMPLATE).read_text(encoding="utf-8")
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{TEMPLATE} is damaged") from error


def check_size(kind: Any, config: Any, held: int) -> None:
    """Raise `CheckpointError` if `config` asks for far more weights than are `held`, before they have any memory."""
    with torch.device("meta"), no_init_weights(), set_zero3_state():  # ZeRO-3 would split what is not there
        auto = hasattr(kind, "from_config")
        model = kind.from_config(config, trust_remote_code=False) if auto else kind(config)
    model.tie_weights()
    wanted = sum(weight.numel() for weight in model.parameters())
    if getattr(config, "quantization_config", None):
        held *= 16  # several to a number
    if wanted > 1.5 * held + SPARE:
        raise CheckpointError(f"config.json asks for {wanted} weights, its files hold {held}; one of them is damaged")


@contextmanager
def in_one_line(option: str) -> Iterator[None]:
    """What is wrong with the checkpoint that `option`, such as `model.path=DIR`, names, as a `UserError`.

    Around loading only: its libraries raise whatever their parsers stumble over, `tokenizers` a plain `Exception`.
    """
    try:
        yield
    except UserError:
        raise
    except CheckpointError as error:
        raise UserError(f"{option}: {error}") from error
    except Exception as error:
        raise UserError(f"{option}: {_reason(error)}") from error


@contextmanager
def about_part(part: str, advice: str = "") -> Iterator[None]:
    """What is wrong with a part of a checkpoint, such as its base, as what is wrong with the checkpoint."""
    try:
        with in_one_line(part):
            yield
    except UserError as error:
        raise CheckpointError(f"{error}{advice}") from error


def _reason(error: Exception) -> str:
    reason = " ".join(str(error).split())
    if "trust_remote_code" in reason:
        return (
            "asks to run code that it brings along (auto_map in its JSON files), which is never done; name one "
            "of a kind that transformers knows"
        )
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return f"does not fit into memory ({reason[:100]})"
    if isinstance(error, OSError | ValueError | ImportError) and reason:
        return reason[:300]
    return f"cannot be read: {type(error).__name__}: {reason[:200]}; copy or download it again"


def _check_config(config: dict[str, Any]) -> None:
    """Raise `CheckpointError` for an absurd number of layers or experts, or code of the hub, in nested configs, too."""
    for key, value in config.items():
        if isinstance(value, dict):
            _check_config(value)
        elif ("layer" in key or "expert" in key) and isinstance(value, int) and value > LAYERS:
            raise CheckpointError(f"config.json is damaged: {key} is more than {LAYERS}")
        elif key.endswith("_implementation") and "/" in str(value):
            raise CheckpointError(f"config.json asks to run code of the hub ({key}), which is never done; delete that")
