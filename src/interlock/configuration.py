"""Read ``interlock.toml``, its environments, ``INTERLOCK_…`` variables and ``--set`` into :class:`Settings`.

Later wins: the file, ``[env.NAME]``, the variables, ``--set``. Every unknown or impossible key raises
:class:`~interlock.errors.SettingsError` with the nearest valid key and, where it stands in the file, its line.
"""

import difflib
import math
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
from msgspec import inspect

from interlock.errors import NotFound, SettingsError, StoreFault, bounded
from interlock.records import canonical
from interlock.settings import FILE_NAME, IMAGE_COLUMNS, Dimension, HoldoutSpec, Settings, Source
from interlock.units import DURATION_PATTERN, NAME_PATTERN, SCHEMA_PATTERN, SIZE_PATTERN

_FORMS = {
    DURATION_PATTERN: "Write a number with ms, s, m, h, d or w, as 90s or 28d.",
    SIZE_PATTERN: "Write a number with MB, GB or TB, as 500MB or 4GB.",
    NAME_PATTERN: "Letters, digits, '_', '.' and '-', at most 64.",
    SCHEMA_PATTERN: "Lower-case letters, digits and '_', at most 63, not beginning with pg_.",
}
_STATE = re.compile(r"sqlite|sqlite:///[^?]+|(?:postgresql|postgres|postgresql\+psycopg)://.+", re.DOTALL)
_PREFIX = "INTERLOCK_"
_NOT_SETTINGS = frozenset({"INTERLOCK_ENV", "INTERLOCK_KEY"})
_INTERNAL = ("root", "environment")
_RESERVED_SOURCES = frozenset({"holdout"})
_IDENTIFIER = re.compile(r"^[A-Za-z][A-Za-z0-9_]{0,62}$")


def find_project(start: Path) -> Path:
    """The nearest folder from ``start`` upwards that holds an ``interlock.toml``; raises :class:`NotFound`."""
    for folder in (start.resolve(), *start.resolve().parents):
        if (folder / FILE_NAME).is_file():
            return folder
    raise NotFound(
        f"There is no {FILE_NAME} in {start.resolve()} or above it.",
        next_step="Change to the project's folder, pass --project FOLDER, or start one with 'interlock init'.",
    )


def load_settings(
    root: Path, *, environment: str = "", variables: Mapping[str, str] | None = None, overrides: Sequence[str] = ()
) -> Settings:
    """Settings of the project in ``root``.

    ``variables`` is usually ``os.environ``; ``overrides`` are ``key.path=value`` texts. Values that come from outside
    the file are read as TOML where that is possible (``0.5``, ``true``, ``["a"]``) and as text otherwise.
    Raises :class:`SettingsError`, and :class:`NotFound` when there is no file.
    """
    file = root / FILE_NAME
    if not file.is_file():
        raise NotFound(f"There is no {FILE_NAME} in {root}.", next_step="Start a project with 'interlock init'.")
    text = _read_text(file)
    layers = _parse(text)
    environments = layers.pop("env", {})
    if environment and environment not in environments:
        raise SettingsError(
            f"There is no [env.{environment}] in {FILE_NAME}.",
            next_step=_nearest(environment, environments, "environments"),
        )
    for name, layer in environments.items():
        _refuse_unknown(layer, text, f"env.{name}")
    _refuse_unknown(layers, text, "")
    merged = _merge(layers, environments.get(environment, {}))
    for key, value in (*_from_variables(variables or {}, merged), *map(_from_override, overrides)):
        merged = _merge(merged, _nested(key, value))
    _refuse_unknown(merged, "", "")
    if not merged.get("store", {}).get("tracking"):
        merged = _merge(merged, _from_elsewhere(variables or {}))
    return _coherent(_convert(merged, text, root.resolve(), environment))


# ---- reading -----------------------------------------------------------------------------------------------------


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as problem:
        raise SettingsError(
            f"{FILE_NAME} is not UTF-8 (byte {problem.start}).", next_step="Save the file as UTF-8."
        ) from problem
    except OSError as problem:
        raise SettingsError(
            f"{FILE_NAME} cannot be read: {problem.strerror}.", next_step="Check its permissions."
        ) from problem


def _parse(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as problem:
        raise SettingsError(f"{FILE_NAME} is not valid TOML: {problem}.", next_step="Mend that line.") from problem


def _from_variables(variables: Mapping[str, str], known: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name in sorted(variables):
        if name.startswith(_PREFIX) and name not in _NOT_SETTINGS:
            path = tuple(name.removeprefix(_PREFIX).lower().split("__"))
            yield _spelled_as_in(known, path), _value(variables[name])


def _from_elsewhere(variables: Mapping[str, str]) -> dict[str, Any]:
    """What other tools' variables say, where nothing is said to us."""
    uri = variables.get("MLFLOW_TRACKING_URI", "")
    return {"store": {"tracking": uri}} if uri else {}


def _spelled_as_in(known: Mapping[str, Any], path: tuple[str, ...]) -> tuple[str, ...]:
    """Environment variables have no case; take the spelling of a key that is already there."""
    result: list[str] = []
    level: Any = known
    for part in path:
        match = next((key for key in level if key.lower() == part), part) if isinstance(level, Mapping) else part
        result.append(match)
        level = level.get(match, {}) if isinstance(level, Mapping) else {}
    return tuple(result)


def _from_override(text: str) -> tuple[tuple[str, ...], Any]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise SettingsError(f"'--set {text}' has no key and value.", next_step="Write --set gate.at_least=0.5.")
    return tuple(key.strip().split(".")), _value(value)


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"] if "\n" not in text else text
    except (tomllib.TOMLDecodeError, KeyError):
        return text


def _nested(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    for part in reversed(path):
        value = {part: value}
    assert isinstance(value, dict)
    return value


_REPLACED_WHOLE = frozenset({"holdout"})
"""Tables that mean one thing together: a later layer replaces them instead of adding to them."""


def _merge(low: Mapping[str, Any], high: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(low)
    for key, value in high.items():
        before = result.get(key)
        joined = isinstance(before, Mapping) and isinstance(value, Mapping) and key not in _REPLACED_WHOLE
        result[key] = _merge(before, value) if joined else value  # type: ignore[arg-type]
    return result


# ---- unknown keys ------------------------------------------------------------------------------------------------


def _refuse_unknown(data: Mapping[str, Any], text: str, prefix: str) -> None:
    for path, valid in _unknown_keys(data, inspect.type_info(Settings), ()):
        where = ".".join((*filter(None, (prefix,)), *path))
        line = line_of(text, where)
        place = f" (line {line})" if line else ""
        raise SettingsError(
            f"Unknown key '{where}'{place}.", next_step=_nearest(path[-1], valid, "keys here"), key=where, line=line
        )


def _unknown_keys(
    data: Mapping[str, Any], type: inspect.Type, path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], Sequence[str]]]:
    bare = _bare(type)
    if isinstance(bare, inspect.StructType):
        fields = {field.encode_name: field.type for field in bare.fields if path or field.encode_name not in _INTERNAL}
        for key, value in data.items():
            if key not in fields:
                yield (*path, key), tuple(fields)
            elif isinstance(value, Mapping):
                yield from _unknown_keys(value, fields[key], (*path, key))
    elif isinstance(bare, inspect.DictType):
        for key, value in data.items():
            if isinstance(value, Mapping):
                yield from _unknown_keys(value, bare.value_type, (*path, key))


def _nearest(name: str, valid: Mapping[str, Any] | Sequence[str], what: str) -> str:
    close = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.5)
    if close:
        return f"Did you mean '{close[0]}'?"
    return f"The {what}: {', '.join(sorted(valid))}." if valid else f"There are no {what}."


def line_of(text: str, dotted: str) -> int | None:
    """The 1-based line of TOML ``text`` on which the key ``dotted`` (or its table) is written, or None.

    It looks for headers and assignments at line starts, which is where people write them; inside an inline table or a
    multi-line value the line of the key that holds it is given.
    """
    wanted = tuple(dotted.split("."))
    table: tuple[str, ...] = ()
    best: tuple[int, int] | None = None
    for number, line in enumerate(text.splitlines(), start=1):
        header = re.match(r"^\s*\[\[?\s*([^\]]+?)\s*\]\]?\s*(#.*)?$", line)
        assigned = re.match(r"""^\s*([A-Za-z0-9_.\-"' ]+?)\s*=""", line)
        if header:
            table = _parts(header[1])
            key = table
        elif assigned:
            key = (*table, *_parts(assigned[1]))
        else:
            continue
        if wanted[: len(key)] == key and (best is None or len(key) > best[0]):
            best = (len(key), number)
    return best[1] if best else None


def _parts(key: str) -> tuple[str, ...]:
    return tuple(part.strip().strip("\"'") for part in key.split("."))


# ---- values ------------------------------------------------------------------------------------------------------


def _convert(merged: dict[str, Any], text: str, root: Path, environment: str) -> Settings:
    if "model" not in merged:
        raise SettingsError(f"{FILE_NAME} has no [model].", next_step="Add [model] with name, task and target.")
    try:
        settings = msgspec.convert(merged, Settings, strict=True)
    except msgspec.ValidationError as problem:
        message, _, place = str(problem).partition(" - at `$")
        key = re.sub(r"\[(?:\.\.\.|\d+)\]", "", place.strip("`").lstrip(".")) or "the file"
        line = line_of(text, key)
        message = re.sub(r"matching regex '.*'$", "of another form", message.replace("`", ""))
        raise SettingsError(
            f"'{key}'{f' (line {line})' if line else ''}: {message}.",
            next_step=_what_it_takes(key),
            key=key,
            line=line,
        ) from problem
    return msgspec.structs.replace(settings, root=root, environment=environment)


def _what_it_takes(key: str) -> str:
    """The meaning and the choices of a key, from its own description."""
    found: inspect.Type = inspect.type_info(Settings)
    told: list[str] = []
    for part in key.split("."):
        bare = _bare(found)
        if isinstance(bare, inspect.StructType):
            found = next((field.type for field in bare.fields if field.encode_name == part), inspect.AnyType())
        elif isinstance(bare, inspect.DictType):
            found = bare.value_type
    told += _descriptions(found)
    choices = _bare(found)
    if isinstance(choices, inspect.LiteralType):
        told.append(f"One of: {', '.join(map(str, choices.values))}.")
    if isinstance(choices, inspect.StrType) and choices.pattern:
        told.append(_FORMS.get(choices.pattern, f"It must match {choices.pattern}."))
    return " ".join(told) or "'interlock.toml' takes another kind of value here."


def _bare(found: inspect.Type) -> inspect.Type:
    while isinstance(found, inspect.Metadata | inspect.UnionType):
        if isinstance(found, inspect.Metadata):
            found = found.type
        else:  # something or nothing
            found = next(kind for kind in found.types if not isinstance(kind, inspect.NoneType))
    return found


def _descriptions(found: inspect.Type) -> list[str]:
    """What the key is for, and the form of its text (a duration, a name)."""
    told = []
    while isinstance(found, inspect.Metadata):
        description = (found.extra_json_schema or {}).get("description")
        told += [str(description)] if description else []
        found = found.type
    return told


def _coherent(settings: Settings) -> Settings:
    for problem, next_step in _incoherent(settings):
        raise SettingsError(problem, next_step=next_step)
    return settings


def _incoherent(settings: Settings) -> Iterator[tuple[str, str]]:
    model, data = settings.model, settings.data
    if model.task != "custom" and not model.target:
        yield f"model.target is empty, and task '{model.task}' needs one.", "Name the column to predict in [model]."
    if model.target and model.target in model.features:
        yield f"model.features names the target '{model.target}'.", "Take it out: the model may not see it."
    if data.sources and data.inbox:
        yield "[data] has an inbox of its own and sources.", "Keep one of the two."
    if data.sources and data.contract:
        yield "[data] has a contract of its own and sources.", "Give it to the source that it is about."
    if not settings.row_sources:
        yield "All sources are for reference, so there are no rows to judge by.", "Leave out 'reference' of one."
    if len(settings.row_sources) > 1 and not data.query:
        yield "There are several sources and no data.query.", "Join them in SQL, by their names."
    for name, source in settings.sources.items():
        yield from _incoherent_source(name, source, bool(data.sources))
        if (
            source.new_columns == "add"
            and not source.key
            and not source.contract
            and data.holdout.fraction
            and not data.holdout.key
        ):
            yield (
                "new_columns = 'add' needs a key: without one the split depends on the whole row, and would move.",
                "Set key of the source, or data.holdout.key.",
            )
    yield from _incoherent_holdout(data.holdout)
    yield from _incoherent_folders(settings)
    yield from _incoherent_store(settings)
    yield from _incoherent_tune(settings)
    try:
        canonical(settings.params)
    except StoreFault:
        yield "[params] holds a number that is not finite.", "Leave it out, and let the code have its own default."


def _incoherent_source(name: str, source: Source, named: bool) -> Iterator[tuple[str, str]]:
    where = f"data.sources.{name}" if named else "data"
    if not source.inbox:
        yield f"{where}.inbox is not set.", "Name the folder where data files land."
    if not _IDENTIFIER.match(name) or name in _RESERVED_SOURCES:
        yield f"'{name}' cannot be the name of a source.", "Use letters, digits and '_', not 'holdout'."
    if source.files == "images":
        yield from _incoherent_images(where, source)
    elif source.label != "label":
        yield f"{where}.label is set, and its files are tables.", 'Set files = "images", or take label out.'


def _incoherent_images(where: str, source: Source) -> Iterator[tuple[str, str]]:
    if source.label.casefold() in (*IMAGE_COLUMNS, "prediction") or not _IDENTIFIER.match(source.label):
        yield f"{where}.label cannot be '{source.label}'.", "Name a column: letters, digits and '_'."
    unknown = sorted({*source.key, *source.types, *source.optional} - {*IMAGE_COLUMNS, source.label})
    if unknown:
        columns = ", ".join((*IMAGE_COLUMNS, source.label))
        yield f"{where} names column '{unknown[0]}', which images do not have.", f"Columns: {columns}."
    other = [name for name in IMAGE_COLUMNS if source.types.get(name) != ("bytes" if name == "image" else "str")]
    if other:
        yield f"{where}.types.{other[0]} is not the type of that column.", "Only the label may have another type."


def _incoherent_holdout(holdout: HoldoutSpec) -> Iterator[tuple[str, str]]:
    ways = [name for name in ("fraction", "last", "inbox") if getattr(holdout, name) is not None]
    if len(ways) != 1:
        found = " and ".join(ways) or "nothing"
        yield (
            f"data.holdout sets {found}.",
            'Set one of: { fraction = 0.2 }, { last = "28d", time = "date" }, { inbox = "…" }.',
        )
    if (holdout.last is None) != (holdout.time is None):
        yield "data.holdout needs last and time together.", 'Write { last = "28d", time = "date" }.'


def _incoherent_folders(settings: Settings) -> Iterator[tuple[str, str]]:
    """What lands in one place must mean one thing."""
    places = {f"the inbox of source '{name}'": source.inbox for name, source in settings.sources.items()}
    places |= {"data.holdout.inbox": settings.data.holdout.inbox or "", "batch.inbox": settings.batch.inbox}
    if settings.batch.inbox:
        places["batch.output"] = settings.batch.output
    seen: dict[str, str] = {}
    for name, place in places.items():
        if place:
            where = place if "://" in place else str(settings.path(place))
            if where in seen:
                yield f"{name} and {seen[where]} are the same place, {place}.", "Give each a folder of its own."
            seen[where] = name


def _incoherent_store(settings: Settings) -> Iterator[tuple[str, str]]:
    if not _STATE.fullmatch(settings.store.state):
        yield (
            f"store.state '{bounded(settings.store.state.partition(':')[0], 40)}' is not supported.",
            "Use sqlite, sqlite:///FILE (without options), or postgresql://USER:PASSWORD@HOST:PORT/DATABASE.",
        )
    lake = urlsplit(settings.store.lake)
    if "://" in settings.store.lake and (lake.scheme != "s3" or not lake.hostname or lake.query or "%" in lake.path):
        yield (
            f"store.lake '{lake.scheme}://…' is neither a folder nor s3://bucket/prefix.",
            "Name a folder, or s3://bucket/prefix; credentials come from the AWS_… variables.",
        )
    elif lake.username is not None or lake.password is not None:
        yield "store.lake holds a user or a password.", "Set the AWS_… variables instead: settings are kept and shown."


def _incoherent_tune(settings: Settings) -> Iterator[tuple[str, str]]:
    tune = settings.tune
    if tune.trials and not tune.space:
        yield (
            f"tune.trials is {tune.trials}, and tune.space names no parameter.",
            "Write [tune.space] with NAME = { low = 1, high = 10 }, or set trials to 0.",
        )
    if tune.trials and not settings.model.target:
        yield "There is nothing to score trials by.", "Name the column to predict in model.target, or take [tune] out."
    for name, dimension in tune.space.items():
        if not name.isidentifier():
            yield f"tune.space has '{name}', which cannot be the name of a parameter.", "Use letters, digits and '_'."
        fault = _impossible(dimension)
        if fault is not None:
            yield f"tune.space.{name} {fault[0]}.", fault[1]
        if name in settings.params and not dimension.holds(settings.params[name]):
            yield (
                f"params.{name} is {settings.params[name]!r}, which tune.space.{name} does not hold.",
                "The search begins there: widen the range, or change the value.",
            )


def _impossible(dimension: Dimension) -> tuple[str, str] | None:
    """What is wrong with one line of the space, and how to mend it."""
    if not dimension.choices:
        return _impossible_range(dimension)
    if (dimension.low, dimension.high, dimension.step) != (None, None, None) or dimension.log:
        return "has choices and a range", "Keep one of the two."
    if any(isinstance(value, float) and not math.isfinite(value) for value in dimension.choices):
        return "has a choice that is not finite", "Take it out."
    if len(dimension.choices) < 2 or len(set(dimension.choices)) < len(dimension.choices):
        return "needs two different choices or more", "A single value belongs into [params]."
    return None


def _impossible_range(dimension: Dimension) -> tuple[str, str] | None:
    low, high, step = dimension.low, dimension.high, dimension.step
    if low is None or high is None:
        return "has neither choices nor both of low and high", "Write { low = 1, high = 10 } or { choices = [1, 2] }."
    if not all(math.isfinite(value) for value in (low, high, step or 0)):
        return "has a bound that is not finite", "Write numbers."
    if low >= high:
        return (
            f"is empty: low is {low} and high is {high}",
            "Write low below high; a single value belongs into [params].",
        )
    if dimension.log and (low <= 0 or step is not None):
        return "cannot be searched by order of magnitude", "With log, low must be above 0 and there is no step."
    if step is not None and not 0 < step <= high - low:
        return f"has a step of {step} between {low} and {high}", "Write a step above 0 that fits in between."
    return None


def json_schema() -> dict[str, Any]:
    """JSON schema of ``interlock.toml``, for editors."""
    schema = msgspec.json.schema(Settings, schema_hook=lambda _: {"type": "string"})
    definitions = schema["$defs"]
    root = definitions["Settings"]
    for name in _INTERNAL:
        root["properties"].pop(name)
    sections = {"type": "object", "additionalProperties": False, "properties": dict(root["properties"])}
    root["properties"]["env"] = {
        "description": "Environments: each may override any key; chosen with --env NAME or INTERLOCK_ENV.",
        "type": "object",
        "additionalProperties": sections,
    }
    return schema
