"""Small pictures of recorded facts as inline SVG: lean, accessible, the same bytes for the same numbers.

matplotlib writes the shapes (its SVG backend, no pyplot, no window); :func:`_lean` then strips what a page does not
need and swaps fixed marker colours for CSS variables, so that one picture reads in light, dark and print. Coordinates
are points, y downwards. User text is never parsed as markup or mathematics, and is escaped by the SVG writer.
"""

import hashlib
import io
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from html import escape
from typing import Any, Literal

from interlock.records import Record
from interlock.report.words import number, plain

Role = Literal["candidate", "champion", "baseline", "ink"]
"""What a mark stands for: it decides colour and shape, so that neither carries the meaning alone."""

_INK, _MUTED, _LINE = "#010101", "#020202", "#030303"
_COLOUR: dict[str, str] = {"candidate": "#040404", "champion": "#050505", "baseline": "#060606", "ink": _INK}
_SHAPE: dict[str, str] = {"candidate": "o", "champion": "s", "baseline": "D", "ink": "o"}
_CSS = {
    _INK: "currentColor",
    _MUTED: "var(--muted)",
    _LINE: "var(--line)",
    "#040404": "var(--candidate)",
    "#050505": "var(--champion)",
    "#060606": "var(--baseline)",
}
_SETTINGS: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "interlock",
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
}
_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}
_LABEL_CHARS = 28
_WIDE = 590.0


class Picture(Record, frozen=True, kw_only=True):
    """An inline ``<svg>`` with the words that stand for it where it cannot be seen."""

    title: str
    description: str
    svg: str


class Mark(Record, frozen=True, kw_only=True):
    """One row of an interval picture: a value between ``low`` and ``high`` (equal to it when there is no interval)."""

    label: str
    role: Role
    value: float
    low: float
    high: float
    shown: str = ""


class Pair(Record, frozen=True, kw_only=True):
    """One row of a slice picture: the candidate's and the other model's score on the same ``rows`` rows."""

    label: str
    rows: int
    candidate: float
    other: float


class Curve(Record, frozen=True, kw_only=True):
    """One line of a picture of curves: points (x, y) in order of x; its label stands at its end."""

    label: str
    role: Role
    points: tuple[tuple[float, float], ...]


# ---- the pictures ------------------------------------------------------------------------------------------------


def intervals(
    title: str, marks: Sequence[Mark], *, description: str, rule: float | None = None, rule_label: str = ""
) -> Picture:
    """Dots with intervals, one row a mark, on a shared axis; ``rule`` is a vertical line that means something."""
    width, gutter, step, top = _WIDE, _gutter(mark.label for mark in marks), 24.0, 18.0 if rule is not None else 6.0
    height = top + step * len(marks) + 22
    values = [edge for mark in marks for edge in (mark.low, mark.high, mark.value)] + ([] if rule is None else [rule])
    with _sheet(width, height) as sheet:
        scale = _axis(sheet, values, (gutter, width - 62), (top, height - 20))
        if rule is not None:
            sheet.line([(scale(rule), top), (scale(rule), height - 20)], _INK, width=0.9, dashes=(3, 2.5))
            sheet.text(scale(rule), top - 9, rule_label, _MUTED, align="center", size=7.5)
        for row, mark in enumerate(marks):
            y = top + step * (row + 0.5)
            colour = _COLOUR[mark.role]
            sheet.text(gutter - 12, y, mark.label, _INK, align="right")
            if mark.high > mark.low:
                ends = (scale(mark.low), scale(mark.high))
                sheet.line([(ends[0], y), (ends[1], y)], colour, width=2.4)
                for x in ends:
                    sheet.line([(x, y - 4), (x, y + 4)], colour, width=1.4)
            sheet.dots([(scale(mark.value), y)], colour, _SHAPE[mark.role], size=6.5)
            sheet.text(width - 2, y, mark.shown or number(mark.value), _INK, align="right")
        return sheet.picture(title, description)


def pairs(title: str, rows: Sequence[Pair], *, other: Role, description: str) -> Picture:
    """Two dots a slice, joined: the candidate and the other model on the same rows."""
    width, gutter, step, top = _WIDE, _gutter(row.label for row in rows), 19.0, 4.0
    height = top + step * len(rows) + 22
    values = [value for row in rows for value in (row.candidate, row.other)]
    with _sheet(width, height) as sheet:
        scale = _axis(sheet, values, (gutter, width - 72), (top, height - 20))
        for index, row in enumerate(rows):
            y = top + step * (index + 0.5)
            sheet.text(gutter - 12, y, row.label, _INK, align="right")
            sheet.line([(scale(row.other), y), (scale(row.candidate), y)], _MUTED, width=1.2)
            sheet.dots([(scale(row.other), y)], _COLOUR[other], _SHAPE[other], size=5.5)
            sheet.dots([(scale(row.candidate), y)], _COLOUR["candidate"], _SHAPE["candidate"], size=6)
            sheet.text(width - 2, y, f"{row.rows:,} rows", _MUTED, align="right", size=7.5)
        return sheet.picture(title, description)


def histogram(
    title: str,
    edges: Sequence[float],
    counts: Sequence[int],
    *,
    description: str,
    ends: tuple[str, str] | None = None,
    large: bool = False,
) -> Picture:
    """Counts between ``edges`` (one more than counts) as one outline; ``large`` adds an axis and a line at zero."""
    width, height, floor = (_WIDE, 140.0, 118.0) if large else (164.0, 62.0, 48.0)
    peak = max(max(counts, default=0), 1)
    with _sheet(width, height) as sheet:
        if large:
            scale = _axis(sheet, list(edges), (8, width - 8), (6, floor))
        else:
            scale = _scale(edges[0], edges[-1], 1, width - 1)
        outline = [(scale(edges[0]), floor)]
        for left, right, count in zip(edges[:-1], edges[1:], counts, strict=True):
            y = floor - (floor - 6) * count / peak
            outline += [(scale(left), y), (scale(right), y)]
        sheet.area([*outline, (scale(edges[-1]), floor)], _COLOUR["candidate"], alpha=0.7)
        sheet.line([(scale(edges[0]), floor), (scale(edges[-1]), floor)], _MUTED, width=0.8)
        if large and edges[0] < 0 < edges[-1]:
            sheet.line([(scale(0), 4), (scale(0), floor)], _INK, width=0.9, dashes=(3, 2.5))
        if not large:
            low, high = ends or (number(edges[0]), number(edges[-1]))
            sheet.text(0, 56, low, _MUTED, size=7.5)
            sheet.text(width, 56, high, _MUTED, align="right", size=7.5)
        return sheet.picture(title, description)


def bars(title: str, labels: Sequence[str], counts: Sequence[int], *, description: str) -> Picture:
    """One horizontal bar a category, with its share of all rows shown."""
    width, step, gutter = 164.0, 13.0, 66.0
    total, peak = max(sum(counts), 1), max(max(counts, default=0), 1)
    with _sheet(width, max(step * len(labels), step) + 4) as sheet:
        for index, (label, count) in enumerate(zip(labels, counts, strict=True)):
            y = step * (index + 0.5) + 2
            sheet.text(gutter - 5, y, label, _INK, align="right", size=7.5, chars=11)
            reach = (width - gutter - 30) * count / peak
            sheet.area(_box(gutter, y - 4, max(reach, 0.8), 8), _COLOUR["candidate"], alpha=0.7)
            sheet.text(width, y, _part(count / total), _MUTED, align="right", size=7.5)
        return sheet.picture(title, description)


def matrix(title: str, labels: Sequence[str], counts: Sequence[Sequence[int]], *, description: str) -> Picture:
    """Confusion matrix: rows are the truth, columns the prediction; shade is the share of the row."""
    cell_w, cell_h, gutter, top = 60.0, 30.0, _gutter(labels, 16), 34.0
    size = len(labels)
    with _sheet(gutter + cell_w * size + 2, top + cell_h * size + 2) as sheet:
        sheet.text(gutter + cell_w * size / 2, 8, "predicted", _MUTED, align="center", size=8)
        sheet.text(gutter - 8, 24, "true", _MUTED, align="right", size=8)
        for column, label in enumerate(labels):
            sheet.text(gutter + cell_w * (column + 0.5), 24, label, _INK, align="center", size=8, chars=10)
        for row, (label, line) in enumerate(zip(labels, counts, strict=True)):
            y = top + cell_h * row
            sheet.text(gutter - 8, y + cell_h / 2, label, _INK, align="right", size=8, chars=16)
            for column, count in enumerate(line):
                x, share = gutter + cell_w * column, count / max(sum(line), 1)
                colour = _COLOUR["candidate"] if row == column else _COLOUR["champion"]
                sheet.area(_box(x + 1, y + 1, cell_w - 2, cell_h - 2), colour, alpha=0.06 + 0.46 * share)
                sheet.text(x + cell_w / 2, y + cell_h / 2, f"{count:,}", _INK, align="center", size=9)
        return sheet.picture(title, description)


def calibration(
    title: str, points: Sequence[tuple[float, float]], *, axes: tuple[str, str], unit: bool, description: str
) -> Picture:
    """Observed mean (y) against predicted mean (x), a dot a bin, with the diagonal of a perfect model.

    ``unit`` fixes both axes to 0 … 1, for probabilities, of which there are often several side by side.
    """
    width, height, left, floor = (196.0, 178.0, 42.0, 146.0) if unit else (300.0, 240.0, 56.0, 206.0)
    values = [0.0, 1.0] if unit else [edge for point in points for edge in point]
    with _sheet(width, height) as sheet:
        across = _axis(sheet, values, (left, width - 12), (8, floor))
        low, high = across.low, across.high
        up = _scale(low, high, floor, 8)
        for tick in _ticks(low, high):
            sheet.line([(left, up(tick)), (width - 12, up(tick))], _LINE, width=0.6)
            sheet.text(left - 6, up(tick), f"{tick:g}", _MUTED, align="right", size=7.5)
        sheet.line([(across(low), up(low)), (across(high), up(high))], _MUTED, width=0.9, dashes=(3, 2.5))
        trace = [(across(x), up(y)) for x, y in points]
        sheet.line(trace, _COLOUR["candidate"], width=1.4)
        sheet.dots(trace, _COLOUR["candidate"], "o", size=5.5)
        sheet.text((left + width - 12) / 2, height - 8, axes[0], _MUTED, align="center", size=8)
        sheet.text(10, (8 + floor) / 2, axes[1], _MUTED, align="center", size=8, turn=90)
        return sheet.picture(title, description)


def course(title: str, scores: Sequence[float | None], *, more_is_better: bool, description: str) -> Picture:
    """Scores of trials in order, a dot each, and the best so far as a step line; None for a trial without a score."""
    width, height, left, floor = _WIDE, 170.0, 62.0, 138.0
    known = [score for score in scores if score is not None]
    with _sheet(width, height) as sheet:
        across = _axis(sheet, [1.0, float(max(len(scores), 2))], (left, width - 12), (8, floor))
        up = _scale(min(known), max(known), floor - 6, 12)
        for tick in _ticks(up.low, up.high):
            sheet.line([(left, up(tick)), (width - 12, up(tick))], _LINE, width=0.6)
            sheet.text(left - 6, up(tick), f"{tick:g}", _MUTED, align="right", size=7.5)
        best: float | None = None
        line: list[tuple[float, float]] = []
        for place, score in enumerate(scores, start=1):
            if score is not None and (best is None or (score > best if more_is_better else score < best)):
                line += [] if best is None else [(across(place), up(best))]
                best = score
            if best is not None:
                line.append((across(place), up(best)))
        sheet.line(line, _COLOUR["candidate"], width=1.6)
        dots = [(across(place), up(score)) for place, score in enumerate(scores, start=1) if score is not None]
        sheet.dots(dots, _MUTED, "o", size=4)
        sheet.text((left + width - 12) / 2, height - 8, "trial", _MUTED, align="center", size=8)
        return sheet.picture(title, description)


def curves(
    title: str,
    lines: Sequence[Curve],
    *,
    axes: tuple[str, str],
    description: str,
    marks: Sequence[tuple[float, str]] = (),
) -> Picture:
    """Lines over a shared axis, from nought upwards; ``marks`` name places of the axis in place of its numbers."""
    width, height, left, right, floor = _WIDE, 190.0, 62.0, _WIDE - 60, 150.0
    xs, ys = ([point[part] for line in lines for point in line.points] for part in (0, 1))
    with _sheet(width, height) as sheet:
        across = _scale(min(xs), max(xs), left, right)
        up = _scale(0.0, max(*ys, 1e-9) * 1.05, floor, 12)
        for tick in _ticks(0.0, up.high):
            sheet.line([(left, up(tick)), (right, up(tick))], _LINE, width=0.6)
            sheet.text(left - 6, up(tick), f"{tick:g}", _MUTED, align="right", size=7.5)
        for place, name in marks or [(tick, f"{tick:g}") for tick in _ticks(across.low, across.high)]:
            sheet.line([(across(place), 8), (across(place), floor)], _LINE, width=0.6)
            sheet.text(across(place), floor + 10, name, _MUTED, align="center", size=7.5)
        for line in lines:
            trace = [(across(x), up(y)) for x, y in line.points]
            sheet.line(trace, _COLOUR[line.role], width=1.5, dashes=(4, 2) if line.role == "champion" else None)
            sheet.text(trace[-1][0] + 5, trace[-1][1], line.label, _INK, size=8, chars=10)
        sheet.text((left + right) / 2, height - 8, axes[0], _MUTED, align="center", size=8)
        sheet.text(12, (8 + floor) / 2, axes[1], _MUTED, align="center", size=8, turn=90)
        return sheet.picture(title, description)


def shares(title: str, parts: Sequence[tuple[str, float]], *, description: str) -> Picture:
    """One horizontal bar a name, as long as its share of the whole."""
    width, step, gutter = _WIDE, 20.0, _gutter(name for name, _ in parts)
    peak = max([share for _, share in parts if share > 0], default=1.0)
    with _sheet(width, step * len(parts) + 6) as sheet:
        for index, (name, share) in enumerate(parts):
            y = 3 + step * (index + 0.5)
            sheet.text(gutter - 12, y, name, _INK, align="right")
            sheet.area(
                _box(gutter, y - 6, max((width - gutter - 62) * share / peak, 0.8), 12), _COLOUR["candidate"], alpha=0.7
            )
            sheet.text(width - 2, y, _part(share), _INK, align="right")
        return sheet.picture(title, description)


def flow(title: str, steps: Sequence[tuple[str, str, str]], *, description: str) -> Picture:
    """Boxes joined by arrows, left to right: name, digest and place in the ledger of each step."""
    box_w, box_h, gap = 82.0, 50.0, 18.0
    width = box_w * len(steps) + gap * (len(steps) - 1) + 2
    with _sheet(width, box_h + 4) as sheet:
        for index, (name, what, where) in enumerate(steps):
            x = 1 + index * (box_w + gap)
            sheet.line([*_box(x, 2, box_w, box_h), (x, 2), (x + 1, 2)], _MUTED, width=0.9)
            sheet.text(x + box_w / 2, 14, name, _INK, align="center", size=8.5, bold=True)
            sheet.text(x + box_w / 2, 28, what, _INK, align="center", size=7.5, chars=16)
            sheet.text(x + box_w / 2, 41, where, _MUTED, align="center", size=7, chars=18)
            if index:
                tip = x - 2.5
                sheet.line([(x - gap + 2, 27), (tip - 4, 27)], _MUTED, width=1)
                sheet.area([(tip - 5, 24), (tip, 27), (tip - 5, 30)], _MUTED, alpha=1)
        return sheet.picture(title, description)


def _gutter(labels: Iterable[str], chars: int = _LABEL_CHARS) -> float:
    """Room for right-aligned labels, by their length: text is set in the reader's font, so this is generous."""
    return 20.0 + 5.0 * max((min(len(label), chars) for label in labels), default=0)


def _part(share: float) -> str:
    return "<1 %" if 0 < share < 0.01 else f"{100 * share:.0f} %"


# ---- drawing -----------------------------------------------------------------------------------------------------


class _Scale:
    """Linear map of ``low … high`` onto ``start … end`` points."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self.low, self.high, self.start, self.end = low, high, start, end

    def __call__(self, value: float) -> float:
        return self.start + (self.end - self.start) * (value - self.low) / (self.high - self.low)


def _scale(low: float, high: float, start: float, end: float) -> _Scale:
    if high > low:
        return _Scale(low, high, start, end)
    pad = max(abs(low) * 0.1, 0.5)
    return _Scale(low - pad, high + pad, start, end)


def _ticks(low: float, high: float) -> list[float]:
    from matplotlib.ticker import MaxNLocator

    found = MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    slack = (high - low) * 1e-9
    return [round(float(tick), 12) for tick in found if low - slack <= tick <= high + slack]


def _axis(sheet: "_Sheet", values: Sequence[float], across: tuple[float, float], down: tuple[float, float]) -> _Scale:
    """Grid lines and numbers of a horizontal axis that holds all ``values``, and its scale."""
    scale = _scale(min(values), max(values), *across)
    pad = (scale.high - scale.low) * 0.04
    scale = _Scale(scale.low - pad, scale.high + pad, *across)
    for tick in _ticks(scale.low, scale.high):
        sheet.line([(scale(tick), down[0]), (scale(tick), down[1])], _LINE, width=0.6)
        sheet.text(scale(tick), down[1] + 10, f"{tick:g}", _MUTED, align="center", size=7.5)
    return scale


def _box(x: float, y: float, width: float, height: float) -> list[tuple[float, float]]:
    return [(x, y), (x + width, y), (x + width, y + height), (x, y + height)]


class _Sheet:
    """A drawing surface measured in points, y downwards; the one place that knows matplotlib."""

    def __init__(self, width: float, height: float) -> None:
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
        from matplotlib.transforms import Affine2D

        self._figure = Figure(figsize=(width / 72, height / 72))
        FigureCanvasSVG(self._figure)
        # No axes: making one costs more than all that is drawn on it.
        self._points = Affine2D().scale(1 / width, -1 / height).translate(0, 1) + self._figure.transFigure

    def line(
        self,
        points: Sequence[tuple[float, float]],
        colour: str,
        *,
        width: float,
        dashes: tuple[float, float] | None = None,
    ) -> None:
        """A line through ``points``."""
        style: Any = "-" if dashes is None else (0, dashes)
        self._add_line(points, color=colour, linewidth=width, linestyle=style, solid_capstyle="butt")

    def dots(self, points: Sequence[tuple[float, float]], colour: str, shape: str, *, size: float) -> None:
        """Markers of one shape."""
        self._add_line(points, color=colour, linestyle="none", marker=shape, markersize=size, markeredgewidth=0)

    def _add_line(self, points: Sequence[tuple[float, float]], **style: Any) -> None:
        from matplotlib.lines import Line2D

        xs, ys = [x for x, _ in points], [y for _, y in points]
        self._figure.add_artist(Line2D(xs, ys, transform=self._points, **style))

    def area(self, points: Sequence[tuple[float, float]], colour: str, *, alpha: float) -> None:
        """A filled polygon."""
        from matplotlib.patches import Polygon

        style: Any = {"facecolor": colour, "edgecolor": "none", "alpha": round(alpha, 2), "transform": self._points}
        self._figure.add_artist(Polygon(points, **style))

    def text(  # noqa: PLR0913 - a label has this many properties, all but four with defaults
        self,
        x: float,
        y: float,
        text: str,
        colour: str,
        *,
        align: str = "left",
        size: float = 8.5,
        bold: bool = False,
        turn: int = 0,
        chars: int = _LABEL_CHARS,
    ) -> None:
        """One line of text, centred on ``y``."""
        weight = "bold" if bold else "normal"
        style: Any = {
            "fontsize": size,
            "color": colour,
            "fontweight": weight,
            "rotation": turn,
            "transform": self._points,
        }
        self._figure.text(x, y, plain(text, chars), ha=align, va="center_baseline", **style)

    def picture(self, title: str, description: str) -> Picture:
        """What was drawn."""
        out = io.StringIO()
        self._figure.savefig(out, format="svg", metadata=_METADATA, transparent=True)
        title, description = plain(title), plain(description, 2_000)
        return Picture(title=title, description=description, svg=_lean(out.getvalue(), title, description))


@contextmanager
def _sheet(width: float, height: float) -> Iterator[_Sheet]:
    """A sheet under fixed settings; letters that the measuring font lacks are no warning: the reader may have them."""
    import matplotlib as mpl

    with mpl.rc_context(_SETTINGS), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        yield _Sheet(width, height)


# ---- leaning -----------------------------------------------------------------------------------------------------

_FONT_FAMILY = re.compile(r"font-family: [^;\"]*;? ?")
_LONG_NUMBER = re.compile(r"-?\d+\.\d{2,}(?:e-?\d+)?")
_NO_TURN = re.compile(r' transform="rotate\(-?0 [^)]*\)"')


def _lean(svg: str, title: str, description: str) -> str:
    """Keep the shapes; drop ids nobody refers to, empty groups, fonts and digits beyond a tenth of a point."""
    svg = svg[svg.index("<svg") :]
    size = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
    assert size is not None
    key = hashlib.sha256(f"{title}\n{svg}".encode()).hexdigest()[:8]
    body = svg[svg.index(">") + 1 : svg.rindex("</svg>")]
    body = re.sub(r"<style.*?</style>", "", body, flags=re.DOTALL)
    body = "".join(_tags(body, key, frozenset(re.findall(r"#([\w-]+)\"", body))))
    body = re.sub(r"<defs></defs>", "", body)
    width, height = (round(float(edge), 1) for edge in size.groups())
    return (
        f'<svg class="picture" viewBox="0 0 {width:g} {height:g}" style="width:{width * 4 / 3:.0f}px" role="img" '
        f'aria-labelledby="p{key}t p{key}d"><title id="p{key}t">{escape(title)}</title>'
        f'<desc id="p{key}d">{escape(description)}</desc>{body}</svg>'
    )


def _tags(body: str, key: str, used: frozenset[str]) -> Iterator[str]:
    """The tokens worth keeping, in order; a group without attributes goes, with its end."""
    kept: list[bool] = []
    for token in re.split(r"(<[^>]+>)", body):
        if not token.startswith("<"):
            yield token if token.strip() else ""
            continue
        tag = _tag(" ".join(token.split()), key, used)
        if tag == "</g>":
            yield tag if kept.pop() else ""
        elif tag.startswith("<g"):
            kept.append(tag != "<g>")
            yield tag if kept[-1] else ""
        elif 'style="fill: none"' not in tag:
            yield tag


def _tag(tag: str, key: str, used: frozenset[str]) -> str:
    found = re.search(r' id="([^"]*)"', tag)
    if found is not None:
        keep = f' id="p{key}{found[1]}"' if found[1] in used else ""
        tag = tag.replace(found[0], keep)
    tag = re.sub(r'xlink:href="#', f'href="#p{key}', tag)
    tag = _NO_TURN.sub("", _FONT_FAMILY.sub("", tag))
    tag = _LONG_NUMBER.sub(lambda hit: f"{float(hit[0]):.1f}".removesuffix(".0"), tag) if "opacity" not in tag else tag
    for marker, css in _CSS.items():
        tag = tag.replace(marker, css)
    return tag
