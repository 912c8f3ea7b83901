"""Records as text for people. Every function takes values and returns lines; nothing here reads or decides."""

from collections.abc import Iterable, Sequence

from interlock.data.opening import shown
from interlock.errors import InterlockError
from interlock.outcome import TurnResult
from interlock.records import BatchResult, Check, Decision, Event, FileResult, Release, short
from interlock.release.canary import Tally, Trial, took
from interlock.release.standing import named_tier

_SHOWN = 8
"""Classes that are named in one line."""


def error(problem: InterlockError) -> list[str]:
    """The message, the user's own traceback if there is one, and the next step."""
    lines = [f"{problem.code}: {problem.message}"]
    traceback = getattr(problem, "traceback", "")
    if traceback:
        lines += ["", *traceback.rstrip().splitlines(), ""]
    if problem.next_step:
        lines.append(f"Next: {problem.next_step}")
    return lines


def table(head: Sequence[str], rows: Iterable[Sequence[object]], *, right: Sequence[int] = ()) -> list[str]:
    """Columns padded to their widest cell; the columns in ``right`` are aligned to the right."""
    body = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(line[column]) for line in [list(head), *body]) for column in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "  ".join(padded).rstrip()

    return [line(head), line(["-" * width for width in widths]), *map(line, body)]


def when(text: str) -> str:
    """A timestamp to the second."""
    return text[:19].replace("T", " ") if text else ""


def checks(items: Sequence[Check]) -> list[str]:
    """One line a check: passed or not, and the reason."""
    return [f"  {'pass' if check.passed else check.on_fail.upper():<7} {check.name}: {check.reason}" for check in items]


def decision(found: Decision) -> list[str]:
    """Verdict, reason and every check."""
    return [f"{found.verdict.upper()} {short(found.candidate)}: {found.reason}", *checks(found.checks)]


def release(found: Release) -> list[str]:
    """What is live and why."""
    return [
        f"Release {found.generation}, live since {when(found.at)} UTC ({found.cause}).",
        f"  champion   {short(found.champion)}{'' if found.route == 'champion' else '  (off duty: last good answers)'}",
        *([f"  challenger {short(found.challenger)}"] if found.challenger else []),
        f"  last good  {short(found.last_good) if found.last_good else 'none yet'}",
        f"  baseline   {short(found.baseline)}",
        f"  because    {found.because}",
    ]


def releases(found: Sequence[Release]) -> list[str]:
    """One line a generation, newest first."""
    rows = [(item.generation, when(item.at), short(item.champion), item.cause, item.because) for item in found]
    return table(("release", "since (UTC)", "champion", "cause", "because"), rows, right=(0,))


def trial(found: Trial, seen: Tally, elapsed_s: float) -> list[str]:
    """How a challenger does, and what its trial still needs."""
    told = f"{short(found.challenger)} (entry {found.receipt}) {found.way} for {_span(elapsed_s)}: "
    told += f"{seen.answered:,} of {found.rows:,} records answered, at least {_span(found.duration_s)}"
    lines = [f"  {'trial':<10} {told}"]
    if seen.asked:
        failed = f"failed {seen.failed:,} of {seen.asked:,} that another model answered"
        alike = f"; {seen.agreed:,} of {seen.compared:,} answers agree with the champion's" if seen.compared else ""
        lines.append(f"  {'':<10} {failed}{alike}")
    if seen.duels:
        lines.append(f"  {'':<10} {took(found, seen)}")
    return lines


def _span(seconds: float) -> str:
    for unit, length in (("d", 86_400.0), ("h", 3_600.0), ("min", 60.0)):
        if seconds >= length:
            return f"{seconds / length:.3g} {unit}"
    return f"{max(seconds, 0.0):.0f} s"


def file_result(found: FileResult) -> str:
    """One file in one line."""
    counts = f"{found.accepted:,} of {found.rows:,} rows" if found.status == "accepted" else found.reason
    return f"{found.source}/{shown(found.name)}: {found.status}, {counts}"


def turn_details(found: TurnResult) -> list[str]:
    """What a turn noticed, refused and could not do: everything that its last sentence has no room for."""
    lines = [f"note: {note}" for note in found.notes]
    lines += [file_result(file) for file in found.files if file.status in ("refused", "unreadable")]
    lines += [
        line
        for batch in found.batches
        for line in batch_result(batch)
        if batch.status != "published" or batch.quarantined or batch.tier != "champion"
    ]
    for problem in found.problems:
        if problem.traceback or problem.output_tail:
            lines += ["", *(problem.traceback or problem.output_tail).rstrip().splitlines()[-40:], ""]
    return lines


def batch_result(found: BatchResult) -> list[str]:
    """One scored file, its audits when they matter."""
    if found.status == "published":
        by = f"release {found.generation} ({found.form})"
        if found.tier != "champion":
            by = f"{named_tier(found.tier)} {short(found.model)} for {by}"
        told = [f"{shown(found.name)}: {found.scored:,} rows scored by {by} -> {found.output}"]
        if found.classes:
            named = ", ".join(f"probability_{place} is '{label}'" for place, label in enumerate(found.classes[:_SHOWN]))
            told.append(f"  {named}{' …' if len(found.classes) > _SHOWN else ''}")
        if found.reason:
            told.append(f"  {found.reason}")
        if found.quarantined:
            told.append(
                f"  {found.quarantined:,} rows break the signature and have no answer: see the quarantine file."
            )
        return told
    failed = [f"  {audit.name}: {audit.reason}" for audit in found.audits if not audit.passed]
    return [f"{shown(found.name)}: {found.status}. {found.reason}", *failed]


def _subject(text: str) -> str:
    digest = len(text) == 64 and set(text) <= set("0123456789abcdef")
    return short(text) if digest else shown(text, 80)


def events(found: Sequence[Event]) -> list[str]:
    """One line an event."""
    rows = [(event.sequence, when(event.at), event.kind, _subject(event.subject)) for event in found]
    return table(("entry", "at (UTC)", "kind", "subject"), rows, right=(0,))
