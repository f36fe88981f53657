"""Reads what a checkpoint turns text and images into inputs by; its half for videos goes along unread."""

from pathlib import Path
from typing import Any

import transformers
from transformers import AutoImageProcessor, ProcessorMixin
from transformers.models.auto.auto_mappings import PROCESSOR_MAPPING_NAMES
from transformers.utils.hub import PushToHubMixin

from mmsafe.models.checkpoints import CheckpointError, read_json
from mmsafe.models.pretrained import TEMPLATE, from_pretrained

CONFIG, TEMPLATE_JSON, VIDEO = "processor_config.json", "chat_template.json", "video_preprocessor_config.json"
SIZES = ("size", "crop_size", "max_image_size", "image_grid_pinpoints")
COUNTS = ("patch_size", "merge_size", "max_patches", "image_seq_len", "image_seq_length", "num_image_tokens")
"""Entries that say how large images become, and in how many parts and tokens."""
MOST = 4096


class UnreadVideo(PushToHubMixin):
    """The video settings of a checkpoint, saved as they were: a processor of them would need torchvision."""

    _auto_class = None

    def __init__(self, settings: dict[str, Any] | None = None) -> None:
        self.settings = settings or {}

    def to_dict(self) -> dict[str, Any]:
        """What `processor_config.json` keeps."""
        return self.settings


def images_only(kind: type) -> type:
    """A processor class that takes `UnreadVideo` for its video processor."""

    def check(self: Any, name: str, value: Any) -> Any:
        return None if isinstance(value, UnreadVideo) else kind.check_argument_for_proper_class(self, name, value)  # type: ignore[attr-defined]

    body = {"check_argument_for_proper_class": check, "apply_chat_template": ProcessorMixin.apply_chat_template}
    return type(kind.__name__, (kind,), {**body, "__module__": kind.__module__})


def read_processor(folder: Path, model_type: str, tokenizer: Any, largest: int) -> Any:
    """The processor of `transformers` for this model, as the files in `folder` set it up, with PIL for its images.

    Raises `CheckpointError` where images would be larger than `largest`, or in more parts than any model sees.
    """
    about, images = _section(folder, CONFIG), from_pretrained(AutoImageProcessor, folder, backend="pil")
    for section in (about, images.to_dict()):
        _check_sizes(section, largest)
    kind: Any = images_only(getattr(transformers, PROCESSOR_MAPPING_NAMES[model_type]))
    parts = [images, tokenizer]
    if "video_processor" in kind.get_attributes():
        parts.append(UnreadVideo(about.get("video_processor") or _section(folder, VIDEO)))
    options = {name: value for name, value in about.items() if name not in ("audio_tokenizer", "chat_template")}
    return kind.from_args_and_dict(parts, options)


def own_template(folder: Path, tokenizer: Any) -> str:
    """The chat template of the checkpoint in `folder`, where `transformers` looks for it; named ones: the default."""
    template = _section(folder, CONFIG).get("chat_template") or _section(folder, TEMPLATE_JSON).get("chat_template")
    if not template and (folder / TEMPLATE).is_file():
        template = (folder / TEMPLATE).read_text(encoding="utf-8")
    template = template or tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    if not isinstance(template, str) or not template:
        raise CheckpointError("has no chat template; set model.chat_template to a Jinja file")
    return template


def _check_sizes(about: dict[str, Any], largest: int) -> None:
    for names, most in ((SIZES, largest), (COUNTS, MOST)):
        sizes = {name: about[name] for name in names if name in about}
        if max(_numbers(sizes), default=0) > most:
            raise CheckpointError(f"its images are scaled to {sizes}, and {most} is the most that makes sense")


def _section(folder: Path, name: str) -> dict[str, Any]:
    return read_json(folder / name) if (folder / name).is_file() else {}


def _numbers(value: Any) -> list[float]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [number for entry in value for number in _numbers(entry)]
    return [value] if isinstance(value, int | float) else []
