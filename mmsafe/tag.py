"""`python -m mmsafe.tag`: give the examples of a data set that has no categories one each, of a taxonomy."""

from mmsafe.curation.tagging.tag_config import TagConfig
from mmsafe.runs.app import entry_point
from mmsafe.runs.run_context import RunContext


def job(config: TagConfig, run: RunContext) -> None:
    """Write `categories.jsonl` into the run folder and print how many are of each."""
    from mmsafe.curation.tagging.categorising import tag

    tag(config, run)


main = entry_point("tag", TagConfig, job)
if __name__ == "__main__":
    main()
