import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import boto3
import msgspec
import pytest
from hypothesis import settings as hypothesis_settings
from moto.server import ThreadedMotoServer

from interlock.ports import Parts, Turn
from interlock.settings import Data, HoldoutSpec, Model, Settings, Source
from interlock.store.blobs import LocalBlobs
from interlock.testing.clock import ManualClock
from interlock.testing.fakes import MemoryLedger, MemoryTables

# a shared machine may be slow; what is too slow is for the timeout of the suite to say
hypothesis_settings.register_profile("data", deadline=None, max_examples=50)
hypothesis_settings.load_profile("data")


@dataclass
class Project:
    """One project on the fakes, with an inbox per source."""

    parts: Parts
    turn: Turn
    said: list[str] = field(default_factory=list)

    @property
    def root(self) -> Path:
        return self.parts.settings.root

    def put(self, name: str, content: str | bytes, inbox: str = "in") -> Path:
        path = self.root / inbox / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def set(self, **data: Any) -> None:
        """Change fields of [data]."""
        settings = self.parts.settings
        changed = msgspec.structs.replace(settings, data=msgspec.structs.replace(settings.data, **data))
        self.parts = replace(self.parts, settings=changed)

    def model(self, **fields: Any) -> None:
        settings = self.parts.settings
        changed = msgspec.structs.replace(settings, model=msgspec.structs.replace(settings.model, **fields))
        self.parts = replace(self.parts, settings=changed)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return make_project(tmp_path)


def make_project(root: Path, **data: Any) -> Project:
    (root / "in").mkdir(exist_ok=True)
    clock = ManualClock()
    settings = Settings(
        model=Model(name="demo", task="classification", target="y"),
        data=Data(**{"inbox": "in", "holdout": HoldoutSpec(fraction=0.3), **data}),
        root=root,
    )
    ledger = MemoryLedger(clock)
    parts = Parts(
        settings=settings,
        clock=clock,
        ledger=ledger,
        blobs=LocalBlobs(root / "lake" / "blobs"),
        tables=MemoryTables(root / "scratch"),
    )
    said: list[str] = []
    fence = ledger.acquire("turn", ttl_s=1e9)
    return Project(parts=parts, turn=Turn(id="turn-1", fence=fence, say=said.append), said=said)


@pytest.fixture
def new_project(tmp_path: Path) -> Callable[..., Project]:
    def make(name: str = "p", **data: Any) -> Project:
        root = tmp_path / name
        root.mkdir()
        return make_project(root, **data)

    return make


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An empty bucket of an S3 server on a loopback port (boto3's Bucket)."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    variables = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    for name, value in {**variables, "AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}.items():
        monkeypatch.setenv(name, value)
    client = boto3.resource("s3", endpoint_url=variables["AWS_ENDPOINT_URL"])
    yield client.create_bucket(Bucket=f"test-{uuid.uuid4().hex}")
    server.stop()


__all__ = ["Project", "Source", "make_project"]
