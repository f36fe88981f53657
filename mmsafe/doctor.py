"""`python -m mmsafe.doctor [overrides of mmsafe.train]`: what is installed, and whether such a run would fit."""

import sys

from mmsafe.estimate.machine import DoctorConfig
from mmsafe.runs.app import entry_point
from mmsafe.runs.run_context import RunContext


def job(config: DoctorConfig, run: RunContext) -> None:
    """Print everything; ends the process with status 1 if the run does not fit."""
    from mmsafe.estimate.diagnosis import diagnose

    if not diagnose(config, run):
        sys.exit(1)


main = entry_point("doctor", DoctorConfig, job)
if __name__ == "__main__":
    main()
