"""What waits in the inbox, and whether its bytes can be trusted to be those that were hashed."""

import os

import pytest
from blake3 import blake3

from answer.kit import Project, rows
from interlock.answer.waiting import SEEN, Desk, Seen, hold_file


def desk(project: Project) -> Desk:
    return Desk(project.parts, project.turn, project.root / "scratch")


def test_a_file_is_named_by_its_bytes(project: Project) -> None:
    path = project.put("a.parquet", rows(3))
    (arrival,) = desk(project).arrivals()
    with desk(project).hold(arrival) as file:
        assert file is not None
        assert file.digest == blake3(path.read_bytes()).hexdigest()
        assert file.path == path.resolve()
        assert file.unchanged()
        rows(4).write_parquet(path)
        assert not file.unchanged()


def test_a_file_that_is_open_for_writing_is_left_alone(project: Project) -> None:
    path = project.put("a.parquet", rows(3))
    (arrival,) = desk(project).arrivals()
    with path.open("ab"), desk(project).hold(arrival) as file:
        assert file is None
    assert "still being written" in project.said[-1]


def test_a_file_that_went_away_is_left_alone(project: Project) -> None:
    path = project.put("a.parquet", rows(3))
    (arrival,) = desk(project).arrivals()
    path.unlink()
    with desk(project).hold(arrival) as file:
        assert file is None
    assert "cannot be read" in project.said[-1]


@pytest.mark.parametrize(("trusted", "known"), [(True, True), (False, False)])
def test_an_unchanged_file_is_known(project: Project, trusted: bool, known: bool) -> None:
    path = project.put("a.parquet", rows(3))
    now_s = project.clock.now().timestamp()
    age_s = 3.0 if trusted else 1.0
    os.utime(path, (now_s - age_s, now_s - age_s))
    (arrival,) = desk(project).arrivals()
    with desk(project).hold(arrival) as file:
        assert file is not None
        assert file.seen == Seen(version=arrival.version, digest=file.digest, trusted=trusted)
        with project.turn.transaction(project.parts.ledger) as t:
            t.put("seen", f"{SEEN}/a.parquet", file.seen)
    assert (desk(project).known_digest(arrival) is not None) == known
    rows(4).write_parquet(path)
    (changed,) = desk(project).arrivals()
    assert desk(project).known_digest(changed) is None


def test_a_single_file(project: Project) -> None:
    path = project.put("a.parquet", rows(3))
    assert hold_file(path).digest == blake3(path.read_bytes()).hexdigest()
