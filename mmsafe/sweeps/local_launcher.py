"""Jobs as processes of this machine, several at a time, on GPUs that are shared out."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from subprocess import Popen
from types import FrameType

from mmsafe.core.endings import answer, restore
from mmsafe.runs.launch_options import LocalLauncher
from mmsafe.sweeps.job import Job

POLL = 0.2
"""Seconds between two looks at the processes."""


@dataclass
class _Running:
    job: Job
    process: Popen[bytes]
    gpus: list[int | str]
    console_from: int


class LocalJobs:
    """Runs jobs; one that fails or is killed leaves the others alone."""

    def __init__(self, jobs: Sequence[Job], options: LocalLauncher) -> None:
        self.options = options
        self.free = None if options.gpus is None else list(options.gpus)
        for job in jobs:
            job.look(options.retry_failed)
        self.waiting = deque(job for job in jobs if job.state == "waiting")
        self.running: list[_Running] = []
        self.asked = 0

    def run(self, show: Callable[[], None]) -> int:
        """Run what is waiting, calling `show` again and again; returns the signal that stopped it, or 0.

        SIGTERM and SIGINT are passed on to the jobs, which save what they have; no other is started then.
        """
        with self._signals():
            while self.running or (self.waiting and not self.asked):
                self._reap()
                for _ in range(len(self.waiting)):
                    if not self.asked and len(self.running) < self.options.jobs:
                        self._start(self.waiting.popleft())
                show()
                time.sleep(POLL)
        for job in self.waiting:
            job.state = "stopped"
        show()
        return self.asked

    def _start(self, job: Job) -> None:
        gpus = self._gpus(job.devices)
        if gpus is None:
            self.waiting.append(job)
            return
        environment = os.environ | {"HYDRA_FULL_ERROR": "1", "PYTHONUNBUFFERED": "1"}
        if self.free is not None:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, gpus))
        console_from = job.console.stat().st_size if job.console.exists() else 0
        process = job.start(environment)
        if process is None:
            job.state = "elsewhere"
            self.waiting.append(job)
            return
        job.state = "running"
        for gpu in gpus:
            self.free.remove(gpu)  # type: ignore[union-attr]  # there are none to take where it is None
        self.running.append(_Running(job, process, gpus, console_from))

    def _gpus(self, devices: int) -> list[int | str] | None:
        """The first `devices` free ones; None if there are not so many; nothing where none are shared out."""
        if self.free is None:
            return []
        different = list(dict.fromkeys(self.free))
        return different[:devices] if len(different) >= devices else None

    def _reap(self) -> None:
        for one in self.running[:]:
            status = one.process.poll()
            if status is not None:
                self.running.remove(one)
                if self.free is not None:
                    self.free += one.gpus
                one.job.ended(status, one.console_from)
        for job in [job for job in self.waiting if job.state == "elsewhere"]:
            job.look()  # has it finished there?
            if job.state == "waiting":
                job.state = "elsewhere"
            else:
                self.waiting.remove(job)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        before = answer(self._stop)
        try:
            yield
        finally:
            for one in self.running:  # empty, unless something went wrong here
                one.process.terminate()
            restore(before)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.asked = self.asked or number
        for one in self.running:
            one.process.send_signal(number)
