"""Index the manual, and learn from known answers which piece of a page answers what."""

from reader import Reader


def train(documents, X, y, pages):
    """Give a fitted reader."""
    return Reader(documents, pages).fit(X["question"], y)
