"""Records as the model was trained on, column by column: made from the signature and the profile of the training rows.

Categories come with their frequencies, numbers and times from the bins of the profile, gaps at their rate. Text that
has no categories, and bytes, may tell of a person and are never copied: of text only the shape is kept (each letter and
digit is replaced by another of its kind), of images format, size and colours. How columns depend on one another is not
in a profile, and so not in these records. The same seed gives the same records.
"""

import random
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from io import BytesIO
from itertools import accumulate
from typing import Any, Final, TypeAlias

from interlock.data.profile import ColumnProfile, Profile
from interlock.records import Column, Signature

Make: TypeAlias = Callable[[random.Random], Any]
"""Makes one value, as JSON or msgspec can write it."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_WORDS: Final = {"some text here": 1, "text": 1, "a few more words": 1}
_TRIES: Final = 20


@dataclass(frozen=True)
class ImageKind:
    """What an image is like: its format (as Pillow names it), its size in pixels, its mode of colours."""

    format: str
    width: int
    height: int
    mode: str


@dataclass(frozen=True)
class Source:
    """What records are made from. ``images``: what the images of a column of bytes are like, by its name.

    ``ahead``: columns of time whose values lie after those of training, by at most so many seconds (a forecast).
    """

    signature: Signature
    reference: Profile | None
    images: Mapping[str, Sequence[ImageKind]] = field(default_factory=dict)
    ahead: Mapping[str, float] = field(default_factory=dict)

    def profile(self, name: str) -> ColumnProfile | None:
        """The profile of a column."""
        return None if self.reference is None else self.reference.column(name)


class Samples:
    """Makes records of a source."""

    def __init__(self, source: Source) -> None:
        self._makers = {column.name: _with_gaps(column, source) for column in source.signature.inputs}

    def made(self, count: int, seed: int) -> list[dict[str, Any]]:
        """``count`` records. Bytes are bytes, dates and times are ISO text, and the columns are in their order."""
        chance = random.Random(seed)  # noqa: S311 - records of a test
        return [{name: make(chance) for name, make in self._makers.items()} for _ in range(count)]


def _with_gaps(column: Column, source: Source) -> Make:
    known = source.profile(column.name)
    if column.name in source.ahead:
        return _ahead(column, source.ahead[column.name])
    make = _maker(column, known, source.images.get(column.name, ()))
    share = known.nulls / known.count if column.nullable and known is not None and known.count else 0.0
    return (lambda chance: None if chance.random() < share else make(chance)) if share else make


def _maker(column: Column, known: ColumnProfile | None, images: Sequence[ImageKind]) -> Make:
    if column.type == "bool":
        return _drawn({name == "true": count for name, count in _counts(column, known, ("true", "false")).items()})
    if column.type == "str":
        if column.categories:
            return _drawn(_counts(column, known, column.categories))
        return _text({} if known is None else known.categories or {})
    if column.type == "bytes":
        return _image(images) if images else _bytes(_number(known, None, None))
    number = _number(known, _bound(column.low), _bound(column.high))
    if column.type == "float":
        return number
    if column.type == "int":
        return _whole(number, _bound(column.low), _bound(column.high))
    if column.type == "date":
        whole = _whole(number, _bound(column.low), _bound(column.high))
        return lambda chance: date.fromordinal(_EPOCH.toordinal() + whole(chance)).isoformat()
    return lambda chance: _moment(number(chance))


def _counts(column: Column, known: ColumnProfile | None, allowed: Sequence[str]) -> dict[str, int]:
    """How often each category is drawn."""
    seen = {} if known is None or known.categories is None else known.categories
    found = {name: seen.get(name, 0) for name in column.categories or allowed if name}
    return found if any(found.values()) else dict.fromkeys(found or allowed, 1)


def _drawn(counts: Mapping[Any, int]) -> Make:
    values, totals = list(counts), list(accumulate(counts.values()))
    return lambda chance: chance.choices(values, cum_weights=totals)[0]


# ---- numbers -----------------------------------------------------------------------------------------------------


def _bound(value: float | str | None) -> float | None:
    """A bound of the signature as its profile would count it: days or seconds since 1970."""
    if not isinstance(value, str):
        return value
    if len(value) == 10:
        return float(date.fromisoformat(value).toordinal() - _EPOCH.toordinal())
    moment = datetime.fromisoformat(value)
    return ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH).total_seconds()


def _number(known: ColumnProfile | None, low: float | None, high: float | None) -> Callable[[random.Random], float]:
    """Draws a bin by its weight and a number in it. A bin whose lower edge is its only value gives that."""
    if known is None or not any(known.bins[1:-1]):
        lowest = 0.0 if low is None else low
        highest = max(lowest, 1.0) if high is None else high
        return lambda chance: chance.uniform(lowest, highest)
    edges, totals = known.edges, list(accumulate(known.bins[1:-1]))
    places = range(len(totals))
    alone = known.distinct == len(totals)
    least = edges[0] if low is None else low
    most = edges[-1] if high is None else high

    def draw(chance: random.Random) -> float:
        place = chance.choices(places, cum_weights=totals)[0]
        value = edges[place] if alone else chance.uniform(edges[place], edges[place + 1])
        return max(least, min(most, value))

    return draw


def _ahead(column: Column, within_s: float) -> Make:
    """Times after the last of training."""
    last = _bound(column.high) or 0.0
    if column.type == "date":
        days = max(1, int(within_s // 86_400))
        return lambda chance: date.fromordinal(_EPOCH.toordinal() + int(last) + chance.randint(1, days)).isoformat()
    return lambda chance: _moment(last + chance.uniform(1.0, max(within_s, 1.0)))


def _moment(seconds: float) -> str:
    """Seconds since 1970 as a time without a zone."""
    return (_EPOCH + timedelta(seconds=seconds)).replace(tzinfo=None).isoformat()


def _whole(number: Callable[[random.Random], float], low: float | None, high: float | None) -> Make:
    def draw(chance: random.Random) -> int:
        value = int(number(chance) // 1)
        if low is not None and value < low:
            value = int(low)
        return value if high is None or value <= high else int(high)

    return draw


# ---- text and bytes ----------------------------------------------------------------------------------------------


def _text(seen: Mapping[str, int]) -> Make:
    """Text of the shape of what was seen, and none of it."""
    shapes = {text: count for text, count in seen.items() if text} or _WORDS
    pick = _drawn(shapes)
    letters = sorted({letter for text in shapes for letter in text if letter.isalpha() and ord(letter) > 127})

    def draw(chance: random.Random) -> str:
        shape: str = pick(chance)
        for _ in range(_TRIES):
            made = "".join(_other(letter, letters, chance) for letter in shape)
            if made not in seen:
                return made
        made = "".join(chance.choices(string.ascii_lowercase, k=len(shape) + 1))
        while made in seen:
            made += chance.choice(string.ascii_lowercase)
        return made

    return draw


def _other(letter: str, foreign: Sequence[str], chance: random.Random) -> str:
    """Another letter of its kind; what is neither letter nor digit stays."""
    if letter.isdigit():
        return chance.choice(string.digits)
    if not letter.isalpha():
        return letter
    if ord(letter) > 127:
        return chance.choice(foreign)
    return chance.choice(string.ascii_uppercase if letter.isupper() else string.ascii_lowercase)


def _bytes(number: Callable[[random.Random], float]) -> Make:
    return lambda chance: chance.randbytes(max(1, int(number(chance))))


def _image(kinds: Sequence[ImageKind]) -> Make:
    """Noise in an image file such as those that were seen."""
    from PIL import Image

    def draw(chance: random.Random) -> bytes:
        kind = chance.choice(kinds)
        grey = Image.frombytes("L", (kind.width, kind.height), chance.randbytes(kind.width * kind.height))
        out = BytesIO()
        grey.convert(kind.mode).save(out, format=kind.format)
        return out.getvalue()

    return draw
