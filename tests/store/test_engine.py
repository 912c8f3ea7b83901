import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from interlock.errors import UserCodeFailed
from interlock.model.runner import Runner
from interlock.ports import Engine, Job
from interlock.store.engine import LocalEngine
from interlock.testing.engine import EngineConformance


class TestLocalEngine(EngineConformance):
    @contextmanager
    def engine(self, folder: Path, width: int) -> Iterator[Engine]:
        with Runner(folder, [], folder / "scratch") as runner:
            yield LocalEngine(runner.run_job, width)


def _jobs(count: int) -> list[Job]:
    return [Job(key=str(number), arguments={}, deadline_s=1.0) for number in range(count)]


def test_a_fault_of_ours_in_one_job_is_told_and_ends_no_other() -> None:
    def call(function: str, job: Job, stop: threading.Event) -> object:
        if job.key == "1":
            raise KeyError("lost")
        return function

    results = list(LocalEngine(call).map("m:f", _jobs(3)))
    assert [result.value for result in results] == ["m:f", None, "m:f"]
    assert "KeyError inside Interlock" in results[1].error.message


def test_an_interrupt_stops_what_runs_and_goes_on_upwards() -> None:
    stopped = threading.Event()

    def call(function: str, job: Job, stop: threading.Event) -> object:
        assert stop.wait(20)
        stopped.set()
        raise UserCodeFailed("stopped")

    def jobs() -> Iterator[Job]:
        yield from _jobs(1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(LocalEngine(call, 2).map("m:f", jobs()))
    assert stopped.is_set()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("interlock-job")]
