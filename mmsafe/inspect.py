"""`python -m mmsafe.inspect data=…`: what is in a data set, and what is wrong with it."""

import sys

from mmsafe.curation.inspection.inspect_config import InspectConfig
from mmsafe.runs.app import entry_point
from mmsafe.runs.run_context import RunContext


def job(config: InspectConfig, run: RunContext) -> None:
    """Write statistics, rows and a page; ends the process with status 1 if rows have a flag of `fail_on`."""
    from mmsafe.curation.inspection.inspecting import inspect

    if failed := inspect(config, run):
        print(f"mmsafe.inspect: fail_on: {failed}", file=sys.stderr)
        sys.exit(1)


main = entry_point("inspect", InspectConfig, job)
if __name__ == "__main__":
    main()
