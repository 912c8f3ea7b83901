"""Whose memory this is: a state and a lake belong to one project, and to each other.

The first to open a state writes its name and a token there, and puts the same token into the lake, if absent. Whoever
comes later with another name, or with a lake that has another token, is refused before anything is read or written:
two projects that point to one database or one bucket cannot mix. Any number of hosts may share both. The state that a
project keeps in its own folder (``store.state = "sqlite"``) is its own under any name: there a model may be renamed.
"""

import secrets

import msgspec

from interlock.errors import Conflict, NotFound, SettingsError, StoreFault
from interlock.ports import Blobs, Ledger
from interlock.records import Record, canonical
from interlock.settings import Settings

COLLECTION, KEY = "project", "owner"
MARK = "owner.json"
"""Key of the blob that tells one lake from another, wherever it is copied or mounted."""


class Owner(Record, frozen=True, kw_only=True):
    """Who keeps the state here. ``lake``: ``store.lake`` where the token was found (empty: nowhere yet)."""

    name: str
    token: str
    lake: str = ""


class Mark(Record, frozen=True, kw_only=True):
    """The blob in the lake."""

    project: str
    token: str


def claim(ledger: Ledger, blobs: Blobs, settings: Settings, place: str) -> None:
    """Make state and lake this project's own, or see that they are; ``place`` names the state for people.

    A lake in a bucket is looked at once, one on a disk each time. Raises :class:`~interlock.errors.SettingsError` when
    one of them belongs to another project, and :class:`~interlock.errors.StoreFault` when the lake is gone.
    """
    owner = ledger.read(COLLECTION, KEY, Owner)
    if owner is None:  # before the lake has it: a kill in between must not leave a lake that is nobody's
        owner = _first(ledger, Owner(name=settings.project, token=secrets.token_hex(16)))
    if owner.name != settings.project and settings.store.state != "sqlite":
        raise SettingsError(
            f"The state in {place} belongs to project '{owner.name}', and this is '{settings.project}'. "
            "Nothing was touched.",
            next_step="Give this project a state of its own: store.state, or store.schema on Postgres. "
            f"If it is the same one under a new name, set store.project = '{owner.name}'.",
            state=place,
            owner=owner.name,
            project=settings.project,
        )
    location = settings.store.lake
    if owner.lake == location and "://" in location:
        return
    mark = _mark(blobs, owner, location)
    if not owner.lake and _left_behind(mark, settings):
        owner = msgspec.structs.replace(owner, token=mark.token)
    _require_own(mark, owner, location)
    if owner.lake != location:
        with ledger.transaction() as transaction:
            transaction.put(COLLECTION, KEY, msgspec.structs.replace(owner, lake=location))


def _first(ledger: Ledger, owner: Owner) -> Owner:
    try:
        with ledger.transaction() as transaction:
            transaction.insert(COLLECTION, KEY, owner)
    except Conflict:  # somebody else was faster
        return ledger.read(COLLECTION, KEY, Owner) or owner
    return owner


def _mark(blobs: Blobs, owner: Owner, location: str) -> Mark:
    """The mark of the lake, made where the state has never had one."""
    for attempt in range(2):
        try:
            return msgspec.json.decode(blobs.get(MARK), type=Mark)
        except msgspec.DecodeError as error:
            raise StoreFault(
                f"{MARK} in the lake {location} cannot be read.", next_step="Bring it back from a copy of the lake."
            ) from error
        except NotFound:
            if owner.lake or attempt:
                break
            blobs.put(MARK, canonical(Mark(project=owner.name, token=owner.token)))
    raise StoreFault(
        f"The lake {location} is not there, and the state tells of what it held.",
        next_step="Bring the lake back (store.lake names it; a backup), or move .interlock away to begin anew.",
        lake=location,
    )


def _left_behind(mark: Mark, settings: Settings) -> bool:
    """A new state in the project's own folder, beside a lake of the same project: the state was deleted or lost.

    The rows in the lake are found by the names of their files, and recorded again; each stays once.
    """
    own = settings.store.state == "sqlite" and "://" not in settings.store.lake
    return own and mark.project == settings.project


def _require_own(found: Mark, owner: Owner, location: str) -> None:
    if found.token == owner.token:
        return
    raise SettingsError(
        f"The lake {location} belongs to another state, that of project '{found.project[:64]}'. Nothing was touched.",
        next_step="Give this project a folder or prefix of its own in store.lake, or the state that goes with it.",
        lake=location,
        project=found.project[:64],
    )
