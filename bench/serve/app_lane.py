"""``interlock`` without its fast lane: no head is remembered, so that every request goes to the application.

python bench/serve/app_lane.py --project FOLDER serve --port 8080
"""

from interlock.cli.main import main
from interlock.serve.lane import Head, Lane


def _learns_nothing(self: Lane, head: bytes, found: Head) -> None:
    del self, head, found


if __name__ == "__main__":
    Lane.learn = _learns_nothing  # type: ignore[method-assign]
    main()
