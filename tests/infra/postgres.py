"""A real Postgres server on a loopback port: one cluster a worker, one database a test, made from a template.

Where there are no server binaries the tests skip, and say so. As root the server runs as the user ``postgres``, because
it refuses to run as root.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest

from interlock.store.address import server_address
from interlock.store.schema import open_database

PASSWORD = "p@s/s:w%41#?[é'\\"
"""Every character that a URL or a connection string could stumble over."""
_TEMPLATE = "interlock_template"


def binaries() -> Path | None:
    """The folder of the newest server's programs, None when there is none."""
    versions = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    newest = sorted(versions, key=lambda path: float(path.parts[-3]))
    if newest:
        return newest[-1].parent
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        found = subprocess.run(["pg_config", "--bindir"], capture_output=True, text=True, check=True).stdout.strip()
        if (Path(found) / "initdb").is_file():
            return Path(found)
    initdb = shutil.which("initdb")
    return Path(initdb).resolve().parent if initdb else None


class Cluster:
    """A server of our own. Its files are in a temporary folder, and it dies with the process that started it."""

    def __init__(self, programs: Path) -> None:
        self.programs = programs
        self.folder = Path(tempfile.mkdtemp(prefix="interlock-pg-"))
        self._process: subprocess.Popen[str] | None = None
        self._drain: threading.Thread | None = None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        (self.folder / "password").write_text(PASSWORD)
        if os.getuid() == 0:
            for path in (self.folder, self.folder / "password"):
                shutil.chown(path, "postgres", "postgres")
        self._run(
            "initdb", "-D", "data", "-U", "owner", "--pwfile=password", "--auth=scram-sha-256", "--encoding=UTF8",
            "--locale=C.UTF-8", "--no-sync",
        )  # fmt: skip

    def _command(self, program: str, *arguments: str) -> list[str]:
        user = ["--reuid=postgres", "--regid=postgres", "--init-groups"] if os.getuid() == 0 else []
        return ["setpriv", "--pdeathsig", "INT", *user, str(self.programs / program), *arguments]

    def _run(self, program: str, *arguments: str) -> None:
        command = self._command(program, *arguments)
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False, timeout=100)
        assert done.returncode == 0, f"{program}: {done.stdout}{done.stderr}"

    def start(self, *, durable: bool = False) -> None:
        """Start the server and wait until it says that it is ready; ``durable`` with fsync, as a real one."""
        settings = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": str(self.folder),
            "fsync": "on" if durable else "off",
            "full_page_writes": "on" if durable else "off",
            "max_connections": "40",
            "shared_buffers": "16MB",
            "autovacuum": "off",
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        self._process = subprocess.Popen(
            self._command("postgres", "-D", "data", *options), cwd=self.folder, stderr=subprocess.PIPE, text=True
        )
        log = self._process.stderr
        assert log is not None
        told = []
        for line in log:
            told.append(line)
            if "ready to accept connections" in line:
                break
        else:
            raise AssertionError("".join(told))
        self._drain = threading.Thread(target=log.read, daemon=True)
        self._drain.start()

    def stop(self, *, at_once: bool = False) -> None:
        """End the server and all its sessions; ``at_once`` leaves it to recover, as a crash does."""
        if self._process is None or self._drain is None:
            return
        self._process.send_signal(3 if at_once else 2)  # SIGQUIT, or SIGINT: the fast shutdown
        self._process.wait(timeout=60)
        self._drain.join(timeout=60)
        assert self._process.stderr is not None
        self._process.stderr.close()
        self._process = None

    def remove(self) -> None:
        """Stop it and delete its files."""
        self.stop(at_once=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def url(self, database: str, *, user: str = "owner", password: str = PASSWORD, port: int | None = None) -> str:
        """The URL of a database, as a person would write it."""
        return f"postgresql://{user}:{quote(password, safe='')}@127.0.0.1:{port or self.port}/{quote(database)}"

    def connect(self, database: str = "postgres") -> psycopg.Connection:
        """A connection of the test's own, each statement in a transaction of its own."""
        return psycopg.connect(
            host="127.0.0.1", port=self.port, user="owner", password=PASSWORD, dbname=database, autocommit=True
        )

    def execute(self, statement: str, *values: object, database: str = "postgres") -> list[tuple[object, ...]]:
        """Run one statement and give its rows."""
        with self.connect(database) as connection:
            cursor = connection.execute(statement, values or None)
            return cursor.fetchall() if cursor.description else []


class TestDatabase:
    """One database of a test."""

    __test__ = False

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster, self.name = cluster, name
        self.url = cluster.url(name)

    def execute(self, statement: str, *values: object) -> list[tuple[object, ...]]:
        """Run one statement in the schema of the ledger."""
        with self.cluster.connect(self.name) as connection:
            connection.execute("SET search_path = interlock")
            cursor = connection.execute(statement, values or None)
            return cursor.fetchall() if cursor.description else []


@pytest.fixture(scope="session")
def postgres() -> Iterator[Cluster]:
    """A running server, for the whole session of this worker."""
    programs = binaries()
    if programs is None or shutil.which("setpriv") is None:
        pytest.skip("NO POSTGRES HERE: install the server (apt-get install postgresql) to run these tests")
    cluster = Cluster(programs)
    try:
        cluster.start()
        cluster.execute(f"CREATE DATABASE {_TEMPLATE}")
        open_database(server_address(cluster.url(_TEMPLATE), "interlock")).dispose()
        yield cluster
    finally:
        cluster.remove()


@contextlib.contextmanager
def database_of(cluster: Cluster, template: str) -> Iterator[TestDatabase]:
    """A database that is dropped at the end, whoever still holds a connection."""
    name = f"Test {uuid.uuid4().hex[:12]} é"
    cluster.execute(f'CREATE DATABASE "{name}" TEMPLATE {template}')
    try:
        yield TestDatabase(cluster, name)
    finally:
        cluster.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
def pg(postgres: Cluster) -> Iterator[TestDatabase]:
    """A database with an empty ledger."""
    with database_of(postgres, _TEMPLATE) as database:
        yield database


@pytest.fixture
def empty_pg(postgres: Cluster) -> Iterator[TestDatabase]:
    """A database with nothing in it."""
    with database_of(postgres, "template0") as database:
        yield database
