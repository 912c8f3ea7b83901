"""What the tests of a load test share."""

import socket

import pytest


@pytest.fixture
def unused_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
