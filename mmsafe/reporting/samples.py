"""`mmsafe.samples`: its options, and what it does with them."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator

from mmsafe.core.endings import show_results
from mmsafe.core.options import OutputPath, RunPaths, as_list, options
from mmsafe.runs.run_context import RunContext

PLACES = {"html": "samples.html", "inspect": "inspect", "lm_eval": "lm_eval"}
"""What is written where in the first folder, unless `out` says otherwise: a page, or a folder."""


@options
class SamplesConfig:
    """`conf/samples.yaml`, typed."""

    runs: RunPaths
    format: Literal["html", "inspect", "lm_eval"]
    out: OutputPath | None
    changes: Annotated[list[str], BeforeValidator(as_list)]
    runs_here: ClassVar[bool] = False
    old_spelling: ClassVar[dict[str, str]] = {
        "": "runs=[{}]",
        "--out": "out={}",
        "--format": "format={}",
        "--set": "changes=[{}]",
        "--plugin": "plugins=[{}]",
    }


def write_samples(config: SamplesConfig, run: RunContext) -> None:
    """Read the runs, write, and say what was written."""
    out = config.out or config.runs[0] / PLACES[config.format]
    if config.format == "inspect":
        from mmsafe.reporting.inspect_log import check_installed

        check_installed()
    from mmsafe.reporting.run_samples import read_samples

    found = read_samples(config.runs, config.changes)
    if config.format == "inspect":
        from mmsafe.reporting.inspect_log import write_inspect_logs

        write_inspect_logs(found, out)
        show_results(out, "inspect view --log-dir {}")
    elif config.format == "lm_eval":
        from mmsafe.reporting.lm_eval_samples import write_lm_eval_samples

        write_lm_eval_samples(found, out)
        show_results(out)
    else:
        from mmsafe.reporting.sample_browser import write_page

        write_page(found, out)
        show_results(out)
