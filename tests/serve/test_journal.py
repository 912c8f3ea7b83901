"""Every answer is a record; what is not is counted."""

import asyncio
import io
import json
import zlib

import polars as pl
import pytest

from interlock.errors import SettingsError, StoreFault
from interlock.records import Release
from interlock.serve import journal as module
from interlock.serve.clerk import frame_of
from interlock.serve.door import Door, room_of
from interlock.serve.journal import Journal, check_columns, masked
from interlock.serve.protocols import how_of
from interlock.serve.segment import adopt, blocks
from interlock.serving import Log
from serve.conftest import loader_of, opened_bundle
from serve.test_door import NONSENSE, REFUSES

RECORD = {"x": 1.0, "n": 3, "colour": "red"}


class Rig:
    """A door and its journal, in one loop."""

    def __init__(self, project, folder, log, salt=b""):
        self.folder = folder / "spool"
        self.project, self.log, self.salt = project, log, salt
        self.replies = []

    def room(self):
        release = self.project.parts.ledger.scan("release", Release, newest_first=True, limit=1)[0][1]
        return room_of(loader_of(self.project).load(release, self.project.said.append), most_rows=100)

    def run(self, *asked, meanwhile=None):
        """Ask for each (route, body, how it is read): the rows of the log, and what was lost."""

        async def main():
            self.journal = Journal(self.folder, self.log, self.project.clock, self.salt)
            settled = self.journal.settled if self.log.durable else None
            self.door = Door(self.room(), self.journal.append, settled=settled)
            self.journal.open(asyncio.get_running_loop())
            for route, body, *how in asked:
                sent = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.replies.append(await self.door.reply(route, sent, None, *how))
                if meanwhile is not None:
                    meanwhile(self)
            self.journal.close()
            await asyncio.sleep(0)  # what the writer reported is counted

        asyncio.run(main())
        return frame_of(adopt(self.folder))


QUIET = Log(flush="1h")


def test_an_answer_is_a_row_with_all_that_explains_it(project, tmp_path):
    rig = Rig(project, tmp_path, QUIET)
    rows, lost = rig.run(("/predict", RECORD))
    (row,) = rows.to_dicts()
    (reply,) = rig.replies
    seat = rig.door.room.live.seats[0]
    assert lost == 0
    assert row["id"] == reply.name.decode()
    assert (row["tier"], row["release"], row["model"], row["route"]) == ("champion", 1, seat.model, "/predict")
    assert row["prediction"] == json.loads(reply.body)["prediction"]
    assert sum(row["probabilities"]) == pytest.approx(1.0)
    assert json.loads(row["features"]) == RECORD
    assert row["time"] == project.clock.now()
    assert row["latency_ms"] > 0
    assert rig.journal.tally().kept == 1


def test_the_tally_tells_what_is_on_the_disk_now(project, tmp_path):
    rig = Rig(project, tmp_path, QUIET)
    rig.run(("/predict", RECORD))
    assert rig.journal.tally().spool_bytes > 0
    for path in rig.folder.iterdir():
        path.unlink()  # the clerk has taken it to the lake
    assert rig.journal.tally().spool_bytes == 0


def test_records_of_one_request_share_its_id(project, tmp_path):
    rig = Rig(project, tmp_path, QUIET)
    rows, _ = rig.run(("/batch", {"instances": [RECORD, {**RECORD, "x": -3.0}]}), ("/batch", {"instances": [RECORD]}))
    first, second = (reply.name.decode() for reply in rig.replies)
    assert rows["id"].to_list() == [f"{first}-0", f"{first}-1", second]
    assert rows["prediction"].to_list()[:2] == json.loads(rig.replies[0].body)["predictions"]
    assert [json.loads(each)["x"] for each in rows["features"]] == [1.0, -3.0, 1.0]


def test_records_that_came_as_a_table_are_rows_like_any_other(project, tmp_path):
    rig = Rig(project, tmp_path, QUIET)
    table = io.BytesIO()
    pl.DataFrame([RECORD, {**RECORD, "x": -3.0}]).write_ipc_stream(table)
    how = how_of({b"content-type": b"application/vnd.apache.arrow.stream"})
    rows, lost = rig.run(("/batch", table.getvalue(), how))
    assert lost == 0
    assert rows.height == 2
    assert [json.loads(each) for each in rows["features"]] == [RECORD, {**RECORD, "x": -3.0}]


def test_it_tells_who_answered_each_record(project, tmp_path):
    good = opened_bundle(tmp_path / "good", REFUSES)
    project.release_of(tmp_path, 2, last_good=good, form=NONSENSE)
    rig = Rig(project, tmp_path, QUIET)
    rows, _ = rig.run(("/batch", {"instances": [RECORD, {**RECORD, "colour": "violet"}]}))
    assert rows["tier"].to_list() == ["last-good", "baseline"]
    assert rows["model"].to_list() == [good.bundle.digest, rig.door.room.live.seats[2].model]


def test_what_nobody_answered_is_logged_as_that(project, tmp_path):
    good = opened_bundle(tmp_path / "good", REFUSES)
    project.release_of(tmp_path, 2, last_good=good, form=REFUSES)
    rig = Rig(project, tmp_path, QUIET)
    rows, _ = rig.run(("/predict", {**RECORD, "colour": "violet"}))
    assert rig.replies[0].status == 422
    assert rows.select("tier", "model", "prediction", "value").row(0) == ("abstain", None, None, None)


def test_a_body_that_cannot_be_read_is_no_answer(project, tmp_path):
    rig = Rig(project, tmp_path, QUIET)
    rows, _ = rig.run(("/predict", {"x": "?"}))
    assert (rig.replies[0].status, rows.height) == (422, 0)


def test_another_release_begins_a_block_of_its_own(project, tmp_path):
    def released(rig):
        if rig.door.room.live.generation == 1:
            project.release_of(tmp_path, 2)
            rig.door.room = rig.room()

    rig = Rig(project, tmp_path, QUIET)
    rows, _ = rig.run(("/predict", RECORD), ("/predict", RECORD), meanwhile=released)
    assert rows["release"].to_list() == [1, 2]
    assert rows["model"].n_unique() == 2


# ---- policy ------------------------------------------------------------------------------------------------------


def test_the_sample_is_chosen_by_the_id_and_by_nothing_else(project, tmp_path):
    rig = Rig(project, tmp_path, Log(flush="1h", sample=0.25))
    rows, lost = rig.run(*[("/predict", RECORD)] * 400)
    names = [reply.name.decode() for reply in rig.replies]
    assert rows["id"].to_list() == [name for name in names if zlib.crc32(name.encode()) < 0.25 * 2**32]
    assert (lost, rig.journal.lost) == (0, 0)
    assert 60 < rows.height < 140


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        (Log(keep="none"), None),
        (Log(keep=("n",)), {"n": 3}),
        (Log(keep=("n", "x")), {"x": 1.0, "n": 3}),
        (Log(redact={"colour": "drop"}), {"x": 1.0, "n": 3}),
        (Log(redact={"colour": "hash"}), {**RECORD, "colour": masked("red", b"salt")}),
        (Log(keep=("colour",), redact={"colour": "drop"}), None),
    ],
)
def test_features_are_kept_as_the_policy_says(project, tmp_path, log, expected):
    rig = Rig(project, tmp_path, log, b"salt")
    rows, _ = rig.run(("/predict", RECORD))
    (found,) = rows["features"].to_list()
    assert (None if found is None else json.loads(found)) == expected
    if "colour" in log.redact:
        assert b"red" not in b"".join(blocks(adopt(rig.folder)[0])).replace(b"predict", b"")


def test_a_hash_depends_on_the_salt():
    assert masked("red", b"one") != masked("red", b"two")
    assert masked("red", b"one") == masked("red", b"one")


def test_an_unknown_column_is_refused_at_the_start(project, tmp_path):
    columns = Rig(project, tmp_path, QUIET).room().live.columns
    for log in (Log(keep=("colour", "size")), Log(redact={"size": "drop"})):
        with pytest.raises(SettingsError, match="'size'"):
            check_columns(log, columns)


# ---- loss --------------------------------------------------------------------------------------------------------


def test_what_memory_does_not_hold_is_lost_and_counted_in_the_log(project, tmp_path):
    rig = Rig(project, tmp_path, Log(flush="1h", memory_mb=0.001))
    rows, lost = rig.run(*[("/predict", RECORD)] * 50)
    assert 0 < rows.height < 50
    assert (lost, rig.journal.lost) == (50 - rows.height, 50 - rows.height)
    assert rig.journal.problem == "there is no room in memory"


def test_a_write_that_fails_is_counted_and_told_with_the_next_block(project, tmp_path, monkeypatch):
    real = module.Segment.write
    tries = []

    def fails_once(self, *parts):
        tries.append(1)
        if len(tries) == 1:
            raise OSError(28, "No space left on device")
        real(self, *parts)

    monkeypatch.setattr(module.Segment, "write", fails_once)
    rig = Rig(project, tmp_path, Log(flush="1h", durable=True))
    rows, lost = rig.run(("/predict", RECORD), ("/batch", {"instances": [RECORD, RECORD]}))
    assert [reply.status for reply in rig.replies] == [503, 200]
    assert json.loads(rig.replies[0].body)["error"]["code"] == "NotKept"
    assert (rows.height, lost, rig.journal.lost, rig.journal.kept) == (2, 1, 1, 2)


def test_a_record_that_cannot_be_packed_costs_no_answer(project, tmp_path):
    rig = Rig(project, tmp_path, QUIET)

    def odd(_):
        real = rig.journal._pick
        rig.journal._pick = lambda rows: [(object(),)] if len(rig.replies) == 1 else real(rows)

    rows, lost = rig.run(("/predict", RECORD), ("/predict", RECORD), ("/predict", RECORD), meanwhile=odd)
    assert [reply.status for reply in rig.replies] == [200, 200, 200]
    assert (rows.height, lost) == (2, 1)


# ---- durable -----------------------------------------------------------------------------------------------------


def test_a_durable_answer_is_on_the_disk_when_it_is_given(project, tmp_path):
    found = []

    def look(rig):
        found.append(frame_of([*rig.folder.iterdir()])[0]["id"].to_list())

    rig = Rig(project, tmp_path, Log(flush="1h", durable=True))
    rig.run(*[("/predict", RECORD)] * 3, meanwhile=look)
    names = [reply.name.decode() for reply in rig.replies]
    assert found == [names[:1], names[:2], names]
    assert rig.door.now("/predict", json.dumps(RECORD).encode()) is None


def at_once(rig, asking):
    """What ``asking`` gives, which is handed something that asks for a record, of a door whose journal is durable."""

    async def main():
        journal = Journal(rig.folder, rig.log, rig.project.clock)
        door = Door(rig.room(), journal.append, settled=journal.settled)
        journal.open(asyncio.get_running_loop())
        found = await asking(lambda: door.reply("/predict", json.dumps(RECORD).encode()))
        journal.close()
        return found

    return asyncio.run(main())


def test_requests_of_the_moment_share_a_block(project, tmp_path):
    rig = Rig(project, tmp_path, Log(flush="1h", durable=True))

    async def forty(ask):
        return await asyncio.gather(*(ask() for _ in range(40)))

    replies = at_once(rig, forty)
    assert {reply.status for reply in replies} == {200}
    (path,) = adopt(rig.folder)
    assert len(list(blocks(path))) == 1
    assert sorted(frame_of([path])[0]["id"]) == sorted(reply.name.decode() for reply in replies)


def test_one_that_gives_up_waiting_does_not_take_the_others_along(project, tmp_path):
    rig = Rig(project, tmp_path, Log(flush="1h", durable=True))

    async def two(ask):
        leaves, stays = asyncio.create_task(ask()), asyncio.create_task(ask())
        await asyncio.sleep(0)
        leaves.cancel()
        return await stays

    assert at_once(rig, two).status == 200


def test_records_are_flushed_when_it_is_time(project, tmp_path):
    rig = Rig(project, tmp_path, Log(flush="5ms"))

    async def main():
        journal = Journal(rig.folder, rig.log, project.clock)
        door = Door(rig.room(), journal.append)
        journal.open(asyncio.get_running_loop())
        await door.reply("/predict", json.dumps(RECORD).encode())
        journal._batch.waiting = asyncio.get_running_loop().create_future()
        assert await journal._batch.waiting
        found = frame_of([*rig.folder.iterdir()])[0]
        journal.close()
        return found

    assert asyncio.run(asyncio.wait_for(main(), 30)).height == 1


def test_a_row_of_the_log_is_plain_text_and_numbers(project, tmp_path):
    rows, _ = Rig(project, tmp_path, QUIET).run(("/predict", RECORD))
    rows.write_parquet(tmp_path / "log.parquet")
    share = pl.read_parquet(tmp_path / "log.parquet").select((pl.col("prediction") == "yes").mean()).item()
    assert share in (0.0, 1.0)


def test_no_place_for_the_log_is_told_before_anything_is_served(project, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreFault, match=r"serve\.log\.on = false"):
        Journal(tmp_path / "file" / "spool", QUIET, project.clock)


def test_a_spool_that_nobody_empties_is_bounded(project, tmp_path):
    rig = Rig(project, tmp_path, Log(flush="1h", durable=True, spool_mb=0.0001))
    rows, _ = rig.run(*[("/predict", RECORD)] * 3)
    assert [reply.status for reply in rig.replies] == [200, 503, 503]
    assert (rows.height, rig.journal.lost, rig.journal.problem) == (1, 2, "there is no room on the disk")
    assert rig.replies[1].fixed.pairs == ((b"retry-after", b"1"),)
