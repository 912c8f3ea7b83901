"""Put manuals and questions into the inboxes: docstrings of packages that are installed, nothing is fetched.

A document is the docstring of a function without its first line. A query is what somebody wrote about that function
in a few words: its own first line, or what another page says of it under "See Also".
"""

import argparse
import csv
import hashlib
import inspect
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

HERE = Path(__file__).parent
SECTION = re.compile(r"^(?P<title>[A-Z][A-Za-z ]+)\n-{3,}\n", re.MULTILINE)
SEE_ALSO = re.compile(r"^See Also\n-{3,}\n(.*?)(?=^[A-Z][A-Za-z ]+\n-{3,}\n|\Z)", re.MULTILINE | re.DOTALL)
MENTION = re.compile(r"^(?P<names>[\w.]+(?:, [\w.]+)*) : (?P<said>[^\n]{12,})$", re.MULTILINE)
PARTS: dict[str, list[tuple[str, Any]]] = {
    "numpy": [("numpy", np), ("numpy.linalg", np.linalg), ("numpy.fft", np.fft)],
    "pandas": [("pandas.DataFrame", pd.DataFrame), ("pandas", pd)],
}
QUESTIONS = [
    "sort the values along an axis",
    "largest element of an array",
    "solve a system of linear equations",
    "join several arrays into one",
    "drop rows with missing values",
    "how often does each value occur",
]


def pages(part: str) -> Iterator[tuple[str, str]]:
    """Full name and docstring of everything in a part that has a page of its own."""
    for prefix, place in PARTS[part]:
        for name in sorted(vars(place)):
            found: Callable[..., Any] = getattr(place, name)
            if name.startswith("_") or not callable(found):
                continue
            text = inspect.getdoc(found) or ""
            if len(text) > 300 and SECTION.search(text):
                yield f"{prefix}.{name}", text


def summary_and_rest(text: str) -> tuple[str, str]:
    """The first sentence of a page that is one, and the page without it and without its mentions of others."""
    paragraphs = [part.strip() for part in text.split("\n\n")]
    if re.match(r"^[\w.]+\(", paragraphs[0]):
        paragraphs = paragraphs[1:]  # the signature
    return " ".join(paragraphs[0].split()), SEE_ALSO.sub("", "\n\n".join(paragraphs[1:]))


def documents_and_queries(part: str) -> tuple[list[list[str]], list[list[str]]]:
    """Rows of ``document, title, text`` and of ``query_id, query, document``."""
    found = dict(pages(part))
    by_short_name = {name.rpartition(".")[2]: name for name in found} | {
        name.removeprefix("pandas."): name for name in found
    }
    documents, asked = [], {}
    for name, text in found.items():
        summary, rest = summary_and_rest(text)
        documents.append([name, name.rpartition(".")[2].replace("_", " "), rest])
        asked.setdefault(summary, name)
        section = SEE_ALSO.search(text)
        for mention in MENTION.finditer(section[1] if section else ""):
            for other in mention["names"].split(", "):
                if other in by_short_name:
                    asked.setdefault(" ".join(mention["said"].split()), by_short_name[other])
    queries = [
        [hashlib.md5(f"{query} {name}".encode(), usedforsecurity=False).hexdigest()[:12], query, name]
        for query, name in sorted(asked.items())
    ]
    return documents, queries


def write(path: Path, header: list[str], rows: list[list[str]]) -> None:
    """One CSV file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    print(f"{path.relative_to(HERE)}: {len(rows)} rows")


def main() -> None:
    """The manual of NumPy; with ``--next`` also that of pandas."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--next", action="store_true", help="add the manual of pandas")
    more = parser.parse_args().next
    if not more:
        shutil.rmtree(HERE / "data", ignore_errors=True)
        write(HERE / "data" / "to_score" / "questions.csv", ["query"], [[question] for question in QUESTIONS])
    part = "pandas" if more else "numpy"
    documents, queries = documents_and_queries(part)
    write(HERE / "data" / "documents" / f"{part}.csv", ["document", "title", "text"], documents)
    write(HERE / "data" / "queries" / f"{part}.csv", ["query_id", "query", "document"], queries)


if __name__ == "__main__":
    main()
