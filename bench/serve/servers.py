"""The servers that are compared, each with one worker, and how each is asked for the same record."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from pacing import compiled
from process import Server, free_port
from project import as_arrow, as_v2, bearer, encoded, http, make_project, records

HERE: Final = Path(__file__).parent
VENVS: Final = Path(sys.executable).parent.parent
APART: Final = {"services": VENVS / "peers-services", "mlserver": VENVS / "peers-mlserver"}
"""The environments of ``make servers``."""
PACKAGES: Final = {
    "services": ("fastapi", "uvicorn", "pydantic", "pandas", "scikit-learn", "litserve", "bentoml", "mlflow"),
    "mlserver": ("mlserver", "mlserver-sklearn", "fastapi", "uvicorn", "pandas", "scikit-learn"),
}
LABELS: Final = {
    "interlock": "Interlock (fast lane)",
    "interlock-bare": "Interlock (fast lane, no prediction log)",
    "interlock-app": "Interlock (app lane)",
    "usual": "FastAPI + pandas + pickle",
    "mlserver": "MLServer (sklearn, parallel_workers 0)",
    "litserve": "LitServe",
    "bentoml": "BentoML, no batching",
    "mlflow": "mlflow models serve",
    "epoll": "bare C epoll server",
    "nginx": "nginx return",
}


def python_of(which: str) -> Path:
    """The interpreter of one of the environments; ends the program where it is not set up."""
    python = APART[which] / "bin" / "python"
    if not python.exists():
        sys.exit(f"{python} is not there: make servers")
    return python


def catalogue(folder: Path, names: list[str]) -> "dict[str, Callable[[int], Server]]":
    """How each is started for requests of so many rows."""
    project = make_project(folder / "project")
    makers: dict[str, Callable[[Path, Path, int], Server]] = {
        "interlock": _interlock,
        "interlock-bare": _interlock_bare,
        "interlock-app": _interlock_app,
        "usual": _usual,
        "mlserver": _mlserver,
        "litserve": _litserve,
        "bentoml": _bentoml,
        "mlflow": _mlflow,
        "epoll": _epoll,
        "nginx": _nginx,
    }
    return {name: (lambda rows, make=makers[name]: make(folder, project, rows)) for name in names}  # type: ignore[misc]


def fitted(folder: Path, which: str) -> Path:
    """The folder of the pipeline as trained by the libraries of an environment."""
    made = folder / f"model-{which}"
    if not (made / "model.pkl").exists():
        script = [str(python_of(which)), str(HERE / "peers" / "fit.py"), str(folder / "project"), str(made)]
        done = subprocess.run(script, capture_output=True, text=True, check=False, env=_quiet(which), timeout=600)
        if done.returncode:
            sys.exit(f"fit.py failed:\n{done.stderr[-3000:]}")
    return made


def _quiet(which: str) -> dict[str, str]:
    """The environment of a peer: its programs are found, and it reports to nobody."""
    told = {
        "PATH": f"{APART[which] / 'bin'}:{os.environ['PATH']}",
        "BENTOML_DO_NOT_TRACK": "True",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "1",
    }
    return {**os.environ, **told}


def rows_for(count: int) -> list[dict[str, Any]]:
    return records(count)


def interlock_request(project: Path, rows: int, kind: str = "json") -> bytes:
    """One record to /predict, or many to /batch."""
    asked = rows_for(rows)
    if kind == "arrow":
        stream = "application/vnd.apache.arrow.stream"
        return http("/batch", as_arrow(asked), {**bearer(project), "Accept": stream}, kind=stream)
    if rows == 1:
        return http("/predict", encoded(asked[0]), bearer(project))
    return http("/batch", encoded({"instances": asked}), bearer(project))


def interlock_server(
    project: Path,
    request: bytes,
    name: str = "interlock",
    *settings: str,
    program: tuple[str, ...] = ("-m", "interlock"),
) -> Server:
    """``interlock serve`` as a person starts it, with nothing left to do from the server before."""
    shutil.rmtree(project / ".interlock" / "log", ignore_errors=True)
    port = free_port()
    words = [word for setting in settings for word in ("--set", setting)]
    command = [sys.executable, *program, "--project", str(project), *words, "serve", "--port", str(port)]
    return Server(name, command, request, port, project)


def has_log() -> bool:
    """Whether this version keeps a prediction log."""
    from interlock.serving import Serve

    return "log" in Serve.__struct_fields__


def _interlock(folder: Path, project: Path, rows: int) -> Server:
    del folder
    return interlock_server(project, interlock_request(project, rows))


def _interlock_bare(folder: Path, project: Path, rows: int) -> Server:
    del folder
    settings = ("serve.log.on=false",) if has_log() else ()
    return interlock_server(project, interlock_request(project, rows), "interlock-bare", *settings)


def _interlock_app(folder: Path, project: Path, rows: int) -> Server:
    del folder
    program = (str(HERE / "app_lane.py"),)
    return interlock_server(project, interlock_request(project, rows), "interlock-app", program=program)


def _plain(rows: int) -> bytes:
    asked = rows_for(rows)
    return http("/predict", encoded(asked[0])) if rows == 1 else http("/batch", encoded({"instances": asked}))


def _usual(folder: Path, project: Path, rows: int) -> Server:
    del project
    port, model = free_port(), fitted(folder, "services") / "model.pkl"
    command = [str(python_of("services")), "-m", "uvicorn", "usual:app", "--port", str(port), "--no-access-log"]
    return Server("usual", command, _plain(rows), port, HERE / "peers", {**_quiet("services"), "MODEL": str(model)})


def _mlserver(folder: Path, project: Path, rows: int) -> Server:
    del project
    port, model = free_port(), fitted(folder, "mlserver")
    command = [str(APART["mlserver"] / "bin" / "mlserver"), "start", str(model)]
    ports = {
        "MLSERVER_HOST": "127.0.0.1",
        "MLSERVER_HTTP_PORT": str(port),
        "MLSERVER_GRPC_PORT": str(free_port()),
        "MLSERVER_METRICS_PORT": str(free_port()),
    }
    request = http("/v2/models/bench/infer", as_v2(rows_for(rows)))
    return Server("mlserver", command, request, port, model, {**_quiet("mlserver"), **ports})


def _litserve(folder: Path, project: Path, rows: int) -> Server:
    del project, rows
    port, model = free_port(), fitted(folder, "services") / "model.pkl"
    command = [str(python_of("services")), str(HERE / "peers" / "with_litserve.py"), str(port)]
    request = http("/predict", encoded(rows_for(1)[0]))
    return Server("litserve", command, request, port, folder, {**_quiet("services"), "MODEL": str(model)})


def _bentoml(folder: Path, project: Path, rows: int) -> Server:
    del project, rows
    port, model = free_port(), fitted(folder, "services") / "model.pkl"
    bentoml = str(APART["services"] / "bin" / "bentoml")
    command = [bentoml, "serve", "with_bentoml:Rows", "--host", "127.0.0.1", "--port", str(port)]
    request = http("/predict", encoded({"record": rows_for(1)[0]}))
    more = {"MODEL": str(model), "BENTOML_HOME": str(folder / "bentoml")}
    return Server("bentoml", command, request, port, HERE / "peers", {**_quiet("services"), **more})


def _mlflow(folder: Path, project: Path, rows: int) -> Server:
    del project
    port, model = free_port(), fitted(folder, "services") / "mlflow"
    mlflow = str(APART["services"] / "bin" / "mlflow")
    options = ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    request = http("/invocations", encoded({"dataframe_records": rows_for(rows)}))
    return Server(
        "mlflow", [mlflow, "models", "serve", "-m", str(model), *options], request, port, folder, _quiet("services")
    )


_REPLY = (
    b"HTTP/1.1 200 OK\r\ndate: Sat, 21 Nov 2026 12:00:00 GMT\r\n"
    b"content-type: application/json\r\ncontent-length: 16\r\n"
    b"interlock-tier: champion\r\ninterlock-release: 2\r\ninterlock-model: 0123456789ab\r\n"
    b'interlock-prediction-id: 01234567890123456789012345\r\n\r\n{"prediction":1}'
)
"""As long as Interlock's reply."""


def _epoll(folder: Path, project: Path, rows: int) -> Server:
    del project, rows
    port, reply = free_port(), folder / "reply"
    reply.write_bytes(_REPLY)
    command = [str(compiled(folder, "epoll")), str(port), str(reply)]
    return Server("epoll", command, _plain(1), port, folder)


_NGINX = """daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/nginx-error.log;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  keepalive_requests 1000000000;
  client_body_temp_path {folder}/nginx-body;
  proxy_temp_path {folder}/nginx-proxy;
  fastcgi_temp_path {folder}/nginx-fastcgi;
  uwsgi_temp_path {folder}/nginx-uwsgi;
  scgi_temp_path {folder}/nginx-scgi;
  server {{
    listen 127.0.0.1:{port};
    location / {{
      default_type application/json;
      add_header interlock-tier champion;
      add_header interlock-prediction-id 01234567890123456789012345;
      return 200 '{{"prediction":1}}';
    }}
  }}
}}
"""


def _nginx(folder: Path, project: Path, rows: int) -> Server:
    del project, rows
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        sys.exit("nginx is needed: apt-get install nginx-light")
    port, settings = free_port(), folder / "nginx.conf"
    settings.write_text(_NGINX.format(folder=folder, port=port))
    return Server("nginx", [program, "-p", str(folder), "-c", str(settings)], _plain(1), port, folder)


def nginx_version() -> str:
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        return "no nginx"
    return (
        subprocess.run([program, "-v"], capture_output=True, text=True, check=False).stderr.strip().rpartition("/")[2]
    )
