"""New files of an inbox become rows of a table: each file once, each row once, and nothing silently.

For each file, in name order: copied and hashed; known bytes are skipped or told as repeated; read; its columns settled;
bad cells quarantined, and the file refused whole above the share of bad rows; duplicates dropped; the rest appended in
one atomic commit under the file's digest; then the event and the documents in one transaction. A kill anywhere is cured
by running again: a commit that was made is found by its key and only recorded.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

from interlock.data.acceptance import Incoming, Pending, Seen, Work, committed, take
from interlock.data.agreement import held_against
from interlock.data.images import Gathering, Group, Known, by_groups, is_image
from interlock.data.inbox import Arrival, Inbox, Staged, is_table, open_inbox
from interlock.data.layout import Layout, differing_types
from interlock.data.opening import safe_name, shown
from interlock.data.sources import source_of
from interlock.errors import SettingsError, StoreFault
from interlock.ports import Parts, Turn
from interlock.records import FileResult, facts_of, timestamp

_RACY_S = 2.0


def ingest(parts: Parts, turn: Turn, source_name: str) -> list[FileResult]:
    """Take in the new files of one source; one result for each file that something was decided about.

    Raises :class:`SettingsError` when the inbox is not configured or does not exist, and :class:`StoreFault` when rows
    that were accepted earlier are not in the lake any more.
    """
    source = source_of(parts.settings, source_name)
    if not source.inbox:
        raise SettingsError(
            f"Source '{source_name}' has no inbox.", next_step="Set 'inbox' of the source in interlock.toml."
        )
    images = source.files == "images"
    inbox = open_inbox(parts.settings, source.inbox, is_image if images else is_table)
    arrivals = inbox.arrivals(turn.note)
    source, contract, rules = held_against(parts, turn, source_name)
    base = parts.settings.home / "work" / turn.id
    base.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="ingest-", dir=base) as scratch:
        work = Work(
            parts=parts,
            turn=turn,
            name=source_name,
            source=source,
            rules=rules,
            scratch=Path(scratch),
            contract=contract,
        )
        _require_table(work)
        for note in differing_types(work.layout(), source):
            turn.note(note)
        results = _all_images(work, inbox, arrivals) if images else _all(work, inbox, arrivals)
    if any(result.table_version is not None for result in results):
        parts.tables.maintain(f"sources/{source_name}")
    return results


def _require_table(work: Work) -> None:
    """Raise :class:`StoreFault` when rows that were accepted are not in the lake: to go on would be to lose them."""
    known = [result for _, result in work.parts.ledger.scan("file", FileResult, prefix=f"{work.name}/")]
    newest = max((each.table_version for each in known if each.table_version is not None), default=None)
    there = work.parts.tables.version(work.table)
    if newest is not None and (there is None or there < newest):
        rows = sum(each.accepted for each in known)
        found = "is gone" if there is None else f"ends at version {there} of {newest}"
        raise StoreFault(
            f"The lake has lost rows: table {work.table}, to which {rows:,} rows were accepted, {found}.",
            next_step="Bring the lake back (store.lake names it; a backup), or move .interlock away to begin anew.",
            table=work.table,
        )


def _all(work: Work, inbox: Inbox, arrivals: Sequence[Arrival]) -> list[FileResult]:
    results = [result for result in (_recover(work),) if result is not None]
    seen = dict(work.parts.ledger.scan("seen", Seen, prefix=f"{work.name}/"))
    for arrival in arrivals:
        result = _arrived(work, inbox, arrival, seen)
        if result is not None:
            results.append(result)
            work.turn.say(_told(result))
    return results


def _told(result: FileResult) -> str:
    if result.status == "accepted":
        return f"{shown(result.name)}: {result.accepted:,} of {result.rows:,} rows accepted"
    return f"{shown(result.name)}: {result.status}. {result.reason}"


def _arrived(work: Work, inbox: Inbox, arrival: Arrival, seen: dict[str, Seen]) -> FileResult | None:
    """One file of the inbox: nothing new, repeated, or taken in."""
    ledger, key = work.parts.ledger, f"{work.name}/{arrival.name}"
    before = seen.get(key)
    unchanged = before is not None and before.trusted and before.version == arrival.version
    if before is not None and unchanged and (before.rules == work.rules or _settled(work, before.digest)):
        return None
    started = work.parts.clock.monotonic()
    staged = inbox.stage(arrival, work.scratch / "arrival", work.turn.note)
    if staged is None:
        return None
    known = ledger.read("file", f"{work.name}/{staged.digest}", FileResult)
    now = _seen(work, arrival, staged)
    seen[key] = now
    if known is None or (known.status != "accepted" and _rules_changed(work, known, before, seen)):
        found = Incoming(arrival.name, staged.digest, staged.size_bytes, Pending(digest=staged.digest, seen=now))
        result, layout = take(work, found, staged.path)
    elif before is not None and before.digest == staged.digest:
        with work.turn.transaction(ledger) as t:
            t.put("seen", key, now)
        return None
    else:
        result, layout = _repeated(arrival, staged, known), None
    result = msgspec.structs.replace(
        result, seconds=work.parts.clock.monotonic() - started, at=timestamp(work.parts.clock.now())
    )
    _record(work, result, Pending(seen=now), layout)
    return result


def _settled(work: Work, file_digest: str) -> bool:
    """Say whether it was accepted; what was refused is tried again when the rules have changed."""
    known = work.parts.ledger.read("file", f"{work.name}/{file_digest}", FileResult)
    return known is not None and known.status == "accepted"


def _rules_changed(work: Work, known: FileResult, before: Seen | None, seen: dict[str, Seen]) -> bool:
    """Say whether that refusal was under other settings than today's."""
    first = before if before is not None and before.digest == known.digest else seen.get(f"{work.name}/{known.name}")
    return first is None or first.digest != known.digest or first.rules != work.rules


def _seen(work: Work, arrival: Arrival, staged: Staged) -> Seen:
    age_s = None if arrival.modified_s is None else work.parts.clock.now().timestamp() - arrival.modified_s
    return Seen(
        version=arrival.version,
        digest=staged.digest,
        rules=work.rules,
        trusted=age_s is None or age_s > _RACY_S,
    )


def _repeated(arrival: Arrival, staged: Staged, known: FileResult) -> FileResult:
    return FileResult(
        source=known.source,
        name=arrival.name,
        digest=staged.digest,
        size_bytes=staged.size_bytes,
        status="repeated",
        first_name=known.name,
        reason=f"Its bytes came before as {shown(known.name)} (then {known.status}).",
    )


# ---- images ----------------------------------------------------------------------------------------------------------


def _all_images(work: Work, inbox: Inbox, arrivals: Sequence[Arrival]) -> list[FileResult]:
    """Do for images what :func:`_all` does for tables: each group of them is one file."""
    results = [result for result in (_recover(work),) if result is not None]
    ledger, start = work.parts.ledger, len(work.name) + 1
    known = {key[start:]: seen for key, seen in ledger.scan("seen", Known, prefix=f"{work.name}/")}
    files = ledger.scan("file", FileResult, prefix=f"{work.name}/")
    refreshed: dict[str, Known] = {}
    gathering = Gathering(
        inbox=inbox,
        known=known,
        verdict=by_groups({result.digest: result.status for _, result in files}, work.rules),
        keep=lambda path, name, called: work.parts.blobs.put(f"quarantine/{name}/{safe_name(called)}", path),
        rules=work.rules,
        withdraw=work.source.on_duplicate == "keep-last",
        now_s=work.parts.clock.now().timestamp(),
        scratch=work.scratch,
        say=work.turn.say,
    )
    for group in gathering.groups(arrivals, refreshed):
        results.append(_group(work, group))
        work.turn.say(_told(results[-1]))
    if refreshed:
        with work.turn.transaction(ledger) as t:
            for name, seen in refreshed.items():
                t.put("seen", f"{work.name}/{name}", seen)
    return results


def _group(work: Work, group: Group) -> FileResult:
    started = work.parts.clock.monotonic()
    pending = Pending(digest=group.digest, images=group.known())
    result, layout = take(work, Incoming(group.name, group.digest, group.size_bytes, pending, group), work.scratch)
    result = msgspec.structs.replace(
        result, seconds=work.parts.clock.monotonic() - started, at=timestamp(work.parts.clock.now())
    )
    _record(work, result, Pending(images=group.known(accepted=result.status == "accepted")), layout)
    return result


# ---- what is recorded ------------------------------------------------------------------------------------------------


def _recover(work: Work) -> FileResult | None:
    """Record the commit of a turn that was killed before it could, even if the file has gone since."""
    pending = work.parts.ledger.read("pending", work.name, Pending)
    if pending is None or not pending.digest:
        return None
    outcome = committed(work, pending.digest)
    if outcome is None:
        return None
    _record(work, outcome[0], pending, outcome[1])
    return outcome[0]


def _record(work: Work, result: FileResult, found: Pending, layout: Layout | None) -> None:
    """The event and the documents that it changes, in one transaction."""
    with work.turn.transaction(work.parts.ledger) as t:
        t.append(f"file.{result.status}", f"{result.source}/{result.name}", facts_of(result))
        for name, seen in {**found.images, **({result.name: found.seen} if found.seen else {})}.items():
            t.put("seen", f"{result.source}/{name}", seen)
        if result.status != "repeated":
            t.put("file", f"{result.source}/{result.digest}", result)
        if layout is not None:
            t.put("columns", result.source, layout)
            t.put("pending", result.source, Pending())
