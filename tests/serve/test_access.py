"""A line for each request, and nothing of its record."""

import asyncio
import json

from interlock.serve.access import AccessLog
from interlock.serve.keys import Keyring, new_key
from serve.conftest import house_of

RECORD = {"x": 1.0, "n": 3, "colour": "red"}


def talk(project, log):
    text, key = new_key("shop", ("predict",))
    house = house_of(project, Keyring((key,)), on_served=log.saw)
    shown = ((b"authorization", b"Bearer " + text.encode()),)
    for path, body, headers in [
        ("/predict", RECORD, shown), ("/predict", {"x": "secret"}, shown), ("/predict", RECORD, ()), ("/etc", {}, shown)
    ]:  # fmt: skip
        asyncio.run(house.ask(path, json.dumps(body).encode(), headers=headers))
    log.close()
    return house


def check(raw, house):
    assert "colour" not in raw
    assert "secret" not in raw
    lines = [json.loads(line) for line in raw.splitlines()]
    assert [(each["route"], each["status"], each["tier"], each["key"]) for each in lines] == [
        ("/predict", 200, "champion", "shop"),
        ("/predict", 422, None, "shop"),
        ("/predict", 401, None, ""),
        ("other", 404, None, "shop"),
    ]
    assert [each["id"] for each in lines] == [served.name.decode() for served in house.served]
    assert [each["at"] for each in lines] == ["2026-01-01T00:00:00.000+00:00"] * 4
    assert all(0 <= each["ms"] < 5_000 for each in lines)
    assert all(list(each) == ["at", "id", "route", "status", "tier", "ms", "key"] for each in lines)


def test_it_is_written_to_a_file_that_may_be_moved_away(project, tmp_path):
    path = tmp_path / "access.jsonl"
    path.write_text('{"id": "older"}\n')
    log = AccessLog(path, project.clock, print)
    house = talk(project, log)
    older, _, raw = path.read_text().partition("\n")
    assert older == '{"id": "older"}'
    check(raw, house)
    path.rename(tmp_path / "old.jsonl")
    house = talk(project, AccessLog(path, project.clock, print))
    check(path.read_text(), house)


def test_it_is_written_to_stderr(project, capfdbinary):
    house = talk(project, AccessLog(None, project.clock, print))
    check(capfdbinary.readouterr().err.decode(), house)


def test_a_disk_that_refuses_is_told_and_ends_nothing(project, tmp_path):
    said = []
    log = AccessLog(tmp_path / "no" / "such.jsonl", project.clock, said.append)
    house = talk(project, log)
    assert [served.status for served in house.served] == [200, 422, 401, 404]
    assert said == ["the access log cannot be delivered, and answers go on without: FileNotFoundError"]
    assert log.lost == 4
