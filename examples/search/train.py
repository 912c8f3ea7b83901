"""Semantic search by latent semantic analysis: what is asked and what is written meet in a space of few dimensions.

Deerwester, Dumais, Furnas, Landauer and Harshman, Indexing by Latent Semantic Analysis, JASIS 41, 1990.
"""

import numpy as np
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer

LETTERS = r"[a-zA-Z]{2,}"


class Index:
    """Documents as unit vectors, float64 (documents, dimensions); a query finds those at the smallest angle."""

    def __init__(self, space, vectors, names, top):
        self.space, self.vectors, self.names, self.top = space, vectors, names, top

    def predict(self, X):
        """The names of the ``top`` nearest documents for each query, best first."""
        nearness = self.space.transform(X["query"].fillna("")) @ self.vectors.T
        best = np.argsort(-nearness, axis=1, kind="stable")[:, : self.top]
        return [list(self.names[row]) for row in best]


def train(documents, X, y, seed, dimensions, top):
    """Index all documents, each together with the queries that are known to ask for it."""
    known = X["query"].groupby(np.asarray(y)).agg(" ".join)
    texts = documents["title"] + " " + documents["text"] + " " + documents["document"].map(known).fillna("")
    space = make_pipeline(
        TfidfVectorizer(sublinear_tf=True, stop_words="english", token_pattern=LETTERS),
        TruncatedSVD(n_components=dimensions, random_state=seed),
        Normalizer(),
    )
    return Index(space, space.fit_transform(texts), documents["document"].to_numpy(dtype=object), top)
