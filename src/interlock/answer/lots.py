"""Which records a challenger gets: lots drawn by a hash, the same for the same key wherever and whenever it is drawn.

A key is hashed with BLAKE2b, keyed by the challenger's digest, so that another challenger meets other keys. Drawn are
the keys whose hash, as a number in [0, 1), is below ``share``: a larger share keeps the keys of a smaller one.
"""

from collections.abc import Sequence
from hashlib import blake2b
from typing import Final, Literal

from interlock.model.rows import Row
from interlock.records import Column

_BYTES: Final = 8
_SPACE: Final = 1 << (8 * _BYTES)
HEADER: Final = "header:"
COLUMN: Final = "column:"


class Lots:
    """Draws for one challenger. ``key``: as in ``[canary]``; a column that is not there is no key.

    ``header``: name of the request header that is the key, lower case; empty where it is another.
    """

    def __init__(self, share: float, challenger: str, key: str, columns: Sequence[Column]) -> None:
        self._below = round(share * _SPACE)
        self._salt = bytes.fromhex(challenger)
        self.header = key.removeprefix(HEADER).lower() if key.startswith(HEADER) else ""
        names = [column.name for column in columns]
        wanted = key.removeprefix(COLUMN) if key.startswith(COLUMN) else None
        self._place = names.index(wanted) if wanted in names else None
        self._by: Literal["client", "header", "record"] = (
            "client" if key == "client" else "header" if self.header else "record"
        )

    def drawn(self, rows: Sequence[Row], client: object) -> Sequence[int]:
        """Places of the rows that are the challenger's.

        ``client``: name of the key, address and, where a header is the key, its value; without them each record is
        its own key.
        """
        known = self._known(client)
        if known:
            return range(len(rows)) if self._hits(known.encode("utf-8", "surrogatepass")) else ()
        if self._place is None:
            return [place for place, row in enumerate(rows) if self._hits(b"\0".join(map(_spelled, row)))]
        at = self._place
        return [place for place, row in enumerate(rows) if self._hits(_spelled(row[at]))]

    def _known(self, client: object) -> str:
        if self._by == "record" or not isinstance(client, tuple):
            return ""
        if self._by == "client":
            return str(client[0] or client[1])
        return str(client[2]) if len(client) > 2 else ""

    def _hits(self, key: bytes) -> bool:
        found = blake2b(key, digest_size=_BYTES, key=self._salt).digest()
        return int.from_bytes(found, "big") < self._below


def _spelled(value: object) -> bytes:
    return value if isinstance(value, bytes) else repr(value).encode("utf-8", "surrogatepass")
