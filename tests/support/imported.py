"""Imports what a training run does, for processes that are forked with all of it."""

from importlib import import_module

for name in (
    "hydra",
    "mmsafe.data.microworld.reader",
    "mmsafe.evaluation.benchmarks.microworld",
    "mmsafe.models.tiny_build",
    "mmsafe.pipeline",
    "mmsafe.train",
    "transformers.models.clip.modeling_clip",
    "transformers.models.llama.modeling_llama",
    "transformers.models.llava.modeling_llava",
):
    import_module(name)
