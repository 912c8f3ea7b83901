"""The page of a load test: figures, pictures and settings, from what was counted."""

import math
from collections.abc import Sequence
from itertools import pairwise

from interlock.load.outcome import Found, Held
from interlock.load.tally import Interval, percentile, together
from interlock.load.target import Told
from interlock.records import Record
from interlock.report import pictures
from interlock.report.page import Block, Bullets, Facts, Figure, Headline, Note, Page, Section, Table, Text
from interlock.report.pictures import Curve
from interlock.report.words import count, duration, number, share, when
from interlock.service_level import LATENCIES

_SHARES = (0.0, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999, 0.9999)
_MARKED = ((0.5, "50 %"), (0.9, "90 %"), (0.99, "99 %"), (0.999, "99.9 %"), (0.9999, "99.99 %"))
_NAMES = {"p50": "p50", "p90": "p90", "p95": "p95", "p99": "p99", "p999": "p99.9", "max": "longest"}


class Facing(Record, frozen=True, kw_only=True):
    """What was asked, and how. ``settings``: name and value, for people."""

    name: str
    at: str
    before: Told
    after: Told
    settings: tuple[tuple[str, str], ...]
    open_loop: bool
    stopped: bool = False
    records: str = ""


def page_of(facing: Facing, found: Found, held: Sequence[Held], intervals: Sequence[Interval]) -> Page:
    """Compose the page."""
    missed = [each for each in held if not each.holds]
    told = "no service level" if not held else "service level missed" if missed else "service level kept"
    sections = (
        _level(held),
        _over_time(intervals, found),
        _latencies(facing, found, intervals),
        _answers(facing, found),
        _errors(found),
        _settings(facing),
    )
    return Page(
        title=f"Load test of {facing.name}",
        subtitle=when(facing.at),
        kind="load test",
        badge=told,
        tone="bad" if missed else "good" if held else "calm",
        summary=summary(found, held),
        headlines=(
            Headline(label="Answers a second", value=number(found.rps), remark=f"over {duration(found.seconds)}"),
            Headline(label="p50", value=_ms(found.latency_ms["p50"]), remark="half took no longer"),
            Headline(label="p99", value=_ms(found.latency_ms["p99"]), remark="one in a hundred took longer"),
            Headline(
                label="Without an answer",
                value=share(found.requests - found.answered, found.requests) or "none",
                remark=f"of {count(found.requests, 'request')}",
            ),
        ),
        sections=sections,
        footer="Made by interlock load. Nothing on this page is loaded from elsewhere.",
    )


def summary(found: Found, held: Sequence[Held]) -> str:
    """What was found, in a sentence or two."""
    said = (
        f"{count(found.requests, 'request')} in {duration(found.seconds)}, {number(found.rps)} answers a second, "
        f"half of them within {_ms(found.latency_ms['p50'])} and 99 % within {_ms(found.latency_ms['p99'])}; "
        f"{count(found.requests - found.answered, 'request')} without an answer."
    )
    missed = [each.condition for each in held if not each.holds]
    return f"{said} The service level is missed: {'; '.join(missed)}." if missed else said


def _ms(value: float) -> str:
    return duration(value / 1e3)


def _level(held: Sequence[Held]) -> Section:
    table = Table(
        title="Service level",
        columns=(("Fails if", "code"), ("Found", "word"), ("Verdict", "flag")),
        rows=tuple(
            (each.condition, each.line().split("  ")[1].split(" (")[0], "holds" if each.holds else "failed")
            for each in held
        ),
        empty="None was stated: --fail-if 'p99 > 50ms', or the section [load] of interlock.toml.",
    )
    return Section(name="level", title="Service level", blocks=(table,))


# ---- over time ---------------------------------------------------------------------------------------------------


def _over_time(intervals: Sequence[Interval], found: Found) -> Section:
    whole = [each for each in intervals if each.end_s - each.begin_s > 0 and each.answered + each.failed]
    blocks: list[Block] = []
    if len(whole) > 1:
        blocks = [Figure(picture=_rates(whole)), Figure(picture=_times(whole))]
    swaps = _swaps(intervals)
    if swaps:
        blocks.append(Bullets(items=swaps))
    if found.is_blurred:
        blocks.append(
            Note(
                text=f"The sender itself used {100 * found.busy:.0f} % of a processor and was late by up to "
                f"{duration(found.late_ms / 1e3)}: the server may be faster than these figures.",
                tone="warn",
            )
        )
    return Section(name="time", title="Over time", blocks=tuple(blocks) or (Text(text="The run was too short."),))


def _middle(each: Interval) -> float:
    return (each.begin_s + each.end_s) / 2


def _rates(whole: Sequence[Interval]) -> pictures.Picture:
    def per_second(amount: int, each: Interval) -> tuple[float, float]:
        return _middle(each), amount / (each.end_s - each.begin_s)

    curves = [Curve(label="answers", role="candidate", points=tuple(per_second(each.answered, each) for each in whole))]
    if any(each.failed for each in whole):
        curves.append(
            Curve(label="errors", role="champion", points=tuple(per_second(each.failed, each) for each in whole))
        )
    return pictures.curves(
        "Requests a second",
        curves,
        axes=("seconds", "a second"),
        description="Answers, and requests without one, in each interval.",
    )


def _times(whole: Sequence[Interval]) -> pictures.Picture:
    roles: dict[str, pictures.Role] = {"p50": "candidate", "p99": "champion"}
    curves = [
        Curve(
            label=name,
            role=role,
            points=tuple((_middle(each), percentile(each, LATENCIES[name])) for each in whole),
        )
        for name, role in roles.items()
    ]
    return pictures.curves(
        "Latency over time",
        curves,
        axes=("seconds", "ms"),
        description="Half, and 99 %, of the requests that ended in an interval took no longer.",
    )


def _swaps(intervals: Sequence[Interval]) -> tuple[str, ...]:
    """When another release began to answer."""
    seen: list[tuple[float, str]] = []
    for each in intervals:
        known = {release for _, release in seen}
        seen += [(each.begin_s, release) for release in sorted(each.releases) if release not in known]
    return tuple(
        f"Release {later[1]} followed {earlier[1]} between {earlier_s:.0f} s and {later[0] + 1:.0f} s."
        for earlier, later in pairwise(seen)
        for earlier_s in [later[0]]
    )


# ---- the other chapters ------------------------------------------------------------------------------------------


def _latencies(facing: Facing, found: Found, intervals: Sequence[Interval]) -> Section:
    measured = (
        "From the moment at which each request was due, whether or not it could be sent then; what was not sent "
        "in time counts with the wait until the end."
        if facing.open_loop
        else "From sending a request to its answer. A user waits for its answer before it asks again, so that a slow "
        "server is asked less: a closed loop flatters latencies. With --rate they are measured at a fixed rate."
    )
    table = Table(
        title="Percentiles",
        columns=(("Share", "word"), ("Milliseconds", "number")),
        rows=tuple((_NAMES[name], f"{value:,.3f}") for name, value in found.latency_ms.items()),
        note=measured,
    )
    whole = together(intervals)
    total = sum(whole.latencies.values())
    blocks: list[Block] = [table]
    if total > 1:
        blocks.insert(0, Figure(picture=_shares_picture(whole, total)))
    return Section(name="latency", title="Latency", blocks=tuple(blocks))


def _shares_picture(whole: Interval, total: int) -> pictures.Picture:
    """Latency against the share of requests, so that each nine has the same width."""
    known = [part for part in _SHARES if part < 1 - 1 / total] + [1 - 1 / total]
    points = tuple((-math.log10(1 - part), percentile(whole, max(part, 1e-9))) for part in known)
    marks = tuple((-math.log10(1 - part), name) for part, name in _MARKED if part <= known[-1])
    return pictures.curves(
        "Latency by share of requests",
        [Curve(label="", role="candidate", points=points)],
        axes=("share of requests", "ms"),
        marks=marks,
        description="So many of the requests took no longer. Each nine of the share has the same width.",
    )


def _answers(facing: Facing, found: Found) -> Section:
    tiers = [(tier, amount / found.answered) for tier, amount in found.tiers.items()]
    blocks: list[Block] = []
    if tiers:
        blocks.append(
            Figure(picture=pictures.shares("Who answered", tiers, description="Share of the answers by their tier."))
        )
    rows = tuple(
        (f"release {name}", number(amount), share(amount, found.answered)) for name, amount in _by(found.releases)
    )
    blocks.append(
        Table(
            title="Releases that answered",
            columns=(("Release", "word"), ("Answers", "number"), ("Share", "number")),
            rows=rows,
        )
    )
    blocks.append(Facts(rows=(("Before", _said(facing.before), "text"), ("After", _said(facing.after), "text"))))
    return Section(name="answers", title="Answers", blocks=tuple(blocks))


def _by(counts: dict[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (len(item[0]), item[0]))


def _said(told: Told) -> str:
    if told.release is None:
        return "it did not say"
    return f"release {told.release}, model {told.model}; {', '.join(told.tiers)}"


def _errors(found: Found) -> Section:
    table = Table(
        title="Requests without an answer",
        columns=(("Kind", "word"), ("Requests", "number"), ("Share", "number")),
        rows=tuple((kind, number(amount), share(amount, found.requests)) for kind, amount in found.error_kinds.items()),
    )
    return Section(name="errors", title="Errors", blocks=(table,))


def _settings(facing: Facing) -> Section:
    blocks: list[Block] = [Facts(rows=tuple((name, value, "text") for name, value in facing.settings))]
    if facing.records:
        blocks.append(Text(text=facing.records))
    if facing.stopped:
        blocks.append(Note(text="The run was stopped before its time.", tone="warn"))
    return Section(name="settings", title="Settings", blocks=tuple(blocks))
