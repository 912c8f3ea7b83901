"""The contract of a source: read from the project, held against its settings, and kept in the ledger.

What the document and the settings say of one thing must be the same; where only one of them says it, that counts.
"""

from collections.abc import Iterator

import msgspec

from interlock.data.odcs import read_contract
from interlock.data.opening import shown
from interlock.data.plain_yaml import MAX_BYTES
from interlock.data.rules import Contract
from interlock.data.sources import HOLDOUT, source_of
from interlock.errors import SettingsError
from interlock.ports import Parts, Turn
from interlock.records import Record, digest
from interlock.settings import Settings, Source


class Held(Record, frozen=True, kw_only=True):
    """Document ``contract``: the contract that a source was last held against, and what of it nobody enforces."""

    file: str
    digest: str
    notes: tuple[str, ...] = ()


def contract_of(settings: Settings, source: Source, name: str) -> Contract | None:
    """The contract that ``source`` names, or None. ``name`` chooses among several objects of one document.

    Raises :class:`SettingsError` when the file is not there, is no file of the project, or is no contract.
    """
    if not source.contract:
        return None
    path = settings.path(source.contract)
    if not path.is_relative_to(settings.root.resolve()):
        raise SettingsError(
            f"The contract {shown(source.contract)} is no file of the project.", next_step="Copy it into the project."
        )
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as problem:
        raise SettingsError(
            f"The contract {shown(source.contract)} cannot be read: {problem.strerror}.",
            next_step="Put it there, or mend 'contract' of the source.",
        ) from problem
    return read_contract(data, file=source.contract, source=name)


def agreed(source: Source, contract: Contract, where: str) -> Source:
    """The settings of a source with what its contract says of key, types and empty cells.

    Doing it again changes nothing. ``where`` is the table of the settings, for messages.
    Raises :class:`SettingsError` when the two contradict.
    """
    for said, place in _contradictions(source, contract):
        raise SettingsError(
            f"{where}.{said}, and {shown(contract.file)} says otherwise ({place}).",
            next_step="Take it out of the settings, or change the contract.",
            place=place,
        )
    key = source.key or contract.key
    if source.new_columns == "add" and not key:
        raise SettingsError(
            f"{where}.new_columns = 'add' needs a key, and {shown(contract.file)} has none (primaryKey).",
            next_step="Set key of the source, or primaryKey in the contract.",
        )
    free = [each.name for each in contract.columns if not each.required and each.name not in key]
    return msgspec.structs.replace(
        source,
        key=key,
        types={**{each.name: each.type for each in contract.columns if each.type is not None}, **source.types},
        nullable=tuple(dict.fromkeys((*source.nullable, *free))),
    )


def _contradictions(source: Source, contract: Contract) -> Iterator[tuple[str, str]]:
    """What the settings say, and where the document says something else."""
    if source.key and contract.key and set(source.key) != set(contract.key):
        listed = ", ".join(f"'{shown(name, 40)}'" for name in source.key)
        yield f"key is [{listed}]", f"primaryKey of {', '.join(shown(name, 40) for name in contract.key)}"
    for each in contract.columns:
        name, declared = shown(each.name, 60), source.types.get(each.name)
        if declared is not None and each.type is not None and declared != each.type:
            yield f"types says {declared} for column '{name}'", f"{each.path}.logicalType"
        for setting in ("nullable", "optional"):
            if each.required and each.name in getattr(source, setting):
                yield f"{setting} names column '{name}'", f"{each.path}.required"


def with_contracts(settings: Settings) -> Settings:
    """The settings with each source as its contract completes it. Raises :class:`SettingsError`."""
    changed = {}
    for name, source in settings.sources.items():
        contract = contract_of(settings, source, name)
        if contract is not None:
            changed[name] = agreed(source, contract, place_of(settings, name))
    if not changed:
        return settings
    if settings.data.sources:
        data = msgspec.structs.replace(settings.data, sources={**settings.data.sources, **changed})
    else:
        (only,) = changed.values()
        told = {field: getattr(only, field) for field in ("key", "types", "nullable")}
        data = msgspec.structs.replace(settings.data, **told)
    return msgspec.structs.replace(settings, data=data)


def place_of(settings: Settings, name: str) -> str:
    """The table of the settings in which a source is written."""
    return f"data.sources.{name}" if settings.data.sources else "data"


def tell(parts: Parts, turn: Turn, name: str, contract: Contract) -> None:
    """Record a contract when it is first held against a source, and say once what of it is not enforced."""
    held = Held(file=contract.file, digest=contract.digest, notes=contract.notes)
    if parts.ledger.read("contract", name, Held) == held:
        return
    for note in contract.notes:
        turn.say(note)
    with turn.transaction(parts.ledger) as t:
        t.append("contract.read", name, msgspec.to_builtins(held))
        t.put("contract", name, held)


def held_against(parts: Parts, turn: Turn, name: str) -> tuple[Source, Contract | None, str]:
    """The source as its contract completes it, the contract, and the digest of all that files are held against."""
    settings, source = parts.settings, source_of(parts.settings, name)
    named = next(iter(settings.row_sources)) if name == HOLDOUT else name
    contract = contract_of(settings, source, named)
    if contract is None:
        said = msgspec.to_builtins(source)
        del said["contract"]  # a source without one has the digest that it always had
        return source, None, digest([said, settings.bad_row_share(source)])
    source = agreed(source, contract, place_of(settings, named))
    tell(parts, turn, name, contract)
    return source, contract, digest([msgspec.to_builtins(source), settings.bad_row_share(source), contract.digest])
