import pytest

from interlock.errors import SettingsError
from interlock.units import seconds


def test_durations_are_seconds():
    assert [seconds(text) for text in ("250ms", "90s", "1.5 m", "2h", "28d", "1w")] == [
        0.25,
        90.0,
        90.0,
        7_200.0,
        2_419_200.0,
        604_800.0,
    ]
    with pytest.raises(SettingsError, match="'3 fortnights' is not a duration"):
        seconds("3 fortnights")
