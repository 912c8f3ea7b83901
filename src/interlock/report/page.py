"""A document as plain blocks, and the two ways to print it: one self-contained HTML page, or Markdown.

Both printers walk the same blocks, so the two documents cannot tell different stories. Blocks hold text, never markup:
escaping is the printers' work, and the only markup that passes through is the SVG that ``pictures`` drew and the
Markdown that ``notebook`` rendered.
"""

import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import jinja2
from markupsafe import Markup

from interlock.records import Record, short
from interlock.report.pictures import Picture
from interlock.report.words import plain

Tone = Literal["good", "bad", "warn", "calm"]
Align = Literal["text", "word", "number", "code", "digest", "flag"]
"""How a column is set: running text, text on one line, right-aligned figures, code, a digest (shown short), a coloured
word."""

_TONES: dict[str, Tone] = {
    **dict.fromkeys(("passed", "accepted", "published", "promote", "done", "holds"), "good"),
    **dict.fromkeys(("failed", "refused", "unreadable", "broken"), "bad"),
    **dict.fromkeys(("hold",), "warn"),
}
_CELL_CHARS = 1_000


class Text(Record, frozen=True, kw_only=True, tag="text"):
    """A paragraph."""

    text: str


class Note(Record, frozen=True, kw_only=True, tag="note"):
    """A remark set apart."""

    text: str
    tone: Tone = "calm"


class Bullets(Record, frozen=True, kw_only=True, tag="bullets"):
    """A list of sentences."""

    items: tuple[str, ...]


class Table(Record, frozen=True, kw_only=True, tag="table"):
    """Rows under titled columns. ``empty`` is what is said when there are none."""

    title: str
    columns: tuple[tuple[str, Align], ...]
    rows: tuple[tuple[str, ...], ...]
    empty: str = "None."
    note: str = ""


class Facts(Record, frozen=True, kw_only=True, tag="facts"):
    """Named values, one a line: name, value, how to set it."""

    rows: tuple[tuple[str, str, Align], ...]


class Figure(Record, frozen=True, kw_only=True, tag="figure"):
    """A picture with its caption."""

    picture: Picture


class Gallery(Record, frozen=True, kw_only=True, tag="gallery"):
    """Small pictures of one kind, side by side, each under its name; ``told`` shows their descriptions too."""

    title: str
    pictures: tuple[Picture, ...]
    told: bool = False


class Listing(Record, frozen=True, kw_only=True, tag="listing"):
    """Text as it stands in a file, folded away until asked for."""

    title: str
    about: str
    text: str
    language: str = ""


class Shown(Record, frozen=True, kw_only=True):
    """One output of a notebook's cell. ``address`` is a ``data:`` address; ``head`` and ``rows`` hold text."""

    kind: Literal["text", "error", "table", "picture"]
    text: str = ""
    address: str = ""
    head: tuple[tuple[str, ...], ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()


class NotebookCell(Record, frozen=True, kw_only=True):
    """One cell of an executed notebook. ``html`` is its text when it is Markdown, made safe where it was rendered."""

    kind: Literal["code", "markdown", "raw"]
    source: str
    label: str = ""
    html: str = ""
    injected: bool = False
    outputs: tuple[Shown, ...] = ()


class NotebookView(Record, frozen=True, kw_only=True, tag="notebook"):
    """An executed notebook, cell by cell; ``left_out`` counts the cells beyond the limit."""

    cells: tuple[NotebookCell, ...]
    left_out: int = 0


class Lines(Record, frozen=True, kw_only=True, tag="lines"):
    """Lines to be filled in by hand: what stands before each of them."""

    labels: tuple[str, ...]


Block = Text | Note | Bullets | Table | Facts | Figure | Gallery | Listing | NotebookView | Lines


class Section(Record, frozen=True, kw_only=True):
    """A titled part. ``name`` is its anchor: fixed words, never user text."""

    name: str
    title: str
    blocks: tuple[Block, ...]


class Headline(Record, frozen=True, kw_only=True):
    """One large figure of the opening: what it is, its value, and a remark in small."""

    label: str
    value: str
    remark: str = ""


class Page(Record, frozen=True, kw_only=True):
    """A whole document. ``kind``: what stands beside our name."""

    title: str
    subtitle: str
    badge: str
    tone: Tone
    summary: str
    headlines: tuple[Headline, ...]
    sections: tuple[Section, ...]
    footer: str
    kind: str = "dossier"


def lost(what: str) -> tuple[Block, ...]:
    """What a chapter says instead of its content when its record is not there."""
    return (Note(text=f"{what} is not recorded, so there is nothing to show here.", tone="warn"),)


def to_html(page: Page) -> str:
    """The page as one HTML document that loads nothing."""
    return _environment(autoescape=True).get_template("dossier.html.j2").render(page=page) + "\n"


def to_markdown(page: Page) -> str:
    """The page as GitHub-flavoured Markdown; pictures are given in words."""
    text = _environment(autoescape=False).get_template("dossier.md.j2").render(page=page)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def tone(word: str) -> Tone:
    """Colour of a state's word; words without one are calm."""
    return _TONES.get(word, "calm")


@functools.cache
def _environment(*, autoescape: bool) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=autoescape,  # noqa: S701 - off for Markdown only, which has an escaper of its own
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "cell": lambda text: plain(text, _CELL_CHARS),
        "short": short,
        "tone": tone,
        "kind": _kind,
        "svg": lambda picture: Markup(picture.svg),  # noqa: S704 - our own drawing, escaped where it was drawn
        "rendered": lambda cell: Markup(cell.html),  # noqa: S704 - rendered without the user's markup
        "md": _markdown_escape,
        "fence": _fence,
        "rule": _rule,
    }
    return environment


def _kind(block: Block) -> str:
    return str(block.__struct_config__.tag)


def _markdown_escape(text: str) -> str:
    """One line of text in which Markdown and HTML see only letters."""
    escaped = re.sub(r"([\\`*_\[\]<>|#~$])", r"\\\1", plain(text, _CELL_CHARS))
    escaped = re.sub(r"(?i)(https?|ftp|www)(:|\.)", r"\1\\\2", escaped.replace("&", "&amp;"))
    return re.sub(r"^(\d*)([-+.)])(?= )", r"\1\\\2", escaped)


def _fence(text: str) -> str:
    """A code fence longer than any run of backticks in ``text``."""
    return "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", text)), default=0))


def _rule(columns: Sequence[tuple[str, Align]]) -> str:
    """The line under a Markdown table's head."""
    return "|" + "|".join(" ---: " if align == "number" else " --- " for _, align in columns) + "|"
