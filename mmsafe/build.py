"""`python -m mmsafe.build`: a multimodal preference set from a text-only one, as in arXiv 2503.14189."""

from mmsafe.curation.build.build_config import BuildConfig
from mmsafe.runs.app import entry_point
from mmsafe.runs.run_context import RunContext


def job(config: BuildConfig, run: RunContext) -> None:
    """Build the set in `config.out`, from where the last call ended; or show what that would ask."""
    from mmsafe.curation.build.build_job import build

    build(config)


main = entry_point("build", BuildConfig, job)
if __name__ == "__main__":
    main()
