"""The conformance suite of engines: what every :class:`interlock.ports.Engine` must do.

Subclass it in a test module and give it the adapter; the functions below are what the jobs call::

    class TestMyEngine(EngineConformance):
        @contextmanager
        def engine(self, folder, width):
            yield MyEngine(width)
"""

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from interlock.errors import DataRefused
from interlock.ports import Engine, Job

_HERE = "interlock.testing.engine"
_DEADLINE_S = 30.0
_PATIENCE_S = 20.0


def double(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Give twice the number; ``None`` is refused, in words of ours."""
    number = arguments["number"]
    if number is None:
        raise DataRefused("There is no number.", next_step="Give one.")
    return {"twice": 2 * number}


def meet(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Wait until so many jobs have come to one folder: only jobs that run at once can meet."""
    folder = Path(arguments["folder"])
    (folder / str(arguments["number"])).touch()
    limit = time.monotonic() + _PATIENCE_S
    while len(list(folder.iterdir())) < arguments["count"]:
        if time.monotonic() > limit:
            raise DataRefused("The others did not come.")
        time.sleep(0.005)
    return {"met": True}


def linger(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Say that the job runs, then never end."""
    Path(arguments["file"]).write_text(str(os.getpid()))
    while True:
        time.sleep(0.05)


def crash(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Raise what nobody expects."""
    raise ZeroDivisionError(arguments["number"])


def numbers(*values: int | None) -> Iterator[Job]:
    """Jobs for :func:`double`, named by their place."""
    for place, value in enumerate(values):
        yield Job(key=str(place), arguments={"number": value}, deadline_s=_DEADLINE_S)


class EngineConformance:
    """What every :class:`interlock.ports.Engine` must do. ``parallel`` is False for one that runs a job at a time."""

    parallel = True
    stoppable = True

    def engine(self, folder: Path, width: int) -> AbstractContextManager[Engine]:
        """Open the engine under test (override)."""
        raise NotImplementedError

    def test_every_job_has_one_result(self, tmp_path: Path) -> None:
        """Results carry the keys and values of their jobs, whatever their order."""
        with self.engine(tmp_path, 2) as engine:
            found = {result.key: result.value for result in engine.map(f"{_HERE}:double", numbers(*range(5)))}
        assert found == {str(place): {"twice": 2 * place} for place in range(5)}

    def test_nothing_to_do_is_no_result(self, tmp_path: Path) -> None:
        """No jobs, no results."""
        with self.engine(tmp_path, 1) as engine:
            assert list(engine.map(f"{_HERE}:double", iter(()))) == []

    def test_a_job_that_fails_ends_no_other(self, tmp_path: Path) -> None:
        """An error of ours comes as it was raised; the jobs before and after it have their values."""
        with self.engine(tmp_path, 1) as engine:
            found = list(engine.map(f"{_HERE}:double", numbers(1, None, 3)))
        assert [result.value for result in found] == [{"twice": 2}, None, {"twice": 6}]
        error = found[1].error
        assert isinstance(error, DataRefused)
        assert error.message == "There is no number."
        assert found[0].error is None

    def test_a_job_that_crashes_is_an_error_of_ours(self, tmp_path: Path) -> None:
        """Whatever the function raises becomes an :class:`InterlockError` that names it."""
        with self.engine(tmp_path, 1) as engine:
            (found,) = engine.map(f"{_HERE}:crash", numbers(7))
        assert found.error is not None
        assert "ZeroDivisionError" in found.error.message

    def test_the_next_job_may_depend_on_the_results_so_far(self, tmp_path: Path) -> None:
        """With one job at a time, a job is asked for when the result before it has been taken."""
        taken: list[int] = []

        def jobs() -> Iterator[Job]:
            for place in range(4):
                assert len(taken) == place
                yield Job(key=str(place), arguments={"number": sum(taken) + 1}, deadline_s=_DEADLINE_S)

        with self.engine(tmp_path, 1) as engine:
            for result in engine.map(f"{_HERE}:double", jobs()):
                taken += [result.value["twice"]]
        assert taken == [2, 6, 18, 54]

    def test_never_more_jobs_than_the_width_are_begun(self, tmp_path: Path) -> None:
        """The jobs that were asked for and whose results were not taken are at most ``width``."""
        asked = taken = 0

        def jobs() -> Iterator[Job]:
            nonlocal asked
            for job in numbers(*range(9)):
                asked += 1
                assert asked - taken <= engine.width
                yield job

        with self.engine(tmp_path, 3) as engine:
            for _ in engine.map(f"{_HERE}:double", jobs()):
                taken += 1
        assert asked == taken == 9

    def test_as_many_jobs_as_the_width_run_at_once(self, tmp_path: Path) -> None:
        """Two jobs that wait for each other both end."""
        if not self.parallel:
            return
        meeting = tmp_path / "meeting"
        meeting.mkdir()
        jobs = [
            Job(key=str(n), arguments={"folder": str(meeting), "number": n, "count": 2}, deadline_s=_DEADLINE_S)
            for n in range(2)
        ]
        with self.engine(tmp_path, 2) as engine:
            assert [result.value for result in engine.map(f"{_HERE}:meet", jobs)] == [{"met": True}] * 2

    def test_a_job_is_stopped_at_its_deadline(self, tmp_path: Path) -> None:
        """A job that never ends is an error, and the next one has its value."""
        if not self.stoppable:
            return
        with self.engine(tmp_path, 1) as engine:
            job = Job(key="0", arguments={"file": str(tmp_path / "pid")}, deadline_s=0.5)
            (found,) = engine.map(f"{_HERE}:linger", [job])
            assert found.error is not None
            assert [result.value for result in engine.map(f"{_HERE}:double", numbers(1))] == [{"twice": 2}]

    def test_closing_stops_the_jobs_that_run(self, tmp_path: Path) -> None:
        """When closing returns, no process of a job is left."""
        if not (self.stoppable and self.parallel):
            return
        file = tmp_path / "pid"
        jobs = [
            Job(key="slow", arguments={"file": str(file)}, deadline_s=20 * _DEADLINE_S),  # not to be waited for
            Job(key="bad", arguments={"file": str(tmp_path / "no" / "folder")}, deadline_s=_DEADLINE_S),
        ]
        with self.engine(tmp_path, 2) as engine, contextlib.closing(engine.map(f"{_HERE}:linger", jobs)) as results:
            assert next(results).key == "bad"
            limit = time.monotonic() + _PATIENCE_S
            while not (file.exists() and file.read_text()) and time.monotonic() < limit:
                time.sleep(0.005)
            pid = int(file.read_text())
            results.close()
            assert not _lives(pid)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
