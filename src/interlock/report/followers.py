"""Who follows the ledger of a project, and telling them all: the last step of a turn, and the verb ``sync``."""

from collections.abc import Callable

from interlock.model.runner import Runner
from interlock.ports import Parts
from interlock.report.following import Follower, Told, behind, follow, forget


def followers_of(parts: Parts) -> list[Follower]:
    """The followers that the settings ask for."""
    found: list[Follower] = []
    if parts.settings.tracking_uri:
        from interlock.report.tracking import mlflow_follower

        found.append(mlflow_follower(parts))
    if parts.settings.lineage.to:
        from interlock.report.lineage import lineage_follower

        found.append(lineage_follower(parts))
    return found


def tell(
    parts: Parts, say: Callable[[str], None], *, deadline_s: float | None = None, again: bool = False
) -> tuple[Told, ...]:
    """Tell every follower what is new to it, each for at most ``deadline_s`` (default: as the settings say).

    With ``again``, from the beginning. Starts no process when there is nothing new, and never raises because of what
    the other side does.
    """
    found = followers_of(parts)
    for follower in found if again else ():
        forget(parts, follower)
    waiting = [follower for follower in found if behind(parts, follower)]
    if not waiting:
        return ()
    with Runner(parts.settings.root, (), parts.settings.home / "work") as runner:  # without the user's libraries
        return tuple(
            follow(parts, follower, runner, deadline_s=deadline_s or follower.deadline_s, say=say)
            for follower in waiting
        )
