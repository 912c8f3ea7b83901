"""Files that are no table: each is told in one sentence with its next step, and nothing is lost by it."""

import fcntl
import gzip
import io
import os
import resource
import shutil
from pathlib import Path

import polars as pl
import pytest

from bad_input.kit import MARKER, refused, rows_of, run, secretless, unharmed
from interlock.data.opening import shown

HEAD = "part,width,weight,ok\n"


def _parquet_cut_short() -> bytes:
    whole = io.BytesIO()
    rows_of(400, 50).with_columns(ok=pl.lit(MARKER)).write_parquet(whole)
    return whole.getvalue()[:-20]


CUT = _parquet_cut_short()
RESEND = "Send the file again, with its header."
UTF8 = "Save it as UTF-8 under a new name (for example: iconv -f latin1 -t utf-8)."
FILES: dict[str, tuple[str, bytes, str, str]] = {
    "empty": ("b.csv", b"", "b.csv is empty (0 bytes).", RESEND),
    "latin-1": (
        "b.csv",
        f"{HEAD}400,0.5,0.5,{MARKER}é\n".encode("latin-1"),
        "b.csv is not UTF-8: the first wrong byte is at offset 44.",
        UTF8,
    ),
    "shift-jis": (
        "b.csv",
        f"{HEAD}400,0.5,0.5,{MARKER}表\n".encode("shift-jis"),
        "b.csv is not UTF-8: the first wrong byte is at offset 44.",
        UTF8,
    ),
    "utf-16": (
        "b.csv",
        f"{HEAD}400,0.5,0.5,{MARKER}\n".encode("utf-16"),
        "b.csv is UTF-16, not UTF-8 (its byte order mark at offset 0 says so).",
        "Save it as UTF-8 (for example: iconv -f utf-16 -t utf-8).",
    ),
    "NUL": (
        "b.csv",
        f"{HEAD}400,\0".encode(),
        "b.csv is not text: byte 25 is NUL.",
        "Write it as UTF-8 text, or as Parquet.",
    ),
    "one field too many": (
        "b.csv",
        f"{HEAD}400,0.1,0.5,yes,{MARKER}\n".encode(),
        "Row 1 of b.csv has 5 fields; its header has 4.",
        "Quote fields that hold the delimiter or a line end, or send the file again if it is cut short.",
    ),
    "a quote without end": (
        "b.csv",
        f'{HEAD}400,0.1,0.5,"{MARKER}\n'.encode(),
        "b.csv is malformed CSV (a quoted field without end, or a quote inside an unquoted field).",
        'Quote fields with " and double the quotes inside them.',
    ),
    "Parquet cut short": (
        "b.parquet",
        CUT,
        f"b.parquet is not a whole Parquet file ({len(CUT):,} bytes; ComputeError).",
        "It was cut short or is damaged: send it again, whole, under a new name.",
    ),
    "a gzip bomb": (
        "b.csv.gz",
        gzip.compress(HEAD.encode() + b"0" * 100 * 2**20, 9, mtime=0),
        "b.csv.gz unfolds from 101,9",
        "If the file is genuine, put it into the inbox decompressed.",
    ),
    "a line of 20 MB": (
        "b.csv",
        HEAD.encode() + b"7" * 20 * 2**20,
        "b.csv has a line longer than 16,777,216 bytes (near byte 16,777,216).",
        "Write one record a line, with line ends.",
    ),
}


@pytest.mark.parametrize("kind", FILES)
def test_what_is_no_table_is_told(project: Path, kind: str) -> None:
    name, content, reason, next_step = FILES[kind]
    (project / "inbox" / name).write_bytes(content)
    seen = run(project)
    if kind == "a gzip bomb":
        told = seen.result.files[0].reason
        assert told.startswith(reason)
        assert told.endswith("to more than 67,108,864 bytes, as a gzip bomb does.")
        reason = told
    refused(project, seen, reason, next_step, name=name)
    secretless(project, seen)
    assert run(project).result.outcome == "unchanged", "it is told once"


@pytest.mark.slow
def test_a_line_of_2_gb_is_refused_in_bounded_memory(project: Path) -> None:
    with (project / "inbox" / "b.csv").open("wb") as file:
        file.write(HEAD.encode())
        file.truncate(2 * 2**30)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seen = run(project)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    refused(project, seen, "b.csv is not text: byte 21 is NUL.", "Write it as UTF-8 text, or as Parquet.")
    assert grown < 200 * 1024, f"{grown} kB more than before"
    room = sum(path.stat().st_blocks * 512 for path in (project / ".interlock").rglob("*") if path.is_file())
    assert room < 50 * 2**20, "the copy took the room of its content"
    assert seen.result.notes == ("b.csv: not kept in quarantine: its 2,147,483,648 bytes are more than 268,435,456",)


def _link_out(project: Path, path: Path) -> None:
    (project / "secret.csv").write_text(f"{HEAD}400,1,1,{MARKER}\n")
    path.symlink_to(project / "secret.csv")


def _folder_link_out(project: Path, path: Path) -> None:
    (project / "away").mkdir()
    (project / "away" / "c.csv").write_text(f"{HEAD}400,1,1,{MARKER}\n")
    path.symlink_to(project / "away")


LEFT_ALONE = {
    "a link out of the inbox": (_link_out, "b.csv is a link that leaves the inbox and was left alone"),
    "a link to a folder": (_folder_link_out, "b.csv is a link to a folder and was left alone"),
    "a pipe": (lambda _, path: os.mkfifo(path), "b.csv is not a regular file and was left alone"),
}


@pytest.mark.parametrize("kind", LEFT_ALONE)
def test_what_is_no_file_is_left_alone_and_noted(project: Path, kind: str) -> None:
    make, note = LEFT_ALONE[kind]
    make(project, project / "inbox" / "b.csv")
    seen = run(project)
    assert seen.result.notes == (note,)
    assert (seen.result.outcome, seen.result.exit_code, seen.result.files) == ("unchanged", 0, ())
    unharmed(project)
    secretless(project, seen)


def test_a_device_is_left_alone_and_noted(project: Path) -> None:
    try:
        os.mknod(project / "inbox" / "b.csv", 0o600 | 0o020000, os.makedev(1, 5))
    except OSError:
        (project / "inbox" / "b.csv").symlink_to("/dev/zero")
        assert "leaves the inbox" in run(project).result.notes[0]
        return
    assert run(project).result.notes == ("b.csv is not a regular file and was left alone",)
    unharmed(project)


def test_a_folder_named_like_a_file_is_a_folder(project: Path) -> None:
    (project / "inbox" / "b.csv").mkdir()
    (project / "inbox" / "b.csv" / "part-0.csv").write_bytes(b"")
    seen = run(project)
    refused(project, seen, "b.csv/part-0.csv is empty (0 bytes).", RESEND, name="b.csv/part-0.csv")


def test_an_unknown_suffix_is_noted_in_the_result(project: Path) -> None:
    (project / "inbox" / "b.txt").write_text(f"{HEAD}400,1,1,{MARKER}\n")
    seen = run(project)
    assert seen.result.notes == ("left alone, no known suffix: b.txt",)
    unharmed(project)
    secretless(project, seen)


def test_a_file_that_may_not_be_read_is_noted(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = project / "inbox" / "b.csv"
    path.write_text(HEAD)
    path.chmod(0)
    if os.access(path, os.R_OK):  # root may read everything: let the system say no as it would to others
        opened = os.open

        def refuse(name: object, flags: int, *rest: object, **more: object) -> int:
            if os.fspath(name) == str(path):  # type: ignore[call-overload]
                raise PermissionError(13, "Permission denied")
            return opened(name, flags, *rest, **more)  # type: ignore[arg-type]

        monkeypatch.setattr(os, "open", refuse)
    seen = run(project)
    assert seen.result.notes == ("b.csv cannot be opened (EACCES) and was left alone",)
    monkeypatch.undo()
    unharmed(project)


@pytest.mark.skipif(not hasattr(fcntl, "F_SETLEASE"), reason="only Linux tells who is writing")
def test_a_file_that_is_being_written_waits(project: Path) -> None:
    with (project / "inbox" / "b.csv").open("w") as file:
        file.write(HEAD)
        file.flush()
        seen = run(project)
    assert seen.result.notes == ("b.csv is still being written and was left for the next turn",)
    assert seen.result.exit_code == 0
    unharmed(project)


def test_an_inbox_that_is_gone_is_told(project: Path) -> None:
    shutil.rmtree(project / "inbox")
    seen = run(project).result
    assert seen.sentence == "The turn could not do 'ingest'. The inbox inbox does not exist."
    assert seen.next_step == "Create it (mkdir -p inbox), or mend the 'inbox' key in interlock.toml."
    assert seen.exit_code == 2
    unharmed(project)


# ---- names -------------------------------------------------------------------------------------------------------

NAMES = [
    "..csv",
    "a..b.csv",
    "x;rm -rf $HOME.csv",
    "q'uo\"te.csv",
    "new\nline.csv",
    "'; drop table document;--.csv",
    "\x1b[31mred.csv",
    "\u202egpj.csv",
    "\u0430.csv",  # a Cyrillic letter that looks like the Latin a of the first file
    "A.csv",
    "x" * 251 + ".csv",
    os.fsdecode(b"\xff\xfe.csv"),
    "$(reboot).csv",
    "%s%n{0}.csv",
    "-rf.csv",
]


def test_no_name_does_harm(project: Path) -> None:
    for number, name in enumerate(NAMES):
        (project / "inbox" / name).write_text(f"{HEAD}{400 + number},{MARKER}{number},1,yes\n")
    seen = run(project)
    result = seen.result
    hidden = {"..csv"}
    assert len(result.files) == len(NAMES) - len(hidden)
    assert {file.status for file in result.files} == {"refused"}
    assert len({file.name for file in result.files}) == len(result.files), "look-alikes are files of their own"
    why = (
        "1 of 1 rows are bad, 1.00% are allowed: 1 x column 'width' is not a number (first in row 1). "
        "Nothing was ingested."
    )
    assert {file.reason for file in result.files} == {why}
    first = min(result.files, key=lambda file: file.name)
    assert f"{shown(first.name)} was not taken in: {why}" in result.sentence
    for text in (result.sentence, *seen.told):
        assert not set(text) & set("\x1b\u202e\n\r"), "nothing steers the terminal"
    unharmed(project)
    secretless(project, seen)
