"""`python -m mmsafe.report runs=DIR`: runs or sweeps in one table, one `results.csv`, one HTML page with figures."""

from mmsafe.reporting.report import ReportConfig, report
from mmsafe.runs.app import entry_point

main = entry_point("report", ReportConfig, report)
if __name__ == "__main__":
    main()
