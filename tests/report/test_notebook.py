"""An executed notebook as blocks of a page, whatever is in it."""

import base64
import json
from typing import Any

from interlock.report.notebook import notebook_view
from interlock.report.page import Headline, Page, Section, to_html, to_markdown

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"0" * 40).decode()


def document(*cells: dict[str, Any]) -> bytes:
    return json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 4}).encode()


def code(source: str, *outputs: dict[str, Any], tags: tuple[str, ...] = ()) -> dict[str, Any]:
    return {
        "cell_type": "code",
        "source": source,
        "outputs": list(outputs),
        "metadata": {"tags": list(tags)},
        "execution_count": 1,
    }


def data(**kinds: str) -> dict[str, Any]:
    named = {
        "html": "text/html",
        "plain": "text/plain",
        "png": "image/png",
        "svg": "image/svg+xml",
        "js": "application/javascript",
    }
    return {"output_type": "display_data", "metadata": {}, "data": {named[kind]: text for kind, text in kinds.items()}}


def printed(*cells: dict[str, Any]) -> tuple[str, str]:
    view = notebook_view(document(*cells))
    assert view is not None
    page = Page(
        title="t",
        subtitle="s",
        badge="b",
        tone="good",
        summary="s",
        headlines=(Headline(label="l", value="v"),),
        sections=(Section(name="one", title="One", blocks=(view,)),),
        footer="f",
    )
    html = to_html(page)
    return html[html.index('<section id="one"') :], to_markdown(page)


def test_nothing_of_a_notebook_becomes_markup() -> None:
    evil = "<script>alert(1)</script><img src=x onerror=alert(2)>"
    html, _ = printed(
        {
            "cell_type": "markdown",
            "metadata": {},
            "source": f"# A\n{evil}\n\n![p](http://evil/p.png) [l](javascript:1)",
        },
        {"cell_type": "raw", "metadata": {}, "source": evil},
        code(evil, {"output_type": "stream", "name": "stdout", "text": evil}),
        code("1", data(html=evil, plain=evil)),
        code("2", data(html=f"<table onload=x><tr><th>{evil}a</th></tr><tr><td>{evil}b</td></tr></table>")),
        code("3", data(js="alert(3)")),
        code("4", {"output_type": "error", "ename": "E", "evalue": evil, "traceback": ["\x1b[31m" + evil + "\x1b[0m"]}),
        code("5", data(png='"><script>', plain="p"), data(svg="not a picture")),
    )
    assert "<script" not in html
    assert "<img" not in html
    assert "http://evil/p.png" not in html.replace("![p](http://evil/p.png)", "")
    assert "href=" not in html
    assert "\x1b" not in html
    assert "<h3>A</h3>" in html
    assert html.count("(a picture that cannot be read)") == 2


def test_tables_and_pictures_are_shown() -> None:
    body = "<tbody><tr><th>0</th><td>1.5</td></tr></tbody>"
    table = f"<style>x{{}}</style><table><thead><tr><th></th><th>a</th></tr></thead>{body}</table>"
    html, markdown = printed(
        code("df", data(html=table, plain="a 1.5")),
        code("plot", data(png=PNG, plain="<Figure>"), data(svg="<svg xmlns='http://www.w3.org/2000/svg'/>")),
        code("x = 1", tags=("injected-parameters",)),
    )
    assert '<th scope="col">a</th>' in html
    assert "<td>1.5</td>" in html
    assert f'src="data:image/png;base64,{PNG}"' in html
    assert 'src="data:image/svg+xml;base64,' in html
    assert '<div class="cell injected">' in html
    assert "```python\ndf\n```" in markdown
    assert markdown.count("*A picture that the notebook made.*") == 2


def test_what_is_large_is_left_out_and_said() -> None:
    rows = "".join(f"<tr><td>{i}</td></tr>" for i in range(500))
    html, _ = printed(
        code("x" * 50_000, {"output_type": "stream", "name": "stdout", "text": "y" * 50_000}),
        code("big", data(png=PNG + "0" * 4_000_000)),
        code("rows", data(html=f"<table><tr><th>n</th></tr>{rows}</table>")),
        *[code("1")] * 400,
    )
    assert len(html) < 300_000
    assert "42000 more characters" in html
    assert "a picture of" in html
    assert "440 more rows are left out." in html
    assert "103 more cells are left out." in html


def test_what_is_no_notebook_is_not_shown() -> None:
    for content in (b"", b"{}", b"[]", b'{"cells": [1]}', b'{"cells": [{"cell_type": "code"}]}'):
        assert notebook_view(content) is None
