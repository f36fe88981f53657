"""`python -m mmsafe.dashboard`: a workspace and a report in Weights & Biases, built from code."""

from mmsafe.reporting.dashboard import DashboardConfig, make_dashboard
from mmsafe.runs.app import entry_point

main = entry_point("dashboard", DashboardConfig, make_dashboard)
if __name__ == "__main__":
    main()
