"""`python -m mmsafe.compare a=RUN b=RUN`: what changed from one run to another, and whether that could be chance."""

from mmsafe.reporting.compare import CompareConfig, show_comparison
from mmsafe.runs.app import entry_point

main = entry_point("compare", CompareConfig, show_comparison)
if __name__ == "__main__":
    main()
