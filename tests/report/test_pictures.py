"""Pictures: lean, accessible, harmless, the same for the same numbers."""

import re
import xml.etree.ElementTree as ET

import pytest

from interlock.report import pictures
from interlock.report.pictures import Curve, Mark, Pair, Picture

HOSTILE = "</svg><script>alert(1)</script>\"' $x_1^2$ \u202e日本"


def line(name: str) -> Curve:
    return Curve(label=name, role="champion", points=((0.0, 0.0), (1.0, 3.0)))


def draw_all(name: str) -> list[Picture]:
    marks = [
        Mark(label=name, role="candidate", value=0.8, low=0.75, high=0.85),
        Mark(label="b", role="baseline", value=0.4, low=0.4, high=0.4, shown="+0.4"),
    ]
    return [
        pictures.intervals(name, marks, description=name, rule=0.5, rule_label=name),
        pictures.pairs(name, [Pair(label=name, rows=30, candidate=0.8, other=0.7)], other="champion", description=name),
        pictures.histogram(name, (0.0, 1.0, 2.0), (3, 5), description=name, ends=(name, name)),
        pictures.course(name, [0.5, None, 0.7], more_is_better=True, description=name),
        pictures.shares(name, [(name, 0.9), ("b", 0.1)], description=name),
        pictures.curves(name, [line(name)], axes=(name, name), description=name),
        pictures.curves(name, [line(name)], axes=(name, name), description=name, marks=[(0.5, name)]),
        pictures.histogram(name, (-1.0, 0.5, 2.0), (3, 5), description=name, large=True),
        pictures.bars(name, [name, "b"], [90, 10], description=name),
        pictures.matrix(name, [name, "b"], [[9, 1], [2, 8]], description=name),
        pictures.calibration(name, [(0.1, 0.2), (0.9, 0.8)], axes=(name, name), unit=True, description=name),
        pictures.calibration(name, [(10.0, 12.0), (90.0, 80.0)], axes=(name, name), unit=False, description=name),
        pictures.flow(name, [(name, name, name), ("b", "c", "d")], description=name),
    ]


@pytest.fixture(scope="module")
def hostile() -> list[Picture]:
    return draw_all(HOSTILE)


def test_every_picture_is_well_formed_and_named(hostile: list[Picture]) -> None:
    for picture in hostile:
        root = ET.fromstring(picture.svg)
        assert root.get("role") == "img"
        ids = {element.get("id"): element.text for element in root if element.get("id")}
        named = root.get("aria-labelledby", "").split()
        assert [bool(ids[name]) for name in named] == [True, True]


def test_user_text_is_text_and_nothing_else(hostile: list[Picture]) -> None:
    for picture in hostile:
        tags = {element.tag for element in ET.fromstring(picture.svg).iter()}
        assert tags <= {"svg", "title", "desc", "g", "defs", "path", "use", "text"}
        assert "\u202e" not in picture.svg
        assert "$x_1^2$" in "".join(ET.fromstring(picture.svg).itertext())


def test_pictures_refer_to_themselves_only_and_carry_theme_colours(hostile: list[Picture]) -> None:
    for picture in hostile:
        assert not re.search(r"https?:|url\(|@import|<style|font-family|#[0-9a-f]{6}", picture.svg)
        ids = re.findall(r' id="([^"]+)"', picture.svg)
        assert len(ids) == len(set(ids))
        assert set(re.findall(r'href="#([^"]+)"', picture.svg)) <= set(ids)
        assert "var(--" in picture.svg or "currentColor" in picture.svg


def test_pictures_are_lean() -> None:
    assert max(len(picture.svg) for picture in draw_all("column")) < 4_500


def test_the_same_numbers_give_the_same_bytes() -> None:
    assert draw_all("again") == draw_all("again")


def test_two_pictures_on_one_page_share_no_id() -> None:
    one, two = draw_all("one")[0].svg, draw_all("two")[0].svg
    assert not set(re.findall(r' id="([^"]+)"', one)) & set(re.findall(r' id="([^"]+)"', two))


def test_a_mark_stands_where_its_value_is() -> None:
    def places(value: float) -> list[float]:
        marks = [Mark(label="a", role="candidate", value=v, low=v, high=v) for v in (0.0, value, 1.0)]
        svg = pictures.intervals("t", marks, description="d").svg
        return [float(x) for x in re.findall(r'<use [^>]*x="([\d.]+)"', svg)]

    low, middle, high = places(0.25)
    assert middle == pytest.approx(low + (high - low) / 4, abs=0.11)


def test_degenerate_numbers_are_drawn_all_the_same() -> None:
    flat = Mark(label="a", role="ink", value=0.0, low=0.0, high=0.0)
    assert pictures.intervals("t", [flat], description="d").svg
    assert pictures.calibration("t", [(5.0, 5.0)], axes=("x", "y"), unit=False, description="d").svg
    assert pictures.histogram("t", (0.0, 1.0), (0,), description="d").svg
    assert pictures.bars("t", ["a"], [0], description="d").svg
    assert pictures.matrix("t", ["a"], [[0]], description="d").svg


def test_dollars_are_no_mathematics() -> None:
    picture = pictures.bars("t", ["$x^2$", "b"], [9, 9], description="d")
    assert ">$x^2$</text>" in picture.svg


@pytest.mark.parametrize("more_is_better", [True, False])
def test_the_course_of_a_search_is_a_step_line_over_a_dot_for_each_score(more_is_better: bool) -> None:
    scores = [0.5, None, 0.7, 0.6, None, 0.9]
    drawn = pictures.course("Course", scores, more_is_better=more_is_better, description="words").svg
    assert drawn.count("<use") == 4
    line = re.search(r' d="(M[^"]+)" style="fill: none; stroke: var\(--candidate\)', drawn)[1]
    heights = [float(height) for height in re.findall(r"[ML] [\d.]+ ([\d.]+)", line)]
    assert heights == sorted(heights, reverse=True)  # up is a smaller y
    assert len(set(heights)) == (3 if more_is_better else 1)


def test_shares_are_told_in_per_cent() -> None:
    drawn = pictures.shares("Importance", [("depth", 0.75), ("rate", 0.25), ("kind", 0.0)], description="words").svg
    for words in ("depth", "75 %", "25 %", "0 %"):
        assert words in drawn
