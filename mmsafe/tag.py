"""`python -m mmsafe.tag`: give the examples of a data set that has no categories one each, of a taxonomy."""

from mmsafe.curation.tagging.categorising import TagConfig, tag
from mmsafe.runs.app import entry_point

main = entry_point("tag", TagConfig, tag)
if __name__ == "__main__":
    main()
