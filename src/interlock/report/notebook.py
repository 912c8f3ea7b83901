"""The executed notebook of a training as blocks of a page: code, text, tables and pictures, and never its own HTML.

What a notebook holds was made by code that anybody may have written. So text stays text; of an HTML output only the
cells of its tables are read, as text; pictures become ``data:`` addresses after a look at their first bytes; Markdown
is rendered with raw HTML and pictures switched off. What is too large is left out, and said.
"""

import base64
import binascii
import html.parser
import json
import re
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.token import Token

from interlock.report.page import NotebookCell, NotebookView, Shown

CELLS = 300
_TEXT_CHARS = 8_000
_PICTURE_CHARS = 3_000_000
_PAGE_CHARS = 12_000_000
_TABLE_ROWS = 60
_TABLE_COLUMNS = 40
_CELL_CHARS = 200
_PICTURES = {
    "image/png": b"\x89PNG\r\n\x1a\n",
    "image/jpeg": b"\xff\xd8\xff",
}
_ANSI = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")


def notebook_view(content: bytes) -> NotebookView | None:
    """The cells of an executed notebook; None when it cannot be read as one."""
    try:
        raw = json.loads(content)["cells"]
        room = [_PAGE_CHARS]
        cells = tuple(_cell(item, room) for item in raw[:CELLS])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return NotebookView(cells=cells, left_out=max(0, len(raw) - CELLS))


def _cell(raw: dict[str, Any], room: list[int]) -> NotebookCell:
    source = _bounded(_joined(raw["source"]))
    if raw["cell_type"] == "markdown":
        return NotebookCell(kind="markdown", source=source, html=_markdown(source))
    if raw["cell_type"] != "code":
        return NotebookCell(kind="raw", source=source)
    tags = (raw.get("metadata") or {}).get("tags") or ()
    count = raw.get("execution_count")
    return NotebookCell(
        kind="code",
        source=source,
        label=f"[{count}]" if isinstance(count, int) else "[ ]",
        injected="injected-parameters" in tags,
        outputs=tuple(_output(item, room) for item in raw.get("outputs") or ()),
    )


def _joined(text: object) -> str:
    return "".join(str(part) for part in text) if isinstance(text, list) else str(text)


def _bounded(text: str) -> str:
    text = _ANSI.sub("", text)
    return text if len(text) <= _TEXT_CHARS else f"{text[:_TEXT_CHARS]}\n… {len(text) - _TEXT_CHARS} more characters …"


def _output(raw: dict[str, Any], room: list[int]) -> Shown:
    kind = raw.get("output_type")
    if kind == "stream":
        return Shown(kind="text", text=_bounded(_joined(raw.get("text", ""))))
    if kind == "error":
        lines = [str(line) for line in raw.get("traceback") or ()] or [f"{raw.get('ename')}: {raw.get('evalue')}"]
        return Shown(kind="error", text=_bounded("\n".join(lines)))
    data = raw.get("data") or {}
    for media in (*_PICTURES, "image/svg+xml"):
        if media in data:
            return _picture(media, _joined(data[media]), room)
    if "text/html" in data:
        table = _table(_joined(data["text/html"]))
        if table is not None:
            return table
    return Shown(kind="text", text=_bounded(_joined(data.get("text/plain", "(an output of a kind not shown here)"))))


def _picture(media: str, content: str, room: list[int]) -> Shown:
    if len(content) > min(_PICTURE_CHARS, room[0]):
        return Shown(kind="text", text=f"(a picture of {len(content)} characters, left out)")
    try:
        drawn = media == "image/svg+xml"
        encoded = base64.b64encode(content.strip().encode()).decode() if drawn else "".join(content.split())
        begins = base64.b64decode(encoded, validate=True)[:16]
    except (binascii.Error, ValueError):
        begins, encoded = b"", ""
    if not begins.startswith(_PICTURES.get(media, b"<")):
        return Shown(kind="text", text="(a picture that cannot be read)")
    room[0] -= len(encoded)
    return Shown(kind="picture", text="A picture that the notebook made.", address=f"data:{media};base64,{encoded}")


# ---- tables ------------------------------------------------------------------------------------------------------


class _Cells(html.parser.HTMLParser):
    """Reads the text of the cells of the first table; everything else is passed over."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.rows: list[list[str]] = []
        self.heads: list[bool] = []
        self.tables = 0
        self._open = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        del attrs
        self.tables += tag == "table"
        if self.tables != 1:
            return
        if tag == "tr":
            self.rows.append([])
            self.heads.append(True)
        elif tag in ("td", "th") and self.rows:
            self.rows[-1].append("")
            self.heads[-1] = self.heads[-1] and tag == "th"
            self._open = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th", "tr", "table"):
            self._open = False

    def handle_data(self, data: str) -> None:
        if self._open and self.rows and self.rows[-1] and len(self.rows[-1][-1]) < _CELL_CHARS:
            self.rows[-1][-1] += data.strip()


def _table(text: str) -> Shown | None:
    """The only table of an HTML output, such as a data frame; None when there is none."""
    parser = _Cells()
    parser.feed(text[:_PICTURE_CHARS])
    rows = [tuple(cell[:_CELL_CHARS] for cell in row[:_TABLE_COLUMNS]) for row in parser.rows if row]
    if parser.tables != 1 or len(rows) < 2:
        return None
    heads = [flag for row, flag in zip(parser.rows, parser.heads, strict=True) if row]
    first = next((index for index, flag in enumerate(heads) if not flag), len(rows))
    more = len(rows) - first - _TABLE_ROWS
    note = f"{more} more rows are left out." if more > 0 else ""
    return Shown(kind="table", text=note, head=tuple(rows[:first]), rows=tuple(rows[first : first + _TABLE_ROWS]))


# ---- text --------------------------------------------------------------------------------------------------------


def _markdown(text: str) -> str:
    """Markdown as HTML in which nothing of the user's is markup: raw HTML is escaped, pictures and links are words."""
    parser = MarkdownIt("commonmark", {"html": False}).enable("table").disable(["image", "link", "autolink"])
    tokens = parser.parse(text)
    for token in tokens:
        _demote(token)
    return str(parser.renderer.render(tokens, parser.options, {}))


def _demote(token: Token) -> None:
    """A heading of the notebook stands below the headings of the page."""
    if token.type in ("heading_open", "heading_close"):
        token.tag = f"h{min(6, int(token.tag[1:]) + 2)}"
