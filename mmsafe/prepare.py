"""`python -m mmsafe.prepare`: a data set of any reader as one that `datasets` and TRL load as it is."""

from mmsafe.curation.preparation.preparing import PrepareConfig, run
from mmsafe.runs.app import entry_point

main = entry_point("prepare", PrepareConfig, run)
if __name__ == "__main__":
    main()
