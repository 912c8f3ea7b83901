"""The file of keys is followed: a key that is added opens, and one that is taken out is shut, within a second."""

import hashlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from interlock.errors import InterlockError
from interlock.serve.keys import Key, read_keys

LOOK_EVERY_S: Final = 0.25


class KeyFile:
    """Looks at the file in a thread of its own. ``show`` is called in that thread with the keys, when they changed.

    A file that cannot be read, or is no file of keys, leaves those that were read before, and is told once.
    """

    def __init__(
        self,
        path: Path,
        show: Callable[[tuple[Key, ...]], None],
        say: Callable[[str], None],
        *,
        look_every_s: float = LOOK_EVERY_S,
    ) -> None:
        self._path = path
        self._show = show
        self._say = say
        self._look_every_s = look_every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="interlock-keys", daemon=True)
        self._seen = self._digest()

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def close(self) -> None:
        """Stop looking."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5.0)

    def look(self) -> None:
        """Look once, and show the keys if they changed."""
        found = self._digest()
        if found == self._seen:
            return
        self._seen = found
        try:
            keys = read_keys(self._path)
        except InterlockError as error:
            self._say(f"the keys that were read before go on opening: {error.message}")
            return
        self._show(keys)
        self._say(f"{len(keys)} keys open now")

    def _digest(self) -> bytes:
        try:
            return hashlib.sha256(self._path.read_bytes()).digest()
        except OSError as error:
            return str(error.errno).encode()

    def _follow(self) -> None:
        while not self._stop.wait(self._look_every_s):
            self.look()
