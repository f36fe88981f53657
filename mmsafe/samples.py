"""`python -m mmsafe.samples DIR…`: what evaluated runs were asked and answered, as one HTML page or for other tools."""

from __future__ import annotations

import argparse
from pathlib import Path

from mmsafe.core.config import allow_plugins
from mmsafe.core.endings import told

FORMATS = {"html": "samples.html", "inspect": "inspect", "lm_eval": "lm_eval"}
"""What is written where, unless `--out` says otherwise: a page, or a folder."""


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser("mmsafe.samples", description="Show runs side by side, prompt by prompt.")
    parser.add_argument("folders", nargs="+", type=Path, help="run folders, sweep folders, or any folder above them")
    parser.add_argument(
        "--format",
        choices=FORMATS,
        default="html",
        help="html: a page for a browser; inspect: logs for `inspect view`; lm_eval: samples_*.jsonl (default: html)",
    )
    parser.add_argument("--out", type=Path, help="page or folder to write (default: in the first folder)")
    parser.add_argument(
        "--set",
        dest="changes",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="in place of what the runs recorded, where files have moved: data.path=FILE, benchmark.path=FOLDER, …",
    )
    parser.add_argument(
        "--plugin",
        dest="plugins",
        action="append",
        default=[],
        metavar="PACKAGE",
        help="a package of your own that the runs took classes from; it is imported",
    )
    with told("mmsafe.samples"):
        args = parser.parse_args()
        allow_plugins(args.plugins)
        for path in _write(args):
            print(path)


def _write(args: argparse.Namespace) -> list[Path]:
    """Read, write; returns the files."""
    if args.format == "inspect":
        from mmsafe.reporting.inspect_log import check_installed

        check_installed()
    from mmsafe.reporting.run_samples import read_samples

    runs = read_samples(args.folders, args.changes)
    out = args.out or args.folders[0] / FORMATS[args.format]
    if args.format == "inspect":
        from mmsafe.reporting.inspect_log import write_inspect_logs

        return write_inspect_logs(runs, out)
    if args.format == "lm_eval":
        from mmsafe.reporting.lm_eval_samples import write_lm_eval_samples

        return write_lm_eval_samples(runs, out)
    from mmsafe.reporting.sample_browser import write_page

    return write_page(runs, out)


if __name__ == "__main__":
    main()
