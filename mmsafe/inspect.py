"""`python -m mmsafe.inspect data=…`: what is in a data set, and what is wrong with it."""

from mmsafe.curation.inspection.inspecting import InspectConfig, inspect
from mmsafe.runs.app import entry_point

main = entry_point("inspect", InspectConfig, inspect)
if __name__ == "__main__":
    main()
