"""One suite for each port.

Subclass it in a test module and give it the adapter; pytest collects the rest::

    class TestMyLedger(LedgerConformance):
        def open(self, folder, clock):
            return MyLedger(folder, clock)

The suites use plain asserts and pytest's ``tmp_path`` fixture, and import no test framework.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any

import polars as pl

from interlock.errors import Conflict, InterlockError, LeaseHeld, LeaseLost, NotFound, StoreFault
from interlock.ports import Blobs, Ledger, Tables
from interlock.records import Fence, Record, digest, facts_of
from interlock.testing.clock import ManualClock

_GENESIS = "0" * 64


class refuses:  # noqa: N801  reads as a statement
    """Hold that the block raises ``kind``; our own errors must carry a message."""

    def __init__(self, kind: type[Exception]) -> None:
        self._kind = kind

    def __enter__(self) -> None:
        """Begin the block."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """Swallow the error that was asked for."""
        assert kind is not None, f"{self._kind.__name__} was not raised"
        assert not isinstance(error, InterlockError) or error.message
        return isinstance(error, self._kind)


class Note(Record, frozen=True, kw_only=True):
    """A document for the suites."""

    text: str
    number: int = 0


class _BlockError(Exception):
    """Raised inside a block by a test."""


# ---- ledger ------------------------------------------------------------------------------------------------------


class LedgerConformance:
    """What every :class:`interlock.ports.Ledger` must do."""

    def open(self, folder: Path, clock: ManualClock) -> Ledger:
        """Open the ledger under test, empty for a new ``folder`` (override)."""
        raise NotImplementedError

    @contextmanager
    def _ledger(self, folder: Path) -> Iterator[tuple[Ledger, ManualClock]]:
        clock = ManualClock()
        ledger = self.open(folder, clock)
        try:
            yield ledger, clock
        finally:
            ledger.close()

    def test_chain_links_every_event_to_the_one_before(self, tmp_path: Path) -> None:
        """A hash is the digest of all other fields; previous = hash before; genesis = zeros."""
        with self._ledger(tmp_path) as (ledger, clock):
            with ledger.transaction(turn="t1") as t:
                first = t.append("a.b", "x", {"n": 1.5, "text": "é\n", "list": [1, None], "tuple": (1, 2)})
                second = t.append("a.c", "y", {})
            clock.advance(1)
            with ledger.transaction() as t:
                third = t.append("a.b", "x", {"deep": {"a": {"b": True}}})
            assert ledger.events() == [first, second, third]
            assert [event.previous for event in (first, second, third)] == [_GENESIS, first.hash, second.hash]
            for event in ledger.events():
                rest = facts_of(event)
                assert rest.pop("hash") == digest(rest)
            assert (first.turn, second.sequence, third.at) == ("t1", 2, "2026-01-01T00:00:01.000000Z")
            outcome = ledger.verify()
            assert (outcome.events, outcome.head, outcome.broken_at) == (3, third.hash, None)

    def test_an_empty_ledger_verifies(self, tmp_path: Path) -> None:
        """No event: nothing broken."""
        with self._ledger(tmp_path) as (ledger, _):
            assert ledger.verify().broken_at is None
            assert (ledger.verify().events, ledger.verify().head) == (0, _GENESIS)
            assert ledger.events() == []

    def test_a_failed_block_changes_nothing(self, tmp_path: Path) -> None:
        """Events and documents come together or not at all."""
        with self._ledger(tmp_path) as (ledger, _):
            with ledger.transaction() as t:
                t.put("note", "kept", Note(text="old"))
            with refuses(_BlockError), ledger.transaction() as t:
                t.append("a", "x", {})
                t.put("note", "kept", Note(text="new"))
                t.insert("note", "other", Note(text="new"))
                assert t.read("note", "kept", Note) == Note(text="new")
                raise _BlockError
            assert ledger.events() == []
            assert ledger.scan("note", Note) == [("kept", Note(text="old"))]

    def test_insert_is_compare_and_swap(self, tmp_path: Path) -> None:
        """The second insert of a key loses, also within one transaction; put does not mind."""
        with self._ledger(tmp_path) as (ledger, _):
            with ledger.transaction() as t:
                t.insert("release", "1", Note(text="mine"))
                with refuses(Conflict):
                    t.insert("release", "1", Note(text="again"))
            with refuses(Conflict), ledger.transaction() as t:
                t.append("release.made", "1", {})
                t.insert("release", "1", Note(text="theirs"))
            assert ledger.read("release", "1", Note) == Note(text="mine")
            assert ledger.events() == []
            with ledger.transaction() as t:
                t.put("release", "1", Note(text="put"))
            assert ledger.read("release", "1", Note) == Note(text="put")

    def test_reads_and_scans(self, tmp_path: Path) -> None:
        """Text order, prefixes taken literally, limits, both directions; None for what is not there."""
        with self._ledger(tmp_path) as (ledger, _):
            keys = ["a/1", "a/10", "a/2", "a_1", "b", "a%", "ä", "Z"]
            with ledger.transaction() as t:
                for number, key in enumerate(keys):
                    t.put("note", key, Note(text=key, number=number))
                t.put("other", "a/1", {"free": ["form", 1, None]})
            assert ledger.read("note", "absent", Note) is None
            assert ledger.read("other", "a/1", dict) == {"free": ["form", 1, None]}
            assert [key for key, _ in ledger.scan("note", Note)] == sorted(keys)
            assert [key for key, _ in ledger.scan("note", Note, prefix="a/")] == ["a/1", "a/10", "a/2"]
            assert [key for key, _ in ledger.scan("note", Note, prefix="a%")] == ["a%"]
            assert [key for key, _ in ledger.scan("note", Note, prefix="a_")] == ["a_1"]
            newest = ledger.scan("note", Note, prefix="a/", newest_first=True, limit=2)
            assert newest == [("a/2", Note(text="a/2", number=2)), ("a/10", Note(text="a/10", number=1))]
            with refuses(StoreFault):
                ledger.read("other", "a/1", Note)
            with refuses(StoreFault):
                ledger.scan("other", Note)

    def test_events_are_found(self, tmp_path: Path) -> None:
        """By kind, subject, sequence and time, in both directions."""
        with self._ledger(tmp_path) as (ledger, clock):
            start = clock.now()
            for number in range(6):
                with ledger.transaction() as t:
                    t.append(f"kind.{number % 3}", f"subject.{number % 2}", {"n": number})
                clock.advance(10)

            def found(**query: Any) -> list[int]:
                return [event.facts["n"] for event in ledger.events(**query)]

            assert found(kinds=["kind.0"]) == [0, 3]
            assert found(kinds=["kind.0", "kind.2"], newest_first=True) == [5, 3, 2, 0]
            assert found(subject="subject.1") == [1, 3, 5]
            assert found(subject="subject.1", kinds=["kind.0"]) == [3]
            assert found(after=4) == [4, 5]
            assert found(until=start + timedelta(seconds=20)) == [0, 1, 2]
            assert found(newest_first=True, limit=1) == [5]
            assert found(kinds=["none"]) == []

    def test_transactions_do_not_nest(self, tmp_path: Path) -> None:
        """Neither transactions nor leases inside an open one; an ended one refuses writes; the next one works."""
        with self._ledger(tmp_path) as (ledger, _):
            fence = ledger.acquire("turn", ttl_s=60)
            inner: list[Callable[[], object]] = [
                lambda: ledger.transaction().__enter__(),
                lambda: ledger.acquire("other", ttl_s=1),
                lambda: ledger.renew(fence, ttl_s=1),
                lambda: ledger.release(fence),
            ]
            with ledger.transaction() as t:
                for call in inner:
                    with refuses(StoreFault):
                        call()
                t.append("a", "x", {})
            with refuses(StoreFault):
                t.append("late", "x", {})
            with ledger.transaction() as t:
                t.append("b", "x", {})
            assert [event.kind for event in ledger.events()] == ["a", "b"]

    def test_values_that_json_cannot_carry_are_refused(self, tmp_path: Path) -> None:
        """NaN and infinity, in facts and documents."""
        with self._ledger(tmp_path) as (ledger, _):
            for bad in (float("nan"), float("inf")):
                with refuses(StoreFault), ledger.transaction() as t:
                    t.append("a", "x", {"deep": [{"value": bad}]})
                with refuses(StoreFault), ledger.transaction() as t:
                    t.put("a", "x", [bad])
            assert ledger.events() == []

    def test_a_lease_is_held_by_one(self, tmp_path: Path) -> None:
        """Numbers grow; it is free again when given back or run out, and renewing keeps it."""
        with self._ledger(tmp_path) as (ledger, clock):
            first = ledger.acquire("turn", ttl_s=60)
            with refuses(LeaseHeld):
                ledger.acquire("turn", ttl_s=60)
            assert ledger.acquire("another", ttl_s=60).number == 1
            clock.advance(50)
            ledger.renew(first, ttl_s=60)
            clock.advance(50)
            with refuses(LeaseHeld):
                ledger.acquire("turn", ttl_s=60)
            ledger.release(first)
            second = ledger.acquire("turn", ttl_s=60)
            clock.advance(61)
            third = ledger.acquire("turn", ttl_s=60)
            assert [fence.number for fence in (first, second, third)] == [1, 2, 3]
            assert third.name == "turn"
            assert third.holder

    def test_who_was_overtaken_cannot_commit(self, tmp_path: Path) -> None:
        """A paused holder that wakes up too late changes nothing, and its release harms nobody."""
        with self._ledger(tmp_path) as (ledger, clock):
            old = ledger.acquire("turn", ttl_s=10)
            clock.advance(11)
            with ledger.transaction(old) as t:
                t.append("late but alone", "x", {})
            new = ledger.acquire("turn", ttl_s=10)
            with refuses(LeaseLost), ledger.transaction(old) as t:
                t.append("too late", "x", {})
            with refuses(LeaseLost):
                ledger.renew(old, ttl_s=10)
            ledger.release(old)
            with refuses(LeaseHeld):
                ledger.acquire("turn", ttl_s=10)
            with ledger.transaction(new, turn="t2") as t:
                t.append("in time", "x", {})
            assert [event.kind for event in ledger.events()] == ["late but alone", "in time"]
            with refuses(LeaseLost), ledger.transaction(Fence(name="never", number=1, holder="x")):
                pass

    def test_threads_take_turns(self, tmp_path: Path) -> None:
        """Many writers at once: every event is there, and the chain holds."""
        with self._ledger(tmp_path) as (ledger, _):
            failures: list[BaseException] = []

            def write(name: str) -> None:
                try:
                    for number in range(5):
                        with ledger.transaction(turn=name) as t:
                            t.append("thread", name, {"n": number})
                            t.put("count", "all", (t.read("count", "all", int) or 0) + 1)
                except BaseException as error:  # noqa: BLE001  told below, in the thread that asserts
                    failures.append(error)

            threads = [threading.Thread(target=write, args=(str(number),)) for number in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert not failures
            assert ledger.read("count", "all", int) == 20
            assert ledger.verify().events == 20
            assert ledger.verify().broken_at is None


# ---- blobs -------------------------------------------------------------------------------------------------------


class BlobsConformance:
    """What every :class:`interlock.ports.Blobs` must do."""

    def open(self, folder: Path) -> Blobs:
        """Open the store under test, empty for a new ``folder`` (override)."""
        raise NotImplementedError

    def test_put_once(self, tmp_path: Path) -> None:
        """The first writer wins; the bytes stay."""
        blobs = self.open(tmp_path / "blobs")
        assert blobs.put("a/b/c.bin", b"first")
        assert not blobs.put("a/b/c.bin", b"second")
        assert blobs.get("a/b/c.bin") == b"first"
        assert blobs.exists("a/b/c.bin")
        assert not blobs.exists("a/b")
        assert not blobs.exists("a/b/d")

    def test_files_in_and_out(self, tmp_path: Path) -> None:
        """A file of three MiB, an empty one, and local() when there is one."""
        blobs = self.open(tmp_path / "blobs")
        content = bytes(range(256)) * (3 << 12)
        source, target = tmp_path / "source", tmp_path / "deep" / "target"
        source.write_bytes(content)
        assert blobs.put("big", source)
        assert blobs.put("empty", b"")
        blobs.fetch("big", target)
        assert target.read_bytes() == content
        blobs.fetch("empty", target)
        assert target.read_bytes() == b""
        local = blobs.local("big")
        assert local is None or local.read_bytes() == content
        assert blobs.local("absent") is None

    def test_what_is_absent(self, tmp_path: Path) -> None:
        """NotFound to read, nothing to delete, and no half file left behind."""
        blobs = self.open(tmp_path / "blobs")
        blobs.put("here/x", b"x")
        for key in ("absent", "here", "here/x/y", "here/absent"):
            with refuses(NotFound):
                blobs.get(key)
            with refuses(NotFound):
                blobs.fetch(key, tmp_path / "target")
        assert not (tmp_path / "target").exists()
        blobs.delete("absent")
        blobs.delete("here/x")
        blobs.delete("here/x")
        assert not blobs.exists("here/x")
        assert blobs.put("here/x", b"y")

    def test_list_is_in_key_order(self, tmp_path: Path) -> None:
        """By prefix of the text, not of the folder."""
        blobs = self.open(tmp_path / "blobs")
        assert list(blobs.list()) == []
        keys = ["a-b", "a/b", "a/c/d", "ab", "b/a", "a b/ü"]
        for key in keys:
            blobs.put(key, key.encode())
        assert [info.key for info in blobs.list()] == sorted(keys)
        assert [info.key for info in blobs.list("a")] == ["a b/ü", "a-b", "a/b", "a/c/d", "ab"]
        assert [info.key for info in blobs.list("a/")] == ["a/b", "a/c/d"]
        assert [info.key for info in blobs.list("a/c")] == ["a/c/d"]
        assert list(blobs.list("none/such")) == []
        (info,) = blobs.list("b")
        assert info.size_bytes == 3
        assert info.modified.endswith("Z")
        assert info.version == next(iter(blobs.list("b"))).version

    def test_keys_that_could_leave_the_root(self, tmp_path: Path) -> None:
        """No user text becomes a path."""
        blobs = self.open(tmp_path / "blobs")
        for key in (
            "",
            "/",
            "/etc/x",
            "../x",
            "a/../x",
            "a//b",
            "a/",
            ".",
            "a/./b",
            "a\0b",
            "a\nb",
            "a\\b",
            "x" * 2000,
        ):
            for call in (blobs.get, blobs.exists, blobs.delete, blobs.local):
                with refuses(StoreFault):
                    call(key)
            with refuses(StoreFault):
                blobs.put(key, b"x")
        assert list(blobs.list()) == []

    def test_one_of_many_writers_wins(self, tmp_path: Path) -> None:
        """A race for one key."""
        blobs = self.open(tmp_path / "blobs")
        start = threading.Barrier(6)
        wins: list[int] = []

        def write(number: int) -> None:
            start.wait()
            if blobs.put("race/key", f"{number}".encode() * 50_000):
                wins.append(number)

        threads = [threading.Thread(target=write, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(wins) == 1
        assert blobs.get("race/key") == f"{wins[0]}".encode() * 50_000
        assert [info.key for info in blobs.list()] == ["race/key"]


# ---- tables ------------------------------------------------------------------------------------------------------


class TablesConformance:
    """What every :class:`interlock.ports.Tables` must do."""

    def open(self, folder: Path) -> Tables:
        """Open the store under test, empty for a new ``folder`` (override)."""
        raise NotImplementedError

    def test_append_and_read_back(self, tmp_path: Path) -> None:
        """Versions count up from 0; each stays readable; facts come back."""
        tables = self.open(tmp_path)
        rows = pl.DataFrame({"id": [1, 2], "name": ["a", None], "day": ["2026-01-01", None]}).with_columns(
            pl.col("day").str.to_date(), at=pl.lit("2026-01-01 10:00").str.to_datetime("%Y-%m-%d %H:%M")
        )
        assert tables.version("sources/x") is None
        first = tables.append("sources/x", rows, commit_key="k1", facts={"rows": 2, "deep": {"a": [1.5]}})
        second = tables.append("sources/x", rows.head(1), commit_key="k2", facts={})
        assert (first.version, first.facts) == (0, {"rows": 2, "deep": {"a": [1.5]}})
        assert tables.version("sources/x") == second.version
        assert tables.scan("sources/x").collect().equals(pl.concat([rows, rows.head(1)]))
        assert tables.scan("sources/x", first.version).collect().equals(rows)
        assert pl.read_parquet(tables.paths("sources/x")).sort("id")["id"].to_list() == [1, 1, 2]

    def test_a_key_is_committed_once(self, tmp_path: Path) -> None:
        """A retry after an unknown outcome gives the first commit back."""
        tables = self.open(tmp_path)
        rows = pl.DataFrame({"id": [1]})
        assert tables.committed("t", "k") is None
        first = tables.append("t", rows, commit_key="k", facts={"try": 1})
        tables.append("t", rows, commit_key="l", facts={})
        again = tables.append("t", rows, commit_key="k", facts={"try": 2})
        assert again == first == tables.committed("t", "k")
        replaced = tables.replace("t", tables.scan("t"), commit_key="r", facts={"a": 1})
        assert tables.replace("t", rows.lazy().head(0), commit_key="r", facts={}) == replaced
        assert tables.scan("t").collect().height == 2
        assert tables.committed("t", "absent") is None
        assert tables.committed("absent", "k") is None

    def test_no_rows(self, tmp_path: Path) -> None:
        """An empty frame makes the table and its columns, and is a commit like any other."""
        tables = self.open(tmp_path)
        empty = pl.DataFrame(schema={"id": pl.Int64, "x": pl.Float64})
        tables.append("t", empty, commit_key="a", facts={})
        assert tables.scan("t").collect().schema == empty.schema
        assert tables.paths("t") == []
        tables.append("t", pl.DataFrame({"id": [1], "x": [0.5]}), commit_key="b", facts={})
        last = tables.append("t", empty, commit_key="c", facts={"n": 0})
        assert tables.committed("t", "c") == last
        assert tables.scan("t").collect().rows() == [(1, 0.5)]
        tables.replace("t", empty.lazy(), commit_key="d", facts={})
        assert tables.scan("t").collect().height == 0

    def test_columns_may_come_later(self, tmp_path: Path) -> None:
        """New columns are empty in old rows, missing ones in new rows, and old versions look as they did."""
        tables = self.open(tmp_path)
        old = tables.append("t", pl.DataFrame({"a": [1]}), commit_key="1", facts={})
        tables.append("t", pl.DataFrame({"a": [2], "b": ["x"]}), commit_key="2", facts={})
        tables.append("t", pl.DataFrame({"a": [3]}), commit_key="3", facts={})
        assert sorted(tables.scan("t").collect().rows()) == [(1, None), (2, "x"), (3, None)]
        assert tables.scan("t", old.version).collect().columns == ["a"]

    def test_types_change_by_replace_only(self, tmp_path: Path) -> None:
        """An append of another type is refused whole; replace widens, and keeps the old version."""
        tables = self.open(tmp_path)
        old = tables.append("t", pl.DataFrame({"a": [1]}), commit_key="1", facts={})
        with refuses(StoreFault):
            tables.append("t", pl.DataFrame({"a": ["x"]}), commit_key="2", facts={})
        assert tables.version("t") == old.version
        wide = tables.scan("t").with_columns(pl.col("a").cast(pl.String), at=pl.lit(None, pl.Datetime("us")))
        tables.replace("t", wide, commit_key="3", facts={})
        tables.append("t", pl.DataFrame({"a": ["x"]}), commit_key="4", facts={})
        assert sorted(tables.scan("t").collect()["a"]) == ["1", "x"]
        assert tables.scan("t", old.version).collect().schema == {"a": pl.Int64}

    def test_what_is_absent(self, tmp_path: Path) -> None:
        """NotFound for tables and versions."""
        tables = self.open(tmp_path)
        with refuses(NotFound):
            tables.scan("absent")
        tables.append("t", pl.DataFrame({"a": [1]}), commit_key="1", facts={})
        for version in (99, -1):
            with refuses(NotFound):
                tables.paths("t", version)

    def test_names(self, tmp_path: Path) -> None:
        """No user text becomes a path."""
        tables = self.open(tmp_path)
        for name in ("", "/a", "../a", "a/..", "a//b", "a b", ".a", "_delta_log", "a\n", "x" * 65, "a/b/c/d/e"):
            with refuses(StoreFault):
                tables.append(name, pl.DataFrame({"a": [1]}), commit_key="1", facts={})
            with refuses(StoreFault):
                tables.version(name)

    def test_upkeep_changes_no_row(self, tmp_path: Path) -> None:
        """After many small commits and maintenance: same rows, same old versions, same keys."""
        tables = self.open(tmp_path)
        for number in range(70):
            tables.append("t", pl.DataFrame({"a": [number]}), commit_key=f"k{number}", facts={"n": number})
        tables.maintain("t")
        tables.maintain("t")
        assert sorted(tables.scan("t").collect()["a"]) == list(range(70))
        assert tables.scan("t", 9).collect().height == 10
        commit = tables.committed("t", "k42")
        assert commit is not None
        assert (commit.version, commit.facts) == (42, {"n": 42})
        assert tables.append("t", pl.DataFrame({"a": [0]}), commit_key="k42", facts={}) == commit
        tables.append("t", pl.DataFrame({"a": [70]}), commit_key="k70", facts={})
        assert tables.scan("t").collect().height == 71
        tables.maintain("absent")
