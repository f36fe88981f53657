"""Jobs as processes of this machine, several at a time, on GPUs that are shared out."""

import os
import signal
import time
from collections import deque
from collections.abc import Callable, Sequence
from types import FrameType

from mmsafe.core.endings import answer, restore
from mmsafe.runs.launchers import LocalLauncher
from mmsafe.sweeps.job import Job

POLL = 0.2
"""Seconds between two looks at the processes."""


class LocalJobs:
    """Runs jobs; one that fails or is killed leaves the others alone."""

    def __init__(self, jobs: Sequence[Job], options: LocalLauncher) -> None:
        self.options = options
        self.free = None if options.gpus is None else list(options.gpus)
        for job in jobs:
            job.look(options.retry_failed)
        self.waiting = deque(job for job in jobs if job.state == "waiting")
        self.running: list[Job] = []
        self.stopped_by = 0

    def run(self, show: Callable[[], None]) -> int:
        """Run what is waiting, calling `show` again and again; returns the signal that stopped it, or 0.

        SIGTERM and SIGINT are passed on to the jobs, which save what they have; no other is started then.
        """
        before = answer(self._stop)
        try:
            while self.running or (self.waiting and not self.stopped_by):
                self._reap()
                for _ in range(len(self.waiting)):
                    if not self.stopped_by and len(self.running) < self.options.jobs:
                        self._start(self.waiting.popleft())
                show()
                time.sleep(POLL)
        finally:
            self._send(signal.SIGTERM)  # to none, unless something went wrong here
            restore(before)
        for job in self.waiting:
            job.state = "stopped"
        show()
        return self.stopped_by

    def _start(self, job: Job) -> None:
        """Start it if there are GPUs for it and no other process is at work in its folder; else it waits on."""
        environment = os.environ | {"HYDRA_FULL_ERROR": "1", "PYTHONUNBUFFERED": "1"}
        if self.free is not None:
            job.gpus = list(dict.fromkeys(self.free))[: job.devices]
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, job.gpus))
        if self.free is None or len(job.gpus) == job.devices:
            job.start(environment)
        if job.state != "running":
            self.waiting.append(job)
            return
        self.running.append(job)
        for gpu in job.gpus:
            self.free.remove(gpu)  # type: ignore[union-attr]  # there are none to take where it is None

    def _reap(self) -> None:
        for job in self.running[:]:
            assert job.process is not None
            if (status := job.process.poll()) is not None:
                self.running.remove(job)
                if self.free is not None:
                    self.free += job.gpus
                job.ended(status)
        for job in [job for job in self.waiting if job.state == "elsewhere"]:
            job.look()  # has it finished there?
            if job.state == "waiting":
                job.state = "elsewhere"
            else:
                self.waiting.remove(job)

    def _send(self, number: int) -> None:
        for job in self.running:
            assert job.process is not None
            job.process.send_signal(number)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.stopped_by = self.stopped_by or number
        self._send(number)
