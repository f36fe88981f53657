"""`python -m mmsafe.prepare`: a data set of any reader as one that `datasets` and TRL load as it is."""

from mmsafe.core.endings import show_results
from mmsafe.curation.preparation.prepare_config import PrepareConfig
from mmsafe.runs.app import entry_point
from mmsafe.runs.run_context import RunContext


def job(config: PrepareConfig, run: RunContext) -> None:
    """Write `config.out`, which appears only when it is complete."""
    from mmsafe.curation.preparation.preparing import prepare, requested

    prepare(requested(config, run.cfg), config.out)
    show_results(config.out, "python -m mmsafe.train data=trl data.path={}")


main = entry_point("prepare", PrepareConfig, job)
if __name__ == "__main__":
    main()
