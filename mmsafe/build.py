"""`python -m mmsafe.build`: a multimodal preference set from a text-only one, as in arXiv 2503.14189."""

from __future__ import annotations

import tempfile
from contextlib import nullcontext
from pathlib import Path

from omegaconf import DictConfig

from mmsafe.core.options import OutputPath, options
from mmsafe.curation.build.stage import BuildStage, Site
from mmsafe.models.model_source import ModelSource
from mmsafe.runs.app import launch

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


def run(config: BuildConfig, cfg: DictConfig) -> None:
    """Build the set in `config.out`, from where the last call ended; or show what that would ask."""
    from mmsafe.curation.build.building import alone_in, carry_out
    from mmsafe.curation.build.dry_run import plan
    from mmsafe.curation.build.preference_set import write_set
    from mmsafe.reporting.table import print_tables

    out = config.out
    if config.dry_run:
        with nullcontext(out) if out.exists() else tempfile.TemporaryDirectory() as folder, alone_in(Path(folder)):
            print_tables([plan(config.stages, Site(Path(folder), config.model), f"dry run: {out}")])
        return
    site = Site(out, config.model)
    with alone_in(site.folder):
        write_set(site, carry_out(config.stages, site))


def main() -> None:
    """Entry point."""
    launch("build", BuildConfig, run)


if __name__ == "__main__":
    main()
