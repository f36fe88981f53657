"""A judge that takes its time, notes every case that it is asked about, and says what the response tells it to say."""

import os
import time
from collections.abc import Iterator, Sequence

from mmsafe.core.options import options
from mmsafe.evaluation.judges.judge import Case, Judge, Verdict, unknown


@options
class SlowJudge(Judge):
    """`calls`: file in which every case leaves its response, as a line."""

    name = "slow"
    together = 2
    idle = frozenset({"max_unknown", "calls", "seconds"})
    calls: str
    seconds: float = 0.0
    version: int = 1

    def verdicts(self, cases: Sequence[Case]) -> Iterator[tuple[int, Verdict]]:
        """In their order; a response that names an error is one, a response that is odd is unknown."""
        for position, case in enumerate(cases):
            with open(self.calls, "a") as file:
                os.write(file.fileno(), f"{case.response}\n".encode())
            time.sleep(self.seconds)
            if "error" in case.response:
                yield position, unknown(error="no connection")
            elif "odd" in case.response:
                yield position, unknown("?")
            else:
                yield position, Verdict(unsafe="bad" in case.response, refused=False, category="c", reply="said")


@options
class SlowOnDevices(SlowJudge):
    """Every process of a run is one of it."""

    on_devices = True
