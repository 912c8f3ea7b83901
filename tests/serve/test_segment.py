"""Segments survive whatever cuts them, and have one owner."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interlock.serve.segment import OPEN, SEALED, Segment, adopt, blocks, cut_off


def sealed(folder, *contents):
    segment = Segment(folder, 1.0)
    for content in contents:
        segment.write(content)
    segment.seal()
    (path,) = folder.glob(f"*{SEALED}")
    return path


def test_blocks_come_back_in_order(tmp_path):
    path = sealed(tmp_path, b"one", b"", b"three" * 1_000)
    assert list(blocks(path)) == [b"one", b"", b"three" * 1_000]
    assert cut_off(path) == 0


def test_parts_of_a_block_are_one_block(tmp_path):
    segment = Segment(tmp_path, 1.0)
    segment.write(b"a", bytearray(b"bc"))
    segment.seal()
    assert list(blocks(adopt(tmp_path)[0])) == [b"abc"]


@settings(deadline=None, max_examples=40)
@given(contents=st.lists(st.binary(max_size=30), min_size=1, max_size=5), data=st.data())
def test_wherever_it_is_cut_the_whole_blocks_before_are_read(tmp_path_factory, contents, data):
    path = sealed(tmp_path_factory.mktemp("cut"), *contents)
    whole = path.read_bytes()
    at = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:at])
    ends = [sum(12 + len(each) for each in contents[: place + 1]) for place in range(len(contents))]
    expected = sum(end <= at for end in ends)
    assert list(blocks(path)) == contents[:expected]
    assert cut_off(path) == at - ([0, *ends][expected])


@settings(deadline=None, max_examples=51)
@given(at=st.integers(0, 3 * 17 - 1))
def test_no_damaged_block_is_taken_for_a_whole_one(tmp_path_factory, at):
    path = sealed(tmp_path_factory.mktemp("bad"), b"aaaaa", b"bbbbb", b"ccccc")
    content = bytearray(path.read_bytes())
    content[at] ^= 0x20
    path.write_bytes(content)
    assert list(blocks(path)) == [b"aaaaa", b"bbbbb", b"ccccc"][: at // 17]


def test_a_segment_that_is_written_is_left_alone_and_one_of_the_dead_is_adopted(tmp_path):
    living = Segment(tmp_path, 1.0)
    living.write(b"living")
    (tmp_path / f"dead{OPEN}").write_bytes(b"")
    assert [path.stem for path in adopt(tmp_path)] == ["dead"]
    living.seal()
    assert len(adopt(tmp_path)) == 2


def test_an_empty_segment_leaves_nothing(tmp_path):
    Segment(tmp_path, 1.0).seal()
    assert list(tmp_path.iterdir()) == []


def test_a_block_that_failed_is_not_there_and_the_next_one_is(tmp_path, monkeypatch):
    segment = Segment(tmp_path, 1.0)
    segment.write(b"before")

    def fails(descriptor):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("interlock.serve.segment.os.fdatasync", fails)
        with pytest.raises(OSError, match="Input/output"):
            segment.write(b"failed")
    segment.write(b"after")
    segment.seal()
    assert list(blocks(adopt(tmp_path)[0])) == [b"before", b"after"]
