from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.configuration import load_settings
from interlock.errors import SettingsError
from interlock.store.address import file_address, server_address, state_address

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12)
BASE = '[model]\nname = "m"\ntask = "custom"\n[data]\ninbox = "in"\n'


@given(user=texts, password=texts, database=texts)
def test_any_user_password_and_database_come_out_as_they_were_encoded(user, password, database):
    text = f"postgresql://{quote(user, safe='')}:{quote(password, safe='')}@h:5432/{quote(database, safe='')}"
    url = server_address(text, "interlock").url
    assert (url.username, url.password, url.database) == (user, password, database)
    assert (url.host, url.port, url.drivername) == ("h", 5432, "postgresql+psycopg")


@given(password=st.text(st.characters(codec="ascii", categories=["P", "S", "L", "N"]), min_size=8, max_size=16))
def test_a_password_as_it_is_either_works_or_is_refused_and_is_never_shown(password):
    refused: SettingsError | None = None
    try:
        address = server_address(f"postgresql://u:{password}@host/db", "interlock")
    except SettingsError as error:
        refused = error
    if refused is None:
        assert (address.name, address.url.host) == ("postgresql://host/db", "host")
        assert password not in repr(address)
    else:
        assert password not in f"{refused} {refused.facts} {refused.__cause__}"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("postgresql://u:p@db.example:6543/state", "postgresql://db.example:6543/state"),
        ("postgres://u@h/state", "postgresql://h/state"),
        ("postgresql+psycopg://h/state?password=secret&sslmode=require", "postgresql://h/state"),
        ("postgresql://u:p@[::1]:5432/state", "postgresql://[::1]:5432/state"),
        ("postgresql:///state?host=/run/postgresql", "postgresql:///state"),
        ("postgresql://h/my%20state", "postgresql://h/my state"),
    ],
)
def test_the_name_has_no_credentials_and_no_options(text, name):
    address = server_address(text, "interlock")
    assert address.name == name
    assert address.path is None
    assert "secret" not in repr(address)


def test_options_reach_the_driver():
    url = server_address("postgresql://u@/db?host=a:1&host=b:2&sslmode=verify-full&options=", "x").url
    assert url.query == {"host": ("a:1", "b:2"), "sslmode": "verify-full", "options": ""}


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://u:p@ss@host/db",
        "postgresql://u:p/ss@host/db",
        "postgresql://u:p#ss@host/db",
        "postgresql://u:p?ss@host/db",
        "postgresql://u:p[ss@host/db",
        "postgresql://u:p]ss@host/db",
        "postgresql://u:ss@host:port/db",
        "postgresql://u:ss@host:99999/db",
        "postgresql://u:ss@host/db?nonsense",
        "mysql://u:ss@host/db",
    ],
)
def test_what_cannot_be_read_is_refused_without_showing_it(text):
    with pytest.raises(SettingsError) as caught:
        server_address(text, "interlock")
    assert "ss" not in caught.value.message.replace("password", "").replace("passes", "")
    assert caught.value.__cause__ is None
    assert caught.value.next_step


def test_a_file_is_its_own_name(tmp_path: Path) -> None:
    address = file_address(tmp_path / "a b%.db")
    assert (address.path, address.name) == (tmp_path / "a b%.db", str(tmp_path / "a b%.db"))


@pytest.mark.parametrize(
    ("state", "path"),
    [
        ("sqlite", ".interlock/state.db"),
        ("sqlite:///deep/my%20state.db", "deep/my state.db"),
        ("sqlite:///100%.db", "100%.db"),
    ],
)
def test_files_are_relative_to_the_project(tmp_path: Path, state: str, path: str) -> None:
    (tmp_path / "interlock.toml").write_text(BASE)
    settings = load_settings(tmp_path, variables={"INTERLOCK_STORE__STATE": state})
    assert state_address(settings).path == tmp_path / path


def test_a_server_comes_from_variables_and_environments(tmp_path: Path) -> None:
    url = "postgresql://u:p%40%25%23s@host/db?sslmode=require"
    (tmp_path / "interlock.toml").write_text(f'{BASE}[env.prod.store]\nstate = "{url}"\nschema = "mine"\n')
    address = state_address(load_settings(tmp_path, environment="prod"))
    assert (address.schema, address.url.password) == ("mine", "p@%#s")
    again = state_address(load_settings(tmp_path, variables={"INTERLOCK_STORE__STATE": url}))
    assert (again.schema, again.url.password, again.name) == ("interlock", "p@%#s", "postgresql://host/db")
