"""The engine of one machine: a thread for each job that runs, which waits for a process of its own.

The engine knows neither the process nor what runs in it: it is given the one function that calls it, which ``loop.py``
takes from the runner. What a job leaves behind is that function's affair.
"""

import queue
import threading
from collections.abc import Callable, Generator, Iterable

from interlock.errors import Fault, InterlockError, bounded
from interlock.ports import Job, JobResult

Call = Callable[[str, Job, threading.Event], object]
"""Runs the job's function in a process and gives its value; ends early, with an error, when the event is set."""


class LocalEngine:
    """Implements :class:`interlock.ports.Engine`: at most ``width`` jobs at once, each by one blocking ``call``."""

    def __init__(self, call: Call, width: int = 1) -> None:
        self._call = call
        self._width = width

    @property
    def width(self) -> int:
        """How many jobs run at once."""
        return self._width

    def map(self, function: str, jobs: Iterable[Job]) -> Generator[JobResult, None, None]:
        """Call ``function`` once for each job; see :class:`interlock.ports.Engine`."""
        waiting = iter(jobs)
        ended: queue.SimpleQueue[JobResult] = queue.SimpleQueue()
        stop = threading.Event()
        running: dict[str, threading.Thread] = {}
        try:
            while True:
                for job in waiting:
                    running[job.key] = self._start(function, job, ended, stop)
                    if len(running) >= self._width:
                        break
                if not running:
                    return
                result = ended.get()
                running.pop(result.key).join()
                yield result
        finally:
            stop.set()
            for thread in running.values():
                thread.join()

    def _start(
        self, function: str, job: Job, ended: "queue.SimpleQueue[JobResult]", stop: threading.Event
    ) -> threading.Thread:
        def work() -> None:
            try:
                result = JobResult(job.key, value=self._call(function, job, stop))
            except InterlockError as error:
                result = JobResult(job.key, error=error)
            except Exception as error:  # noqa: BLE001 - a fault of ours in one job must not end the others
                told = f"{type(error).__name__} inside Interlock: {bounded(str(error), 200)}"
                result = JobResult(job.key, error=Fault(told, next_step="Please report it."))
            ended.put(result)

        thread = threading.Thread(target=work, name=f"interlock-job-{job.key}", daemon=True)
        thread.start()
        return thread
