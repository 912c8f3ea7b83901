"""Where the key of a load test comes from."""

from pathlib import Path

import pytest

from interlock.cli.loading import key_of
from interlock.errors import Misuse


def test_the_key_is_given_or_in_a_file_or_in_a_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("INTERLOCK_KEY", raising=False)
    assert key_of("", None) == ""
    monkeypatch.setenv("INTERLOCK_KEY", "ilk_variable")
    file = tmp_path / "key"
    file.write_text("ilk_file\n")
    assert key_of("", None) == "ilk_variable"
    assert key_of("", file) == "ilk_file"
    assert key_of("ilk_given", file) == "ilk_given"
    with pytest.raises(Misuse):
        key_of("", tmp_path / "none")
