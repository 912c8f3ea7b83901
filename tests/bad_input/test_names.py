"""Names of files and columns that try to be markup, SQL, a path or a template: whole turns, answers and dossier."""

import html.parser
import io
from pathlib import Path

import polars as pl
import pytest

from bad_input.kit import MARKER, refused, rows_of, run, secretless, unharmed
from e2e.small_project import make_project
from interlock.app import open_parts
from interlock.configuration import load_settings
from interlock.report.dossier import write_dossier

COLUMNS = [
    'wi"dth;',
    "we\nig\th",
    "<script>alert(1)</script>",
    "\u0430",  # a Cyrillic letter that looks like the Latin one that follows
    "a",
    "'; drop table documents;--",
    "%s{0}$HOME",
    "\u202ederever",
    "{{ 7*'7' }}",
    "x`y|z",
    "../../../etc/passwd",
    "e\u0301",  # looks like the next
    "\u00e9",
    "=cmd()",
]
FILE = "<img src=x onerror=alert(1)>.parquet"
TO_SCORE = "t';\n<b>&amp;\u202e.csv"


class Tags(html.parser.HTMLParser):
    """The tags of a page, with their attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, " ".join(name for name, _ in attrs)))


def wide(path: Path, to: Path) -> None:
    """The rows of a file with a column of each name in place of one."""
    rows = pl.read_csv(path)
    rows = rows.with_columns(**{name: pl.col("width") + place for place, name in enumerate(COLUMNS)}).drop("width")
    path.unlink()
    if to.suffix == ".csv":
        rows.write_csv(to)
    else:
        rows.write_parquet(to)


@pytest.mark.slow
def test_strange_names_go_through_a_whole_turn_as_they_are(tmp_path: Path) -> None:
    root = make_project(tmp_path / "project")
    wide(root / "inbox" / "a.csv", root / "inbox" / FILE)
    wide(root / "to_score" / "today.csv", root / "to_score" / TO_SCORE)
    seen = run(root)
    assert seen.result.outcome == "released", seen.result.sentence
    (file,), (batch,) = seen.result.files, seen.result.batches
    assert (file.name, file.status, batch.name, batch.status) == (FILE, "accepted", TO_SCORE, "published")
    assert Path(batch.output).parent == Path("predictions"), "the name of the answers is made of plain characters"
    assert Path(batch.output).name.startswith("t_b_amp-")
    for text in (seen.result.sentence, *seen.told):
        assert not set(text) & set("\x1b\u202e\n\r"), "nothing steers the terminal"
    with open_parts(load_settings(root)) as parts:
        assert set(COLUMNS) < set(parts.tables.scan("sources/data").collect_schema().names())
        paths = write_dossier(parts, None, root / "reports")
    page = Path(paths.html).read_text()
    tags = Tags()
    tags.feed(page)
    assert {tag for tag, _ in tags.seen} & {"script", "img", "b", "iframe", "object"} == set()
    assert not [names for _, names in tags.seen if "onerror" in names or "onload" in names]
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "{{ 7*&#39;7&#39; }}" in page or "{{ 7*'7' }}" in page, "a template is text"
    assert "7777777" not in page
    for text in (page, Path(paths.markdown).read_text()):
        assert "\u202e" not in text
    markdown = Path(paths.markdown).read_text()
    assert "\n<script>" not in markdown
    assert r"\<script\>" in markdown
    unharmed(root)


def _parquet(name: str) -> bytes:
    content = io.BytesIO()
    rows_of(400, 2).with_columns(pl.lit(MARKER).alias(name)).write_parquet(content)
    return content.getvalue()


NUL = {
    "b.parquet": _parquet("nu\0l"),
    "b.jsonl": f'{{"part": 400, "width": 1, "weight": 1, "ok": "yes", "nu\\u0000l": "{MARKER}"}}\n'.encode(),
}


@pytest.mark.parametrize("name", NUL)
def test_a_nul_in_a_columns_name_ends_the_file_and_not_the_program(project: Path, name: str) -> None:
    """Below Python such a name ends at the NUL; Polars ends the process when it hands one over."""
    (project / "inbox" / name).write_bytes(NUL[name])
    seen = run(project)
    told = f"The name of column 5 of {name} holds NUL."
    refused(project, seen, told, "Rename the column, and send the file under a new name.", name=name)
    secretless(project, seen)


def test_a_nul_in_a_columns_name_of_a_file_to_score(project: Path) -> None:
    rows = rows_of(400, 2).drop("ok").with_columns(pl.lit(MARKER).alias("width\0more"))
    rows.write_parquet(project / "to_score" / "b.parquet")
    seen = run(project)
    (batch,) = seen.result.batches
    assert (batch.status, batch.reason) == ("unreadable", "The name of column 4 of b.parquet holds NUL.")
    assert batch.next_step == "Rename the column, and send the file under a new name."
    unharmed(project)
    secretless(project, seen)


TWINS = {
    "one name twice": ("part,width,width,weight,ok\n", "b.csv names column 'width' 2 times."),
    "names that differ in case": (
        "part,width,Width,weight,ok\n",
        "b.csv has columns 'width' and 'Width', which differ in case only.",
    ),
    "no name": ("part,width,,weight,ok\n", "Column 3 of b.csv has no name."),
}


@pytest.mark.parametrize("kind", TWINS)
def test_names_that_cannot_be_told_apart(project: Path, kind: str) -> None:
    head, reason = TWINS[kind]
    (project / "inbox" / "b.csv").write_text(f"{head}400,1,1,1,yes\n")
    seen = run(project)
    (file,) = seen.result.files
    assert (file.status, file.reason) == ("unreadable", reason)
    assert file.next_step
    unharmed(project)


def test_a_look_alike_of_a_column_is_another_column(project: Path) -> None:
    (project / "inbox" / "b.csv").write_text("part,w\u0456dth,weight,ok\n400,1,1,yes\n")
    seen = run(project)
    refused(
        project,
        seen,
        "Column 'width' is missing from b.csv (it has 3 of 4 columns). Nothing was ingested.",
        "Send the file with it, or add 'width' to 'optional' of the source.",
        status="refused",
    )
