"""Certificates that cannot be used are told before anything listens."""

import pytest
from msgspec.structs import replace

from infra.certificates import certificate
from interlock.errors import SettingsError
from interlock.serve.keys import Keyring
from interlock.serve.lane import Lane
from interlock.serve.listening import Way, listen
from serve.conftest import house_of


@pytest.mark.parametrize(
    ("cert", "key", "message"),
    [
        ("cert.pem", "", "serve.tls_cert and serve.tls_key come together"),
        ("", "key.pem", "serve.tls_cert and serve.tls_key come together"),
        ("cert.pem", "other.pem", "cannot be used: "),
        ("nowhere.pem", "key.pem", "cannot be used: No such file or directory"),
        ("key.pem", "key.pem", "cannot be used: "),
    ],
)
def test_a_certificate_that_cannot_be_used_is_told(project, tmp_path, cert, key, message):
    certificate(tmp_path)
    (tmp_path / "other").mkdir()
    certificate(tmp_path / "other")[1].rename(tmp_path / "other.pem")
    house = house_of(project, Keyring(None))
    settings = project.parts.settings
    told = {name: str(tmp_path / file) if file else "" for name, file in (("tls_cert", cert), ("tls_key", key))}
    settings = replace(settings, serve=replace(settings.serve, **told))
    with pytest.raises(SettingsError) as caught:
        listen(house.app, Lane(house.door, house.app), settings, Way(print, print))
    assert message in caught.value.message
    assert caught.value.next_step
