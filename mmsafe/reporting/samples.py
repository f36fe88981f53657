"""`mmsafe.samples`: its options, and what it does with them."""

from importlib.util import find_spec
from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator

from mmsafe.core.endings import show_results
from mmsafe.core.errors import UserError
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
    if config.format == "inspect" and find_spec("inspect_ai") is None:
        raise UserError("format=inspect: inspect_ai is not installed; run pip install 'mmsafe[inspect]'")
    from mmsafe.reporting import inspect_log, lm_eval_samples, sample_browser
    from mmsafe.reporting.run_samples import read_samples

    out = config.out or config.runs[0] / PLACES[config.format]
    writers = {
        "html": sample_browser.write_page,
        "inspect": inspect_log.write_inspect_logs,
        "lm_eval": lm_eval_samples.write_lm_eval_samples,
    }
    writers[config.format](read_samples(config.runs, config.changes), out)
    show_results(out, *(["inspect view --log-dir {}"] if config.format == "inspect" else []))
