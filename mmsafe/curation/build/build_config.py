"""The options of `mmsafe.build`."""

from __future__ import annotations

from mmsafe.core.options import OutputPath, options
from mmsafe.curation.build.stage import BuildStage
from mmsafe.models.model_source import ModelSource

STAGES = ("conversations", "entities", "entity_image", "substitution", "rewording", "quality")
"""In their order; any class of the right kind can take the place of one, by its `_target_`."""


@options
class BuildConfig:
    """`conf/build.yaml`, typed."""

    out: OutputPath
    dry_run: bool
    conversations: BuildStage
    entities: BuildStage
    entity_image: BuildStage
    substitution: BuildStage
    rewording: BuildStage
    quality: BuildStage
    model: ModelSource

    @property
    def stages(self) -> dict[str, BuildStage]:
        """By name, in their order."""
        return {name: getattr(self, name) for name in STAGES}
