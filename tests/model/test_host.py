import os

from hypothesis import given, settings
from hypothesis import strategies as st

from interlock.model import host
from interlock.model.host import Output


def output_of(chunks: list[bytes]) -> Output:
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    output = Output(reading)
    for chunk in chunks:
        os.write(writing, chunk)
        assert output.drain()
    os.close(writing)
    assert not output.drain()
    output.close()
    assert not output.drain()
    return output


@settings(max_examples=50, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=300), max_size=20), st.integers(1, 400))
def test_the_beginning_and_the_end_are_kept_and_the_rest_counted(chunks: list[bytes], kept: int) -> None:
    text = b"".join(chunks).replace(b"\xff", b"x").decode("latin-1").encode("ascii", "replace")
    before, host.KEPT_BYTES = host.KEPT_BYTES, kept
    try:
        shown = output_of([text[i : i + 97] for i in range(0, len(text), 97)]).text(1_000_000)
    finally:
        host.KEPT_BYTES = before
    whole = text.decode("ascii")
    if len(whole) <= 2 * kept:
        assert shown == whole
    else:
        assert shown == f"{whole[:kept]}\n… {len(whole) - 2 * kept} bytes left out …\n{whole[-kept:]}"


def test_the_end_is_what_a_short_text_shows() -> None:
    assert output_of([b"0123456789"]).text(4) == "…789"


def test_the_last_complete_line_is_printable() -> None:
    assert output_of([b"one\ntwo\n\n  \nthr"]).last_line() == "two"
    assert output_of([b"\r10%\r\x1b[31m20%\r3"]).last_line() == "[31m20%"
    assert output_of([b"x" * 900 + b"\n"]).last_line() == "x" * 200
    assert output_of([b"no end"]).last_line() == ""


def test_a_crash_report_is_shown_without_our_own_lines() -> None:
    ours = f'  File "{host.OURS}model/worker.py", line 3 in main\n'
    report = f'Fatal Python error: Aborted\n  File "/p/train.py", line 3 in train\n{ours}Extension modules: a, b\n'
    assert output_of([report.encode()]).text() == 'Fatal Python error: Aborted\n  File "/p/train.py", line 3 in train\n'
