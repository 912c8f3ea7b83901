"""The suite for ledgers."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from interlock.errors import Conflict, LeaseHeld, LeaseLost, StoreFault
from interlock.ports import Ledger, Transaction
from interlock.records import Fence, digest, facts_of
from interlock.testing.clock import ManualClock
from interlock.testing.conformance.statements import BlockError, Note, refuses

_GENESIS = "0" * 64


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
            with refuses(BlockError), ledger.transaction() as t:
                t.append("a", "x", {})
                t.put("note", "kept", Note(text="new"))
                t.insert("note", "other", Note(text="new"))
                assert t.read("note", "kept", Note) == Note(text="new")
                raise BlockError
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

    def test_text_of_any_script_is_kept_and_ordered_by_code_point(self, tmp_path: Path) -> None:
        """Not by a locale: upper case before lower, beyond the basic plane last, and no two spellings are one."""
        with self._ledger(tmp_path) as (ledger, _):
            keys = ["b", "B", "a", "A", "_", "-", "é", "e\u0301", "ß", "ss", "日本", "\U0001f600", "\uffee", " ", "a b"]
            with ledger.transaction() as t:
                for key in keys:
                    t.insert("note", key, Note(text=f"{key}\0\n\\u0000'\"%s%%{{}}"))
                t.append("kind", "日本\U0001f600", {"text": "\0", "\U0001f600": "\ud7ff"})
            found = ledger.scan("note", Note)
            assert [key for key, _ in found] == sorted(keys)
            assert all(note.text.startswith(f"{key}\0\n") for key, note in found)
            assert [key for key, _ in ledger.scan("note", Note, prefix="a")] == ["a", "a b"]
            assert [key for key, _ in ledger.scan("note", Note, newest_first=True)] == sorted(keys, reverse=True)
            (event,) = ledger.events(subject="日本\U0001f600")
            assert event.facts == {"text": "\0", "\U0001f600": "\ud7ff"}
            assert ledger.verify().broken_at is None

    def test_names_that_a_database_cannot_hold_are_refused(self, tmp_path: Path) -> None:
        """NUL and half a surrogate pair, in every name, for writing and for reading; nothing else is lost by it."""
        with self._ledger(tmp_path) as (ledger, _):
            for bad in ("a\0b", "a\udc80"):
                writes: list[Callable[[Transaction], object]] = [
                    lambda t, bad=bad: t.append(bad, "x", {}),  # type: ignore[misc]
                    lambda t, bad=bad: t.append("a", bad, {}),  # type: ignore[misc]
                    lambda t, bad=bad: t.put("note", bad, 1),  # type: ignore[misc]
                    lambda t, bad=bad: t.insert(bad, "x", 1),  # type: ignore[misc]
                    lambda t, bad=bad: t.read("note", bad, int),  # type: ignore[misc]
                ]
                for write in writes:
                    with ledger.transaction() as t:
                        with refuses(StoreFault):
                            write(t)
                        t.append("went on", "x", {})
                with refuses(StoreFault):
                    ledger.acquire(bad, ttl_s=1)
                for read in (
                    lambda bad=bad: ledger.read("note", bad, int),
                    lambda bad=bad: ledger.scan("note", int, prefix=bad),
                    lambda bad=bad: ledger.events(subject=bad),
                    lambda bad=bad: ledger.events(kinds=[bad]),
                ):
                    with refuses(StoreFault):
                        read()
            with refuses(StoreFault), ledger.transaction() as t:
                t.append("a", "x", {"half": "\udc80"})
            assert [event.kind for event in ledger.events()] == ["went on"] * 10

    def test_large_values_are_kept(self, tmp_path: Path) -> None:
        """A receipt may have megabytes."""
        with self._ledger(tmp_path) as (ledger, _):
            long = "wide " * 400_000
            with ledger.transaction() as t:
                t.append("a", "x", {"long": long})
                t.put("note", "long", Note(text=long))
            assert ledger.events()[0].facts == {"long": long}
            assert ledger.read("note", "long", Note) == Note(text=long)

    def test_readers_see_whole_transactions_only(self, tmp_path: Path) -> None:
        """Who reads while another writes sees nothing of it, and does not wait for its end."""
        with self._ledger(tmp_path) as (ledger, _):
            seen: list[int] = []
            with ledger.transaction() as t:
                t.append("a", "x", {})
                reader = threading.Thread(target=lambda: seen.append(len(ledger.events())))
                reader.start()
                reader.join(timeout=30)
            assert seen == [0]
            assert len(ledger.events()) == 1

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
