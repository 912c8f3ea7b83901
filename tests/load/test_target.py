"""Whom a load test may ask."""

import pytest

from interlock.errors import Fault, Misuse, SettingsError
from interlock.load.plan import Plan
from interlock.load.target import allowed, require_locust, told


@pytest.mark.parametrize(
    ("url", "plain"),
    [
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("http://localhost:8080/", "http://localhost:8080"),
        ("https://[::1]:9", "https://[::1]:9"),
        ("http://127.0.0.9", "http://127.0.0.9"),
    ],
)
def test_this_machine_may_be_asked(url: str, plain: str) -> None:
    assert allowed(url, "") == plain


@pytest.mark.parametrize("url", ["http://example.com", "http://10.0.0.7:8080", "https://127.0.0.1.example.com"])
def test_another_machine_only_by_its_name(url: str) -> None:
    with pytest.raises(Misuse, match="another machine") as caught:
        allowed(url, "example.org")
    host = caught.value.next_step.rpartition(" ")[2].rstrip(".")
    assert allowed(url, host) == url


@pytest.mark.parametrize(
    "url",
    ["", "127.0.0.1:8080", "ftp://127.0.0.1", "http://", "http://u:p@127.0.0.1", "http://127.0.0.1/x", "http://[x"],
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(Misuse, match="no address"):
        allowed(url, "")


def test_without_locust_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    require_locust()
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(SettingsError) as caught:
        require_locust()
    assert "interlock[load]" in caught.value.next_step


def test_nobody_there_is_a_fault(unused_port: int) -> None:
    plan = Plan(url=f"http://127.0.0.1:{unused_port}", route="/predict", bodies=(b"{}",), users=1, duration_s=1, seed=0)
    with pytest.raises(Fault, match="does not answer"):
        told(plan)
