"""``interlock load``: make records, send them, count what becomes of them, and hold that to a service level."""

import signal
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

import msgspec
import polars as pl

from interlock import __version__
from interlock.data.images import FORMATS
from interlock.data.pinned import snapshot_frame
from interlock.errors import Fault, Misuse, NothingToServe
from interlock.load.drive import Driven, Watching, drive
from interlock.load.outcome import Found, Held, found_in, judged
from interlock.load.page import Facing, page_of, summary
from interlock.load.plan import Plan
from interlock.load.samples import ImageKind, Samples, Source
from interlock.load.tally import Interval, percentile
from interlock.load.target import Told, allowed, own_server, require_answers, require_locust, told
from interlock.model.bundle import open_bundle
from interlock.ports import Parts
from interlock.records import Record, Release, Snapshot
from interlock.release.registry import current
from interlock.report.page import to_html
from interlock.report.words import duration, number
from interlock.service_level import Limit
from interlock.store.blobs import disk_faults, durable_write
from interlock.units import seconds

_RECORDS: Final = 2_000
_BODY_BYTES: Final = 64 * 2**20
_FEWEST_BODIES: Final = 16
_LOOKED_AT: Final = 200
_MOST_PIXELS: Final = 16_000_000
_PLAIN_MODES: Final = frozenset({"1", "L", "LA", "P", "RGB", "RGBA", "CMYK"})


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a person wants. ``url`` empty: a server is started for the run. ``say`` is told how it goes."""

    limits: tuple[Limit, ...] = ()
    url: str = ""
    key: str = ""
    agreed: str = ""
    users: int = 16
    rate: float | None = None
    rows: int = 1
    duration: str = "30s"
    seed: int = 0
    web: Callable[[str], None] | None = None
    out: Path | None = None
    overrides: Sequence[str] = ()
    say: Callable[[str], None] = print


class LoadResult(Record, frozen=True, kw_only=True):
    """A load test: what was asked, the figures, the verdict and the page. ``stopped``: by a person, before its time."""

    passed: bool
    level: tuple[Held, ...]
    url: str
    own_server: bool
    users: int
    rate: float | None
    rows_per_request: int
    seed: int
    before: Told
    after: Told
    stopped: bool
    found: Found
    page: str

    def lines(self) -> list[str]:
        """The outcome for people."""
        said = [summary(self.found, ()), *(f"  {each.line()}" for each in self.level)]
        tiers = ", ".join(f"{amount:,} {tier}" for tier, amount in self.found.tiers.items())
        said += [f"  answered by: {tiers}"] if tiers else []
        said += [f"  {amount:,} x {kind}" for kind, amount in self.found.error_kinds.items()]
        if self.found.is_blurred:
            said.append("  The sender was busy or late itself: the server may be faster than this.")
        return [*said, f"wrote {self.page}"]


def load_test(parts: Parts, asked: Asked) -> LoadResult:
    """Run a load test of the release in force. Bounded in time.

    Raises :class:`NothingToServe` without a release, :class:`Misuse` for an address or key that will not do, and
    :class:`Fault` when nothing answers at all.
    """
    require_locust()
    url = allowed(asked.url, asked.agreed) if asked.url else ""
    source = source_of(parts, fit(current(parts.ledger), own_server=not url))
    duration_s = seconds(asked.duration)
    if duration_s < 1 or (asked.rate is not None and asked.rate <= 0):
        raise Misuse("A run takes a second at least, and a rate above 0.", next_step="Change --duration or --rate.")
    bodies = bodies_of(source, asked.rows, asked.seed)
    at = parts.clock.now().isoformat()
    with ExitStack() as stack:
        stack.enter_context(_stopped_by_term())
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="interlock-load-")))
        key = asked.key
        if not url:
            asked.say("starting the server")
            own = stack.enter_context(own_server(parts.settings, asked.overrides, scratch))
            url, key = own.url, own.key
        plan = Plan(
            url=url,
            route="/predict" if asked.rows == 1 else "/batch",
            bodies=bodies,
            users=asked.users,
            duration_s=duration_s,
            seed=asked.seed,
            rate=asked.rate,
            key=key,
            unverified=asked.url == "",
        )
        before = told(plan)
        require_answers(plan)
        driven = drive(plan, scratch, Watching(_saying(asked.say), asked.web))
        after = _told_after(plan)
    return _result(parts, asked, plan, driven, (before, after, at))


@contextmanager
def _stopped_by_term() -> Iterator[None]:
    """SIGTERM ends a run as Ctrl-C does, so that what was started is ended too."""

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        del number, frame
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _told_after(plan: Plan) -> Told:
    try:
        return told(plan)
    except Fault:  # it went away during the run, which is what the figures tell
        return Told()


def _saying(say: Callable[[str], None]) -> Callable[[Interval], None]:
    def saw(each: Interval) -> None:
        length_s = max(each.end_s - each.begin_s, 1e-6)
        say(
            f"{each.end_s:.0f} s: {number(round(each.answered / length_s))} answers a second, "
            f"p99 {duration(percentile(each, 0.99) / 1e3)}, {each.failed:,} errors"
        )

    return saw


# ---- what is sent ------------------------------------------------------------------------------------------------


def fit(release: Release | None, *, own_server: bool) -> Release:
    """The release, if made records may be sent to it; raises :class:`NothingToServe`, :class:`Misuse`."""
    if release is None:
        raise NothingToServe("Nothing was released yet.", next_step="interlock run")
    if own_server and release.challenger is not None:
        raise Misuse(
            "A challenger is on trial, and what it answers to made records would be evidence for it.",
            next_step="Wait for the end of the trial, or name a server with --url.",
        )
    return release


def source_of(parts: Parts, release: Release) -> Source:
    """What records are made from: the champion's signature and profile.

    Of images the headers of some held-out ones are read, and of a forecast the time after the training rows is taken.
    """
    opened = open_bundle(parts, release.champion)
    signature = opened.bundle.signature
    holdout = parts.settings.data.holdout
    ahead = {}
    if opened.bundle.task == "forecast" and holdout.time is not None and holdout.last is not None:
        ahead = {holdout.time: seconds(holdout.last)}
    names = [column.name for column in signature.inputs if column.type == "bytes"]
    images = dict(_images(parts, opened.bundle.snapshot, names)) if names else {}
    return Source(signature, opened.reference(), images, ahead)


def _images(parts: Parts, snapshot: str, names: Sequence[str]) -> Iterator[tuple[str, list[ImageKind]]]:
    made = parts.ledger.read("snapshot", snapshot, Snapshot)
    if made is None:
        return
    rows = snapshot_frame(parts, made.holdout_key)
    known = set(rows.collect_schema().names())
    for name in names:
        if name in known:
            cells = rows.select(pl.col(name).drop_nulls()).head(_LOOKED_AT).collect()[name]
            kinds = [kind for kind in map(_image_kind, cells) if kind is not None]
            if kinds:
                yield name, kinds


def _image_kind(content: bytes) -> ImageKind | None:
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(BytesIO(content), formats=FORMATS) as image:
                if image.width * image.height > _MOST_PIXELS:
                    return None
                mode = image.mode if image.mode in _PLAIN_MODES else "L"
                return ImageKind(image.format or "PNG", image.width, image.height, mode)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None  # no image: bytes of its size are sent


def bodies_of(source: Source, rows: int, seed: int) -> tuple[bytes, ...]:
    """The bodies of requests with so many records each; raises :class:`Misuse` for fewer than one."""
    if rows < 1:
        raise Misuse("A request has one record at least.", next_step="Change --rows-per-request.")
    samples = Samples(source)
    wanted = max(_FEWEST_BODIES, _RECORDS // rows)
    bodies: list[bytes] = []
    size_bytes = 0
    for place in range(wanted):
        records = samples.made(rows, seed * 1_000_003 + place)
        body = msgspec.json.encode(records[0] if rows == 1 else {"instances": records})
        bodies.append(body)
        size_bytes += len(body)
        if size_bytes > _BODY_BYTES and len(bodies) >= _FEWEST_BODIES:
            break
    return tuple(bodies)


# ---- what is said ------------------------------------------------------------------------------------------------


def _result(parts: Parts, asked: Asked, plan: Plan, driven: Driven, around: tuple[Told, Told, str]) -> LoadResult:
    found = found_in(driven.intervals, plan.duration_s)
    if found.answered == 0 and not asked.limits:
        kinds = ", ".join(found.error_kinds) or "nothing was sent"
        raise Fault(f"No request was answered: {kinds}.", next_step="See that 'interlock serve' works by itself.")
    held = judged(found, asked.limits)
    before, after, at = around
    facing = Facing(
        name=parts.settings.model.name,
        at=at,
        before=before,
        after=after,
        settings=_settings(asked, plan),
        open_loop=plan.rate is not None,
        stopped=driven.stopped,
        records=_RECORDS_SAID,
    )
    path = asked.out or parts.settings.root / "reports" / f"load-{at[:19].replace(':', '').replace('-', '')}.html"
    with disk_faults(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        durable_write(path, to_html(page_of(facing, found, held, driven.intervals)).encode())
    return LoadResult(
        passed=all(each.holds for each in held),
        level=held,
        url=plan.url,
        own_server=not asked.url,
        users=plan.users,
        rate=plan.rate,
        rows_per_request=asked.rows,
        seed=plan.seed,
        before=before,
        after=after,
        stopped=driven.stopped,
        found=found,
        page=str(path),
    )


_RECORDS_SAID: Final = (
    "The records were made, column by column, from the signature and from the profile of the training rows: "
    "categories with their frequencies, numbers and times by their distribution, gaps at their rate. Of text without "
    "categories only lengths and kinds of letters are kept, of images only format, size and colours. How columns "
    "depend on one another is not reproduced."
)


def _settings(asked: Asked, plan: Plan) -> tuple[tuple[str, str], ...]:
    from importlib.metadata import version

    load = (
        f"open loop, {number(plan.rate)} requests a second over at most {plan.users} connections"
        if plan.rate is not None
        else f"closed loop, {plan.users} users"
    )
    server = plan.url if asked.url else "interlock serve, started here for this run, without its prediction log"
    return (
        ("Server", server),
        ("Load", load),
        ("Records", f"{asked.rows} in a request, POST {plan.route}, {len(plan.bodies):,} different bodies"),
        ("Duration", duration(plan.duration_s)),
        ("Longest wait for an answer", duration(plan.timeout_s)),
        ("Seed", str(plan.seed)),
        ("Versions", f"interlock {__version__}, locust {version('locust')}"),
    )
