"""Imports what a training run does, for processes that are forked with all of it."""

from importlib import import_module

for name in (
    "hydra",
    "mmsafe.microworld.reader",
    "mmsafe.microworld.scene_benchmark",
    "mmsafe.microworld.tiny_build",
    "mmsafe.experiment.train_job",
    "mmsafe.train",
    "transformers.models.clip.modeling_clip",
    "transformers.models.llama.modeling_llama",
    "transformers.models.llava.modeling_llava",
):
    import_module(name)
