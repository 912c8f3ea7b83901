"""Image files of an inbox, gathered into groups that are taken in as one file would be: one row for each image.

Only headers are looked at, never pixels: what decodes an image is the user's own code, in its own process. An image
that was seen before, and whose version is the same, is not read again.
"""

import hashlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec
import polars as pl

from interlock.data.inbox import Arrival, Inbox, Say
from interlock.data.opening import shown
from interlock.data.raw import ROW, Expected, Raw
from interlock.data.readers import Reading, finish
from interlock.records import Column, ColumnType, Record, digest, short

SUFFIXES = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".tif", ".tiff", ".webp")
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP")
"""What an image may be by its content; the suffix need not agree, as decoders do not look at it either."""
GROUP_FILES = 1_000
GROUP_BYTES = 64 * 2**20
"""A group ends when it has so many files or bytes."""
MAX_IMAGE_BYTES = 64 * 2**20
MAX_PIXELS = 100_000_000
"""Width times height; decoded that is 300 MB of colours."""
_RACY_S = 2.0

Verdict = Literal["done", "refused", "open"]
"""Of an image seen before: nothing is left to do, or its group was refused as things are, or it shall be read again."""


class Known(Record, frozen=True, kw_only=True):
    """Document ``seen`` of an image: the bytes under a name (none: it is gone), and the group in which they came.

    ``count`` is how often the bytes changed, so that bytes that come back are a new row. ``bad``: they are no image.
    ``stored``: the digest of the image that was last taken in under the name, where it is another one.
    """

    version: str
    digest: str
    trusted: bool
    rules: str = ""
    group: str = ""
    count: int = 0
    bad: bool = False
    stored: str = ""

    @property
    def held(self) -> str:
        """Digest of the image that the table has under the name; empty for none."""
        return self.stored if self.bad else self.digest


class Item(NamedTuple):
    """One row of a group. ``reason``: why the bytes are no image. ``gone``: the row takes a name out of use."""

    name: str
    digest: str
    content: bytes
    reason: str
    known: Known
    gone: bool = False


def is_image(name: str) -> bool:
    """Tell by the suffix, in any case."""
    return name.lower().endswith(SUFFIXES)


def label_of(name: str) -> str | None:
    """The name of the folder in which an image lies; None at the top of the inbox."""
    return name.split("/")[-2] if "/" in name else None


# ---- is it an image? -------------------------------------------------------------------------------------------------


def fault(content: bytes) -> str:
    """Why these bytes are no whole image, in words; empty for one that is. Reads the header and the ends only."""
    from PIL import Image, UnidentifiedImageError  # 30 ms that a turn without new images need not pay

    if not content:
        return "is empty"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of sizes; the limit below refuses them
            with Image.open(BytesIO(content), formats=FORMATS) as image:
                width, height = image.size
                if width * height > MAX_PIXELS:
                    return f"has {width:,} x {height:,} pixels, more than {MAX_PIXELS:,}"
                if width < 1 or height < 1:
                    return "has no pixels"
                whole = _is_whole(image.format or "", content, _strips(image))
                if whole and image.format == "PNG":
                    image.verify()
    except UnidentifiedImageError:
        return "has no known image format"
    except Image.DecompressionBombError:
        return f"has more than {MAX_PIXELS:,} pixels"
    except Exception as error:  # noqa: BLE001 - Pillow's readers raise anything on bytes made to confuse them
        return f"is damaged ({type(error).__name__})"
    return "" if whole else "is cut short"


def _strips(image: object) -> Iterable[tuple[int, int]]:
    """Offset and length of the pixels of a TIFF file (tags 273, 279; tiles 324, 325)."""
    tags = getattr(image, "tag_v2", {})
    for offsets, lengths in ((273, 279), (324, 325)):
        yield from zip(tags.get(offsets, ()), tags.get(lengths, ()), strict=False)


def _is_whole(kind: str, content: bytes, strips: Iterable[tuple[int, int]]) -> bool:
    """Does the file reach as far as its own header says? Each format ends in its own way."""
    size = len(content)
    if kind == "JPEG":  # the end marker after the last scan; the thumbnail inside has both of its own before it
        return content.rfind(b"\xff\xd9") > content.rfind(b"\xff\xda")
    if kind == "PNG":
        return b"IEND\xaeB`\x82" in content
    if kind == "GIF":
        return content.rstrip(b"\0\r\n").endswith(b";")
    if kind == "BMP":
        return int.from_bytes(content[2:6], "little") <= size
    if kind == "WEBP":
        return int.from_bytes(content[4:8], "little") + 8 <= size
    return all(offset + length <= size for offset, length in strips)


def by_groups(statuses: Mapping[str, str], rules: str) -> Callable[[Known], Verdict]:
    """Judge an image by what became of its group (``statuses`` by digest); what failed by other ``rules`` is open."""

    def verdict(known: Known) -> Verdict:
        accepted = statuses.get(known.group) == "accepted"
        if known.rules != rules and (known.bad or not accepted):
            return "open"
        return "done" if accepted else "refused"

    return verdict


# ---- groups ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Group:
    """Images that are taken in together, in the order of their names."""

    items: tuple[Item, ...]

    @property
    def digest(self) -> str:
        """Name of the content: of names and digests, and of how often each name changed."""
        return digest([[item.name, item.digest, item.known.count, item.gone] for item in self.items])

    @property
    def name(self) -> str:
        """A name for people."""
        return f"images-{short(self.digest)}"

    @property
    def size_bytes(self) -> int:
        """Size of all images."""
        return sum(len(item.content) for item in self.items)

    def known(self, *, accepted: bool = True) -> dict[str, Known]:
        """What to remember of each image, by name; a group that is not accepted takes no name out of use."""
        group, items = self.digest, [item for item in self.items if accepted or not item.gone]
        return {item.name: msgspec.structs.replace(item.known, group=group) for item in items}

    def frame(self, label: str) -> pl.DataFrame:
        """Columns ``file``, the label, ``image`` (null for what is none) and ``digest``; one row for each image."""
        return pl.DataFrame(
            {
                "file": [item.name for item in self.items],
                label: [None if item.gone else label_of(item.name) for item in self.items],
                "image": [None if item.reason else item.content for item in self.items],
                "digest": [item.digest for item in self.items],
            },
            schema={"file": pl.String(), label: pl.String(), "image": pl.Binary(), "digest": pl.String()},
        )

    def faults(self) -> list[tuple[int, str, str]]:
        """Row (from 1), column and reason of what is no image."""
        return [
            (row, "image", f"is no image: {shown(item.name)} {item.reason}")
            for row, item in enumerate(self.items, start=1)
            if item.reason
        ]


@dataclass(frozen=True)
class GroupRows:
    """A group as :func:`~interlock.data.sift.sift` reads it."""

    group: Group
    label: str
    columns: Sequence[Column]
    types: Mapping[str, ColumnType]

    @property
    def name(self) -> str:
        """The name of the group."""
        return self.group.name

    def readings(self, widened: frozenset[str] = frozenset()) -> Iterator[Reading]:
        """All rows as one reading."""
        layout = Expected({column.name: column.type for column in self.columns}, self.types, widened=widened)
        frame = self.group.frame(self.label)
        numbers = pl.int_range(1, pl.len() + 1, dtype=pl.Int64).alias(ROW)
        raw = Raw(frame.select(numbers, pl.all()), tuple(frame.columns), frame.height, self.group.faults(), [])
        yield finish(raw, layout)


@dataclass(frozen=True, kw_only=True)
class Gathering:
    """The images of one inbox that are new, changed, or waiting since their group was refused.

    ``known``: what was remembered, by name. ``verdict`` judges what was remembered. ``keep`` is handed the file, the
    digest and the name of what is no image. ``rules`` is written down with each. ``withdraw``: a name that is gone from
    the inbox while its bytes are there under another one gets a last row, without a label.
    """

    inbox: Inbox
    known: Mapping[str, Known]
    verdict: Callable[[Known], Verdict]
    keep: Callable[[Path, str, str], object]
    rules: str
    withdraw: bool
    now_s: float
    scratch: Path
    say: Say

    def groups(self, arrivals: Sequence[Arrival], refreshed: dict[str, Known]) -> Iterator[Group]:
        """Read what is not known, group by group; ``refreshed`` takes what to remember of images without news."""
        there = {arrival.name for arrival in arrivals}
        for name, known in self.known.items():
            if name not in there and known.digest and self.verdict(known) == "refused":
                refreshed[name] = msgspec.structs.replace(known, version="", digest="")
        suspects = [arrival for arrival in arrivals if self._suspect(arrival)]
        if suspects or refreshed:
            suspects = [arrival for arrival in arrivals if self._suspect(arrival) or not self._done(arrival.name)]
        # by a hash of the name, so that every label and every share of bad ones is spread over the groups
        suspects.sort(key=lambda arrival: hashlib.sha256(arrival.name.encode()).digest())
        read = {arrival.name for arrival in suspects}
        present = {self.known[each.name].digest: each for each in arrivals if each.name not in read}
        for group in _grouped(self._items(suspects, there, present, refreshed)):
            lasting = [item.name for item in group.items if not item.gone]
            if lasting and all(self._tried(name, group.digest) for name in lasting):
                for item in group.items:
                    if not item.gone:
                        refreshed[item.name] = msgspec.structs.replace(item.known, group=group.digest)
            else:
                yield group

    def _tried(self, name: str, group: str) -> bool:
        """Say whether the very same group was refused by the same rules."""
        known = self.known.get(name)
        return known is not None and known.group == group and self.verdict(known) == "refused"

    def _suspect(self, arrival: Arrival) -> bool:
        known = self.known.get(arrival.name)
        unchanged = known is not None and known.trusted and known.version == arrival.version
        return known is None or not unchanged or self.verdict(known) == "open"

    def _done(self, name: str) -> bool:
        return name in self.known and self.verdict(self.known[name]) == "done"

    def _items(
        self, arrivals: Sequence[Arrival], there: set[str], present: dict[str, Arrival], refreshed: dict[str, Known]
    ) -> Iterator[Item]:
        for arrival in arrivals:
            item = self._read(arrival)
            if item is None:
                continue
            before = self.known.get(arrival.name)
            present[item.digest] = arrival
            if before is not None and before.digest == item.digest and self._done(arrival.name):
                refreshed[arrival.name] = msgspec.structs.replace(
                    before, version=arrival.version, trusted=item.known.trusted
                )
                continue
            yield item
        if self.withdraw:
            yield from self._withdrawn(there, present)

    def _withdrawn(self, there: set[str], present: Mapping[str, Arrival]) -> Iterator[Item]:
        for name, known in self.known.items():
            if name in there or known.held not in present or not self._done(name):
                continue
            item = self._read(present[known.held])
            if item is not None and item.digest == known.held:
                gone = Known(version="", digest="", trusted=True, rules=self.rules, count=known.count + 1)
                yield item._replace(name=name, known=gone, gone=True)

    def _read(self, arrival: Arrival) -> Item | None:
        """The image with its digest; None, and told, when it is not whole yet or has gone."""
        if arrival.size_bytes > MAX_IMAGE_BYTES:
            reason = f"has {arrival.size_bytes:,} bytes, more than {MAX_IMAGE_BYTES:,}"
            return self._item(arrival, digest([arrival.version, arrival.size_bytes]), b"", reason)
        copy = self.scratch / "image"
        copy.unlink(missing_ok=True)  # a file that is cut to nothing and written again is flushed by ext4: 4 ms each
        staged = self.inbox.stage(arrival, copy, self.say)
        if staged is None:
            return None
        content = staged.path.read_bytes()
        reason = fault(content)
        if reason:
            self.keep(staged.path, staged.digest, arrival.name)
        return self._item(arrival, staged.digest, content, reason)

    def _item(self, arrival: Arrival, content_digest: str, content: bytes, reason: str) -> Item:
        before = self.known.get(arrival.name)
        count = 0 if before is None else before.count + (before.digest != content_digest)
        known = Known(
            version=arrival.version,
            digest=content_digest,
            trusted=arrival.modified_s is None or self.now_s - arrival.modified_s > _RACY_S,
            rules=self.rules,
            count=count,
            bad=bool(reason),
            stored=before.held if before is not None and reason else "",
        )
        return Item(arrival.name, content_digest, content, reason, known)


def _grouped(items: Iterable[Item]) -> Iterator[Group]:
    """Cut into groups that are bounded in files and bytes."""
    held: list[Item] = []
    size = 0
    for item in items:
        if held and (len(held) >= GROUP_FILES or size + len(item.content) > GROUP_BYTES):
            yield _group(held)
            held, size = [], 0
        held.append(item)
        size += len(item.content)
    if held:
        yield _group(held)


def _group(items: Iterable[Item]) -> Group:
    return Group(tuple(sorted(items, key=lambda item: item.name)))
