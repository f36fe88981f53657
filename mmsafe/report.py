"""`python -m mmsafe.report runs=DIR`: runs or sweeps in one table, one `results.csv`, one HTML page with figures."""

from mmsafe.reporting.report_config import ReportConfig
from mmsafe.runs.app import entry_point
from mmsafe.runs.run_context import RunContext


def job(config: ReportConfig, run: RunContext) -> None:
    """Read the runs, write the folder `config.out`, print the tables."""
    from mmsafe.reporting.report import report

    report(config)


main = entry_point("report", ReportConfig, job)
if __name__ == "__main__":
    main()
