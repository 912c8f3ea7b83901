"""YAML as plain data, read within bounds and written the same way every time; needs PyYAML.

Only what JSON could say is read, by the core schema of YAML 1.2: ``no`` and ``2024-01-01`` are text. Tags, merge
keys, keys that come twice and several documents are refused. What an alias stands for counts each time, so that
none multiplies.
"""

import math
import re
from collections.abc import Iterator
from typing import Any

from interlock.errors import Misuse, SettingsError

MAX_BYTES = 2**20
MAX_NODES = 100_000
MAX_DEPTH = 32
_INT = re.compile(r"[-+]?[0-9]{1,18}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS: dict[str, bool | None] = {"": None, "~": None, "null": None, "Null": None, "NULL": None}
_WORDS |= {word: word.lower() == "true" for word in ("true", "True", "TRUE", "false", "False", "FALSE")}


def read_yaml(data: bytes, name: str) -> Any:
    """The one document in ``data``; ``name`` is what messages say. Raises :class:`SettingsError`, with the line."""
    yaml = _library()
    if len(data) > MAX_BYTES:
        raise SettingsError(f"{name} has {len(data):,} bytes, more than {MAX_BYTES:,}.", next_step="Make it smaller.")
    try:
        text = data.decode("utf-8-sig")
        events = yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        return _Document(yaml, events, name).value()
    except UnicodeDecodeError as problem:
        raise SettingsError(f"{name} is not UTF-8 (byte {problem.start}).", next_step="Save it as UTF-8.") from problem
    except yaml.YAMLError as problem:
        mark = getattr(problem, "problem_mark", None)
        where = f" (line {mark.line + 1})" if mark else ""
        what = getattr(problem, "problem", None) or getattr(problem, "reason", None) or "it cannot be parsed"
        raise SettingsError(f"{name} is not valid YAML{where}: {what}.", next_step="Mend that line.") from problem


def write_yaml(value: Any) -> str:
    """Mappings, lists and scalars as YAML: keys in their order, no aliases, text quoted where needed.

    What is written reads back the same, by :func:`read_yaml` and by readers of YAML 1.1.
    """
    yaml = _library()

    class Writer(yaml.SafeDumper):  # type: ignore[misc, name-defined]
        def ignore_aliases(self, _: Any) -> bool:
            return True

    def text(writer: Any, value: str) -> Any:
        plain = resolved(value) == value and value not in ("<<", "=") and value.isprintable()
        return writer.represent_scalar("tag:yaml.org,2002:str", value, style=None if plain else '"')

    Writer.add_representer(str, text)
    written: str = yaml.dump(value, Dumper=Writer, sort_keys=False, allow_unicode=True, width=1_000_000)
    return written


def resolved(text: str) -> Any:
    """What an unquoted word stands for: null, true or false, a number, else itself."""
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text) and len(text) < 40:
        number = float(text)
        return number if math.isfinite(number) else text
    return text


def _library() -> Any:
    try:
        import yaml
    except ImportError as problem:
        raise Misuse(
            "Data contracts need the package 'pyyaml', which is not installed.",
            next_step="pip install 'interlock[contract]'",
        ) from problem
    return yaml


class _Document:
    """Builds the value from the parser's events, which come one by one and are counted."""

    def __init__(self, yaml: Any, events: Iterator[Any], name: str) -> None:
        self._yaml, self._events, self._name = yaml, events, name
        self._anchors: dict[str, tuple[Any, int]] = {}
        self._nodes = 0

    def value(self) -> Any:
        """The document's value; None for an empty text."""
        found, documents = None, 0
        for event in self._events:
            if isinstance(event, self._yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise self._refused(event, "holds a second document")
            elif isinstance(event, self._yaml.NodeEvent):
                found = self._node(event, 0)
        return found

    def _node(self, event: Any, depth: int) -> Any:
        before = self._nodes
        self._count(event, 1)
        if depth > MAX_DEPTH:
            raise self._refused(event, f"is nested deeper than {MAX_DEPTH}")
        if isinstance(event, self._yaml.AliasEvent):
            if event.anchor not in self._anchors:
                raise self._refused(event, "has an alias of what is not there or not complete")
            value, nodes = self._anchors[event.anchor]
            self._count(event, nodes)
            return value
        if event.tag is not None:
            raise self._refused(event, "has a tag, and only plain values are read")
        if isinstance(event, self._yaml.ScalarEvent):
            value = resolved(event.value) if event.implicit[0] else event.value
        elif isinstance(event, self._yaml.SequenceStartEvent):
            value = [self._node(item, depth + 1) for item in self._until(self._yaml.SequenceEndEvent)]
        else:
            value = self._mapping(depth)
        if event.anchor is not None:
            self._anchors[event.anchor] = (value, self._nodes - before)
        return value

    def _mapping(self, depth: int) -> dict[str, Any]:
        value: dict[str, Any] = {}
        for event in self._until(self._yaml.MappingEndEvent):
            key = self._node(event, depth + 1)
            if not isinstance(key, str):
                raise self._refused(event, "has a key that is not text")
            if key == "<<":
                raise self._refused(event, "has a merge key ('<<'), which is not read")
            if key in value:
                raise self._refused(event, f"has the key '{key[:60]}' twice")
            value[key] = self._node(next(self._events), depth + 1)
        return value

    def _until(self, end: type) -> Iterator[Any]:
        for event in self._events:
            if isinstance(event, end):
                return
            yield event

    def _count(self, event: Any, nodes: int) -> None:
        self._nodes += nodes
        if self._nodes > MAX_NODES:
            raise self._refused(event, f"holds more than {MAX_NODES:,} values, aliases followed")

    def _refused(self, event: Any, what: str) -> SettingsError:
        line = event.start_mark.line + 1
        return SettingsError(f"{self._name} {what} (line {line}).", next_step="Write it out plainly.", line=line)
