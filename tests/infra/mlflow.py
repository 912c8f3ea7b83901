"""Real MLflow servers on loopback, on SQLite or Postgres, newest or oldest; and their REST interface, read plainly."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

NEWEST = Path(sys.executable).parent
OLDEST = Path(__file__).resolve().parents[2] / ".venv" / "mlflow-oldest" / "bin"


_LEAN = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "PYTHONDONTWRITEBYTECODE": ""}


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class MlflowServer:
    """One server; may be killed and started again on the same port and database."""

    def __init__(self, programs: Path, folder: Path, backend: str = "", port: int = 0) -> None:
        self.programs, self.folder, self.port = programs, folder, port or free_port()
        self.backend = backend or f"sqlite:///{folder}/mlflow.db"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> "MlflowServer":
        """Start, and wait until it answers."""
        artifacts = str(self.folder / "artifacts")
        command = [str(self.programs / "python"), "-m", "mlflow", "server", "--host", "127.0.0.1"]
        command += ["--port", str(self.port), "--workers", "1", "--backend-store-uri", self.backend]
        command += ["--serve-artifacts", "--artifacts-destination", artifacts]
        path = f"{self.programs}{os.pathsep}{os.environ['PATH']}"
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=os.environ | {"PATH": path, "MLFLOW_DISABLE_TELEMETRY": "true", **_LEAN},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        for _ in range(1500):
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.url}/health", timeout=5):
                return self
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(0.1)
                break
        self.kill()
        raise AssertionError((self.folder / "server.log").read_text()[-2000:])

    def kill(self) -> None:
        """End it and its workers at once."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    # -- what it says

    def ask(self, endpoint: str, body: dict[str, Any] | None = None, **query: str) -> dict[str, Any]:
        """One call of its REST interface; an empty answer where there is no such thing."""
        url = f"{self.url}/api/2.0/mlflow/{endpoint}" + (f"?{urllib.parse.urlencode(query)}" if query else "")
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data=data, headers={"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=30) as reply:
                found = json.load(reply)
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return {}
            raise AssertionError(error.read()) from error
        assert isinstance(found, dict)
        return found

    def runs(self, name: str) -> list[dict[str, Any]]:
        """Every run that is not deleted, in order of its entry, with tags, params and metrics as dictionaries."""
        experiment = self.ask("experiments/get-by-name", experiment_name=name).get("experiment")
        if experiment is None:
            return []
        found = self.ask("runs/search", {"experiment_ids": [experiment["experiment_id"]]}).get("runs", [])
        for run in found:
            run["info"]["files"] = self.files(run["info"]["run_id"])
            run.update({kind: {one["key"]: one["value"] for one in run["data"].get(kind, [])} for kind in _KINDS})
        return sorted(found, key=lambda run: int(run["tags"]["interlock.entry"].partition("/")[2]))

    def files(self, run: str, path: str = "") -> list[str]:
        """Every artifact of a run."""
        listed = self.ask("artifacts/list", run_id=run, **({"path": path} if path else {})).get("files", [])
        found = []
        for file in listed:
            found += self.files(run, file["path"]) if file.get("is_dir") else [file["path"]]
        return sorted(found)

    def versions(self, name: str) -> list[dict[str, Any]]:
        """Every version of a registered model, with its tags as a dictionary."""
        found = self.ask("model-versions/search", filter=f"name='{name}'").get("model_versions", [])
        for version in found:
            version["tags"] = {tag["key"]: tag["value"] for tag in version.get("tags", [])}
            version.pop("last_updated_timestamp")  # a repeat writes the same again
        return sorted(found, key=lambda version: int(version["version"]))

    def aliases(self, name: str) -> dict[str, str]:
        """The bundle that each alias names."""
        model = self.ask("registered-models/get", name=name).get("registered_model", {})
        bundles = {version["version"]: version["tags"]["interlock.bundle"] for version in self.versions(name)}
        return {one["alias"]: bundles[str(one["version"])] for one in model.get("aliases", [])}


_KINDS = ("tags", "params", "metrics")


@contextlib.contextmanager
def server_of(programs: Path, backend: str = "") -> Iterator[MlflowServer]:
    """A running server with files of its own, ended and deleted afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="interlock-mlflow-"))
    server = MlflowServer(programs, folder, backend)
    try:
        yield server.start()
    finally:
        server.kill()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def mlflow_newest() -> Iterator[MlflowServer]:
    """The newest server, on SQLite; for the whole session of this worker."""
    with server_of(NEWEST) as server:
        yield server


@pytest.fixture(scope="session")
def mlflow_oldest() -> Iterator[MlflowServer]:
    """The oldest server that is supported, from a lock and an environment of its own."""
    if not (OLDEST / "mlflow").exists():
        pytest.skip("NO OLD MLFLOW HERE: 'make mlflow' installs it, where Python is 3.11")
    with server_of(OLDEST) as server:
        yield server


@pytest.fixture(scope="session")
def mlflow_postgres() -> Iterator[MlflowServer]:
    """The newest server, on a Postgres cluster of its own."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    if not programs or shutil.which("setpriv") is None:
        pytest.skip("NO POSTGRES HERE: install the server (apt-get install postgresql) to run these tests")
    with _cluster(programs[-1].parent) as url, server_of(NEWEST, url) as server:
        yield server


@contextlib.contextmanager
def _cluster(programs: Path) -> Iterator[str]:
    """A Postgres server for MLflow alone, reached by its socket's folder and a loopback port."""
    folder, port = Path(tempfile.mkdtemp(prefix="interlock-mlflow-pg-")), free_port()
    user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"] if os.getuid() == 0 else []
    if user:
        shutil.chown(folder, "postgres", "postgres")
    data = str(folder / "data")
    initdb = [*user, str(programs / "initdb"), "-D", data, "-U", "owner", "--auth=trust", "--no-sync"]
    subprocess.run(initdb, cwd=folder, check=True, capture_output=True, timeout=100)
    options = f"-k {folder} -p {port} -h 127.0.0.1 -F"
    control = [*user, str(programs / "pg_ctl"), "-D", data, "-w"]
    try:
        log = str(folder / "log")
        subprocess.run([*control, "-l", log, "-o", options, "start"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        yield f"postgresql+psycopg://owner@127.0.0.1:{port}/postgres"
    finally:
        subprocess.run([*control, "-m", "immediate", "stop"], cwd=folder, check=False, capture_output=True)
        shutil.rmtree(folder, ignore_errors=True)
