"""`python -m mmsafe.build`: a multimodal preference set from a text-only one, as in arXiv 2503.14189."""

from mmsafe.curation.build.building import BuildConfig, build
from mmsafe.runs.app import entry_point

main = entry_point("build", BuildConfig, build)
if __name__ == "__main__":
    main()
