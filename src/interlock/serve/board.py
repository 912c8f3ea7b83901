"""What several workers counted, told as one: each posts its counts in a folder that they share, and reads the others'.

The parent makes the folder, in memory where the system has a file system there, and takes it away at the end. A worker
posts every second and before it tells anybody, so what was once told is never told as less: the counts of one that died
stay posted, and whoever takes its place counts on from them. Gauges are those of the workers that live.
"""

import contextlib
import os
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal, TypeAlias

import msgspec

Rule: TypeAlias = Literal["sum", "max", "min", "worst"]
"""How one number is made of those of several workers; ``worst``: 1 for the last of the labels that one of them has."""
Labels: TypeAlias = tuple[str, ...]
Values: TypeAlias = dict[str, dict[Labels, float]]
SILENT_S: Final = 10.0
"""A worker that has not posted for so long is not counted among those that live."""
_DISK: Final = "disk"
"""A label of what is on the disk, which is the same for all of them and no sum."""
_PREFIX: Final = "interlock-serve-"
_LEFT_S: Final = 3_600.0
_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - a folder of our own is made in it, for this user alone


class Times(msgspec.Struct):
    """The requests of one route: how many fell in each bucket, and their seconds together."""

    cells: list[int]
    seconds: float = 0.0


class Counts(msgspec.Struct):
    """What one process counted: by metric and labels, and the times by route. ``counters``: what only grows."""

    counters: Values
    gauges: Values
    times: dict[str, Times]


class _Post(msgspec.Struct):
    at_s: float
    counters: dict[str, list[tuple[Labels, float]]]
    gauges: dict[str, list[tuple[Labels, float]]]
    times: dict[str, Times]


class Board:
    """The folder as the worker in ``place`` uses it; what was counted in that place before is counted on."""

    def __init__(self, folder: Path, place: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder = folder
        self._path = folder / f"counts-{place}"
        self._clock = clock
        self._before = _read(self._path)

    def post(self, counts: Counts) -> None:
        """Show the counts of this process to the others; what cannot be written shows with the next ones."""
        known = [] if self._before is None else [(_counters(self._before), self._before.times)]
        counters, times = _added([*known, (counts.counters, counts.times)])
        post = _Post(self._clock(), _listed(counters), _listed(counts.gauges), times)
        fresh = self._path.with_name(f".{self._path.name}")
        with contextlib.suppress(OSError):
            fresh.write_bytes(msgspec.json.encode(post))
            fresh.replace(self._path)

    def together(self, rules: Mapping[str, Rule]) -> tuple[Counts, int]:
        """What all of them counted, and how many live."""
        posts = [post for path in sorted(self._folder.glob("counts-*")) if (post := _read(path)) is not None]
        living = [post for post in posts if self._clock() - post.at_s <= SILENT_S]
        counters, times = _added([(_counters(post), post.times) for post in posts])
        gauges: Values = {}
        for name in dict.fromkeys(name for post in living for name in post.gauges):
            found = [dict(post.gauges[name]) for post in living if name in post.gauges]
            gauges[name] = combined(found, rules.get(name, "sum"))
        return Counts(counters, gauges, times), len(living)


def combined(found: Sequence[Mapping[Labels, float]], rule: Rule) -> dict[Labels, float]:
    """One gauge of several; with ``worst``, labels are in their order, and 1 is what a worker has."""
    labels = list(dict.fromkeys(each for one in found for each in one))
    if rule == "worst":
        worst = max((place for one in found for place, each in enumerate(labels) if one.get(each)), default=-1)
        return {each: float(place == worst) for place, each in enumerate(labels)}
    return {each: _over(rule, each)([one[each] for one in found if each in one]) for each in labels}


def _over(rule: Rule, labels: Labels) -> Callable[[list[float]], float]:
    if rule == "sum" and _DISK in labels:
        return max
    return {"sum": sum, "max": max, "min": min}[rule]  # type: ignore[return-value]


def _added(found: Sequence[tuple[Values, dict[str, Times]]]) -> tuple[Values, dict[str, Times]]:
    counters: defaultdict[str, defaultdict[Labels, float]] = defaultdict(lambda: defaultdict(float))
    times: dict[str, Times] = {}
    for values, routes in found:
        for name, labelled in values.items():
            for labels, value in labelled.items():
                counters[name][labels] += value
        for route, each in routes.items():
            known = times.get(route)
            cells = each.cells if known is None else [a + b for a, b in zip(known.cells, each.cells, strict=True)]
            times[route] = Times(cells, each.seconds + (0.0 if known is None else known.seconds))
    return {name: dict(labelled) for name, labelled in counters.items()}, times


def _listed(values: Values) -> dict[str, list[tuple[Labels, float]]]:
    return {name: list(labelled.items()) for name, labelled in values.items()}


def _counters(post: _Post) -> Values:
    return {name: dict(labelled) for name, labelled in post.counters.items()}


def _read(path: Path) -> _Post | None:
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        return msgspec.json.decode(path.read_bytes(), type=_Post)
    return None


@contextmanager
def shared_folder() -> Iterator[Path]:
    """A folder for the workers of one server, for this user alone; gone at the end, or when another one is made."""
    where = _MEMORY if os.access(_MEMORY, os.W_OK) else Path(tempfile.gettempdir())
    _sweep(where)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=where))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sweep(where: Path) -> None:
    """Take away what servers left that were killed: in a folder that is used something is written every second."""
    before_s = time.time() - _LEFT_S
    for folder in where.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            found = folder.lstat()
            if found.st_uid == os.getuid() and found.st_mtime < before_s and not folder.is_symlink():
                shutil.rmtree(folder, ignore_errors=True)
