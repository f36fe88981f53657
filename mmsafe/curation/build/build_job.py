"""What `mmsafe.build` does once its config has been checked."""

from __future__ import annotations

import tempfile
from contextlib import nullcontext
from pathlib import Path

from mmsafe.core.endings import show_results
from mmsafe.curation.build.build_config import BuildConfig
from mmsafe.curation.build.building import alone_in, carry_out
from mmsafe.curation.build.dry_run import plan
from mmsafe.curation.build.preference_set import write_set
from mmsafe.curation.build.stage import Site
from mmsafe.reporting.table import print_tables


def build(config: BuildConfig) -> None:
    """Build the set in `config.out`, from where the last call ended; or show what that would ask."""
    out = config.out
    if config.dry_run:
        with nullcontext(out) if out.exists() else tempfile.TemporaryDirectory() as folder, alone_in(Path(folder)):
            print_tables([plan(config.stages, Site(Path(folder), config.model), f"dry run: {out}")])
        return
    site = Site(out, config.model)
    with alone_in(site.folder):
        write_set(site, carry_out(config.stages, site))
    show_results(out, "python -m mmsafe.inspect data=mmsafe_po data.path={}")
