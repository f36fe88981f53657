"""The options of `mmsafe.report`."""

from __future__ import annotations

from typing import ClassVar

from mmsafe.core.options import OutputPath, RunPaths, options


@options
class ReportConfig:
    """`conf/report.yaml`, typed."""

    runs: RunPaths
    out: OutputPath | None
    against: str | None
    runs_here: ClassVar[bool] = False
    old_spelling: ClassVar[dict[str, str]] = {"": "runs=[{}]", "--out": "out={}", "--against": "against={}"}
