"""Blocks printed twice: as HTML and as Markdown."""

from interlock.report.page import (
    Bullets,
    Facts,
    Headline,
    Lines,
    Listing,
    Note,
    Page,
    Section,
    Table,
    Text,
    to_html,
    to_markdown,
    tone,
)


def page(*blocks: object) -> Page:
    return Page(
        title="A *bold* <b>title</b>",
        subtitle="s",
        badge="in force",
        tone="good",
        summary="1. not a list",
        headlines=(Headline(label="l", value="v"),),
        sections=(Section(name="one", title="One", blocks=blocks),),
        footer="f",
    )


def test_both_printers_escape_what_they_print() -> None:
    shown = page(
        Text(text="<img src=x onerror=1> [a](http://evil.example) `code` | _x_ & <!-- --> https://evil.example")
    )
    html, markdown = to_html(shown), to_markdown(shown)
    assert "<img" not in html
    assert "&lt;img src=x onerror=1&gt;" in html
    assert r"\<img src=x onerror=1\>" in markdown
    assert r"\[a\](http\://evil.example)" in markdown
    assert r"https\://evil.example" in markdown
    assert "A \\*bold\\* \\<b\\>title" in markdown
    assert "\n1\\. not a list" in markdown


def test_a_table_keeps_its_cells_whatever_they_hold() -> None:
    table = Table(
        title="t",
        columns=(("A", "text"), ("B", "code"), ("C", "number")),
        rows=(("a|b\nc", "x`y|z", "1"), ("", "", "")),
    )
    markdown = to_markdown(page(table))
    assert "| A | B | C |\n| --- | --- | ---: |\n" in markdown
    assert "| a\\|b\\\\u000ac | `x'y\\|z` | 1 |" in markdown
    assert '<td class="code"><code>x`y|z</code></td>' in to_html(page(table))


def test_an_empty_table_says_so() -> None:
    table = Table(title="t", columns=(("A", "text"),), rows=(), empty="No file landed.")
    assert "No file landed." in to_html(page(table))
    assert "No file landed." in to_markdown(page(table))


def test_a_listing_cannot_leave_its_fence() -> None:
    text = "```\n</pre></details><script>alert(1)</script>\n````"
    shown = page(Listing(title="train.py", about="9 bytes", text=text, language="python"))
    assert "<script>" not in to_html(shown)
    markdown = to_markdown(shown)
    assert f"\n`````python\n{text}\n`````\n" in markdown


def test_every_kind_of_block_is_printed() -> None:
    blocks = (
        Note(text="a note", tone="bad"),
        Bullets(items=("first", "second")),
        Facts(rows=(("name", "value", "text"), ("digest", "ab" * 32, "digest"), ("state", "passed", "flag"))),
        Lines(labels=("Reviewer",)),
    )
    html, markdown = to_html(page(*blocks)), to_markdown(page(*blocks))
    for words in ("a note", "first", "second", "value", "passed", "Reviewer"):
        assert words in html
        assert words in markdown
    assert f'<code title="{"ab" * 32}">{"ab" * 6}</code>' in html
    assert "ab" * 32 in markdown
    assert '<span class="flag good">passed</span>' in html


def test_a_word_without_a_colour_is_calm() -> None:
    assert (tone("passed"), tone("refused"), tone("hold"), tone("keep")) == ("good", "bad", "warn", "calm")
