"""`python -m mmsafe.demo`: base, DPO and BPO on the micro-world, by the same commands a user types."""

from mmsafe.microworld.demo import DemoConfig, run_demo
from mmsafe.runs.app import entry_point

main = entry_point("demo", DemoConfig, run_demo)
if __name__ == "__main__":
    main()
