import stat

import pytest

from interlock.errors import Conflict, SettingsError
from interlock.serve.keys import PREFIX, SCOPES, Keyring, add_key, new_key, presented, read_keys


def test_a_key_is_found_by_its_text_and_only_its_digest_is_kept(tmp_path):
    path = tmp_path / "keys.toml"
    one, two = add_key(path, "app", ("predict",)), add_key(path, "ops", ("operate", "read"))
    assert one.startswith(PREFIX)
    assert len(one) >= len(PREFIX) + 43
    assert one != two
    ring = Keyring(read_keys(path))
    assert (ring.find(one.encode()).name, ring.find(one.encode()).scopes) == ("app", ("predict",))
    assert ring.find(two.encode()).scopes == ("operate", "read")
    assert one not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["keys.toml"]


@pytest.mark.parametrize("wrong", [b"", b"ilk_", b"x" * 10_000, b"\xff\x00", b"0" * 64])
def test_nothing_else_opens_a_door(wrong):
    text, key = new_key("app", SCOPES)
    ring = Keyring((key,))
    assert ring.find(wrong) is None
    assert ring.find(key.sha256.encode()) is None
    assert ring.find(text.encode()) is key
    assert ring.find(text.encode() + b" ") is None


def test_without_keys_by_a_persons_word_everybody_may_do_everything():
    assert Keyring(None).find(b"").scopes == SCOPES
    assert Keyring(()).find(b"") is None


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ({b"authorization": b"Bearer abc"}, b"abc"),
        ({b"authorization": b"bearer  abc "}, b"abc"),
        ({b"x-api-key": b"abc"}, b"abc"),
        ({b"authorization": b"Basic abc"}, b""),
        ({b"authorization": b"Basic abc", b"x-api-key": b"k"}, b"k"),
        ({}, b""),
    ],
)
def test_where_a_key_is_shown(headers, key):
    assert presented(headers) == key


def test_a_name_is_given_once(tmp_path):
    add_key(tmp_path / "keys.toml", "app", ("predict",))
    with pytest.raises(Conflict, match=r"There is a key 'app' in .* already"):
        add_key(tmp_path / "keys.toml", "app", ("read",))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[key]]\nname = 'a'\n", "is no file of keys: Object missing required field `sha256`"),
        ("[[key]]\nname = 'a'\nsha256 = 'x'\n", "is no file of keys: Expected `str` matching regex"),
        (
            f"[[key]]\nname = 'a'\nsha256 = '{'0' * 64}'\nscopes = ['all']\n",
            "is no file of keys: Invalid enum value 'all'",
        ),
        ("nonsense", "is no file of keys"),
        (f"[[key]]\nname='a'\nsha256='{'0' * 64}'\n" * 2, "has two keys of one name"),
    ],
)
def test_a_file_that_is_none_is_refused_in_words(tmp_path, text, message):
    (tmp_path / "keys.toml").write_text(text)
    with pytest.raises(SettingsError) as caught:
        read_keys(tmp_path / "keys.toml")
    assert message in caught.value.message
    assert caught.value.next_step


def test_a_file_that_is_not_there_is_told_with_what_makes_it(tmp_path):
    with pytest.raises(SettingsError) as caught:
        read_keys(tmp_path / "keys.toml")
    assert "cannot be read: No such file or directory" in caught.value.message
    assert caught.value.next_step == "Make one: interlock keys NAME --scope predict"
