"""`python -m mmsafe.samples runs=DIR`: what evaluated runs were asked and answered, as a page or for other tools."""

from mmsafe.reporting.samples import SamplesConfig, write_samples
from mmsafe.runs.app import entry_point

main = entry_point("samples", SamplesConfig, write_samples)
if __name__ == "__main__":
    main()
