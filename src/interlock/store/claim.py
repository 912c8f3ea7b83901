"""One lake, one ledger: tables hold the rows of one project, and another project's must never come among them.

The ledger keeps a token and the lake keeps the same; the first turn puts it there, if absent. Any number of hosts may
share a lake as long as they share the ledger.
"""

import json
import secrets

from interlock.errors import SettingsError, StoreFault
from interlock.ports import Parts, Turn
from interlock.records import Record, canonical

OWNER = "owner.json"


class Claim(Record, frozen=True, kw_only=True):
    """Document ``lake``/``claim``: the token, and where it was found to hold (empty: not yet)."""

    token: str
    location: str = ""


def claim_lake(parts: Parts, turn: Turn) -> None:
    """See that the lake is this ledger's; raises SettingsError when it is another's. Costs nothing once it is known."""
    location = parts.settings.store.lake
    known = parts.ledger.read("lake", "claim", Claim)
    if known is not None and known.location == location:
        return
    token = known.token if known is not None else secrets.token_hex(16)
    if known is None:  # before the lake has it: a kill in between must not leave a lake that is nobody's
        with turn.transaction(parts.ledger) as t:
            t.put("lake", "claim", Claim(token=token))
    owner = {"project": parts.settings.model.name, "token": token}
    if not parts.blobs.put(OWNER, canonical(owner)):
        _require_own(parts.blobs.get(OWNER), token, location)
    with turn.transaction(parts.ledger) as t:
        t.put("lake", "claim", Claim(token=token, location=location))


def _require_own(content: bytes, token: str, location: str) -> None:
    try:
        found = json.loads(content)
        theirs, project = str(found["token"]), str(found["project"])
    except (ValueError, KeyError, TypeError) as error:
        raise StoreFault(
            f"{OWNER} in the lake {location} cannot be read.", next_step="Bring it back from a copy of the lake."
        ) from error
    if theirs != token:
        raise SettingsError(
            f"The lake {location} belongs to another ledger, of the project '{project[:64]}'.",
            next_step="Give this project a folder or prefix of its own in store.lake and a new state; "
            "or bring that ledger back.",
            lake=location,
            project=project[:64],
        )
