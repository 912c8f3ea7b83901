"""Put a manual and questions about it into the inboxes: docstrings of NumPy, which is installed; nothing is fetched.

An answer is a piece of a page, to the letter: the type of a parameter, its default, or what is returned. Half of the
questions call the function by its name, the other half by what it does.
"""

import argparse
import csv
import hashlib
import inspect
import random
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
SECTION = re.compile(r"^(Parameters|Returns)\n-{3,}\n(.*?)(?=^[A-Z][A-Za-z ]+\n-{3,}\n|\Z)", re.MULTILINE | re.DOTALL)
ENTRY = re.compile(r"^(\w+) : ([^\n]+)\n((?:[ ]{4}[^\n]*\n|\n)*)", re.MULTILINE)
DEFAULT = re.compile(r"(?:[Dd]efault is|[Dd]efaults to) (\S+?)[.,;)]*(?:\s|$)")
SEEDED = random.Random(7)


def pages() -> Iterator[tuple[str, str, str]]:
    """Name, first sentence and docstring of every function with a page of its own."""
    for name in sorted(vars(np)):
        found = getattr(np, name)
        text = inspect.getdoc(found) or ""
        if name.startswith("_") or not callable(found) or not SECTION.search(text):
            continue
        paragraphs = [part for part in text.split("\n\n") if not re.match(r"^[\w.]+\(", part.strip())]
        yield name, " ".join(paragraphs[0].split()).rstrip("."), f"{text}\n"


def questions(name: str, summary: str, text: str) -> Iterator[tuple[str, str]]:
    """Question and answer, for all that a page says in an orderly way."""
    for section, body in SECTION.findall(text):
        for entry, kind, told in ENTRY.findall(body):
            called = name if SEEDED.random() < 0.5 else f"the function that does this: {summary}"
            if section == "Returns":
                yield f"What is returned by {called}?", kind.strip()
                break
            yield f"Of what type is {entry} in {called}?", kind.strip()
            default = DEFAULT.search(told)
            if default:
                yield f"What is the default of {entry} in {called}?", default[1]


def write(path: Path, header: list[str], rows: list[list[str]]) -> None:
    """One CSV file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    print(f"{path.relative_to(HERE)}: {len(rows)} rows")


def main() -> None:
    """Write all three files anew."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    shutil.rmtree(HERE / "data", ignore_errors=True)
    found = list(pages())
    asked = {question: answer for page in found for question, answer in questions(*page)}
    rows = [
        [hashlib.md5(question.encode(), usedforsecurity=False).hexdigest()[:12], question, answer]
        for question, answer in asked.items()
    ]
    write(HERE / "data" / "documents" / "numpy.csv", ["document", "text"], [[name, text] for name, _, text in found])
    write(HERE / "data" / "questions" / "numpy.csv", ["question_id", "question", "answer"], rows)
    mine = [
        ["What is the default of axis in argsort?"],
        ["What is returned by the function that makes evenly spaced numbers?"],
    ]
    write(HERE / "data" / "to_score" / "mine.csv", ["question"], mine)


if __name__ == "__main__":
    main()
