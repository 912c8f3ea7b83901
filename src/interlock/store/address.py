"""Where the state is kept, read from ``store.state``: a SQLite file or a Postgres server.

The URL is taken apart here and nowhere else, so that its password has one place to be in: :attr:`Address.url`, which
SQLAlchemy prints without it. Messages use :attr:`Address.name`, which never had it.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

import sqlalchemy as sa

from interlock.errors import SettingsError
from interlock.settings import Settings

POSTGRES_SCHEMES = ("postgresql", "postgres", "postgresql+psycopg")
_PORT = re.compile(r"^[0-9]{1,5}$")
_ENCODED = "Percent-encode special characters of user and password: @ as %40, / as %2F, : as %3A, # as %23, % as %25."
_FORM = "Write postgresql://USER:PASSWORD@HOST:PORT/DATABASE."


@dataclass(frozen=True)
class Address:
    """One database. ``name``: for people, without user, password and options. ``schema``: of Postgres, else empty."""

    name: str
    url: sa.URL = field(repr=False)
    schema: str = ""

    @property
    def path(self) -> Path | None:
        """The file of a SQLite database, None for a server."""
        return None if self.schema else Path(self.url.database or "")


def state_address(settings: Settings) -> Address:
    """Where a project keeps its state; raises :class:`~interlock.errors.SettingsError` when the URL cannot be read."""
    path = settings.state_path
    return server_address(settings.store.state, settings.store.schema) if path is None else file_address(path)


def file_address(path: Path) -> Address:
    """Address of the SQLite database in the file ``path``."""
    return Address(str(path), sa.URL.create("sqlite", database=str(path)))


def server_address(text: str, schema: str) -> Address:
    """Address of a Postgres database from its URL, as SQLAlchemy and libpq write them.

    User, password and database are percent-decoded; options after ``?`` go to libpq as they are. Raises
    :class:`~interlock.errors.SettingsError`, which never shows the text.
    """
    try:
        parts = urlsplit(text)
        options = parse_qs(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError:
        raise SettingsError("store.state is not a URL that can be read.", next_step=_ENCODED) from None
    credentials, _, place = parts.netloc.rpartition("@")
    if parts.fragment or "@" in parts.path or "@" in parts.query or "@" in credentials:
        raise SettingsError("store.state has a special character in a place that it cannot have.", next_step=_ENCODED)
    if parts.scheme not in POSTGRES_SCHEMES:
        raise SettingsError("store.state does not name a Postgres database.", next_step=_FORM)
    host, port = _host_and_port(parts, place)
    user, _, password = credentials.partition(":")
    database = unquote(parts.path.removeprefix("/"))
    url = sa.URL.create(
        "postgresql+psycopg",
        username=unquote(user) or None,
        password=unquote(password) or None,
        host=host,
        port=port,
        database=database or None,
        query={key: tuple(values) if len(values) > 1 else values[0] for key, values in options.items()},
    )
    where = f"[{host}]" if host and ":" in host else host or ""
    return Address(f"postgresql://{where}{f':{port}' if port else ''}/{database}", url, schema)


def _host_and_port(parts: SplitResult, place: str) -> tuple[str | None, int | None]:
    bracket = place.rpartition("]")
    _, colon, port = bracket[2].rpartition(":")
    if colon and not (_PORT.match(port) and 0 < int(port) < 65_536):
        raise SettingsError("The port in store.state is not a number from 1 to 65535.", next_step=_ENCODED)
    return parts.hostname, int(port) if colon else None
