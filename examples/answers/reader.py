"""Open-domain question answering in two steps: find pages, then choose a piece of one of them.

The reader is a logistic regression over the pieces of a page that could be an answer. Its features say where a piece
stands and what the question asks for; which of them go together is learned from questions with known answers.
"""

import re
from itertools import pairwise

import numpy as np
from sklearn.feature_extraction import DictVectorizer
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

WORD = r"\w+"
HEADING = re.compile(r"^([A-Z][A-Za-z ]+)\n-{3,}\n", re.MULTILINE)
ENTRY = re.compile(r"^(\w+) : ([^\n]+)\n((?:[ ]{4}[^\n]*\n|\n)*)", re.MULTILINE)
DEFAULT = re.compile(r"(?:[Dd]efault is|[Dd]efaults to) (\S+?)[.,;)]*(?:\s|$)")


def pieces(text):
    """Where a piece stands (section, name, kind, order in its section), and its span in the page."""
    headings = [*HEADING.finditer(text), None]
    for heading, following in pairwise(headings):
        end = following.start() if following else len(text)
        for order, entry in enumerate(ENTRY.finditer(text, heading.end(), end)):
            place = (heading[1], entry[1], order)
            yield (*place, "type"), entry.span(2)
            default = DEFAULT.search(text, entry.start(3), entry.end(3))
            if default:
                yield (*place, "default"), default.span(1)


class Reader:
    """Finds ``pages`` pages by the words they share with a question, weighs their pieces, and gives the best."""

    def __init__(self, documents, pages):
        self.names = documents["document"].to_list()
        self.texts = documents["text"].to_list()
        self.pieces = [list(pieces(text)) for text in self.texts]
        self.count = pages
        self.words = TfidfVectorizer(sublinear_tf=True, token_pattern=WORD, ngram_range=(1, 2))
        titled = [f"{name} {name} {name} {text}" for name, text in zip(self.names, self.texts, strict=True)]
        self.index = self.words.fit_transform(titled)
        self.choice = make_pipeline(DictVectorizer(), LogisticRegression(C=10.0, max_iter=500))

    def candidates(self, question):
        """Features, page number and span of every piece of the pages that are found."""
        nearness = (self.index @ self.words.transform([question]).T).toarray().ravel()
        asked = question.split()
        named = set(re.findall(WORD, question))
        found = []
        for place, page in enumerate(np.argsort(-nearness, kind="stable")[: self.count]):
            for (section, name, order, kind), span in self.pieces[page]:
                features = {
                    f"{section} {kind} for {' '.join(asked[:3])}": 1.0,
                    f"{section} {kind} number {min(order, 3)} for {asked[0]}": 1.0,
                    f"named for {asked[0]} {asked[2]}": float(name in named),
                    "page": float(place),
                    "page named": float(self.names[page] in named),
                    "nearness": float(nearness[page] / (nearness.max() or 1.0)),
                }
                found.append((features, page, span))
        return found

    def fit(self, questions, answers):
        """Learn from questions with known answers what a right piece looks like."""
        rows, right = [], []
        for question, answer in zip(questions, answers, strict=True):
            for features, page, (start, end) in self.candidates(question):
                rows.append(features)
                right.append(self.texts[page][start:end].strip() == answer)
        self.choice.fit(rows, right)
        return self

    def answer(self, question):
        """Text, page name, and span of the best piece; empty text where no page has one."""
        found = self.candidates(question)
        if not found:
            return "", "", -1, -1
        chances = self.choice.predict_proba([features for features, _, _ in found])[:, 1]
        _, page, (start, end) = found[int(chances.argmax())]
        return self.texts[page][start:end].strip(), self.names[page], start, end
