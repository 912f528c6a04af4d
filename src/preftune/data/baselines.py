"""What costs nothing, asked the same held-out votes: the length of a response, its words (TF-IDF)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from ..evidence import Floats, quality
from .formats import TextFormat
from .logistic import fit_linear
from .tokens import TokenBallot
from .votes import reference_table, score_table, vote_pairs


def fit_baselines(
    training: Sequence[TokenBallot], held_out: Sequence[TokenBallot], form: TextFormat
) -> dict[str, dict[str, Any]]:
    """What costs nothing, fitted to the same training votes and asked the same held-out ones.

    `length`: the number of tokens of a response. `tfidf`: its words and pairs of words (TF-IDF).
    """
    parts = (training, held_out)
    lengths = [[len(ids) for ballot in part for ids in ballot.responses] for part in parts]
    texts = [[form.text(ids) for ballot in part for ids in ballot.responses] for part in parts]
    return fit_rules(training, held_out, lengths, texts)


def fit_rules(
    training: Sequence[TokenBallot],
    held_out: Sequence[TokenBallot],
    lengths: Sequence[Sequence[int]],
    texts: Sequence[Sequence[str]],
) -> dict[str, dict[str, Any]]:
    """The same from the lengths and texts of all training responses, and of all held-out ones, in order."""
    from sklearn.feature_extraction.text import TfidfVectorizer  # whose import takes as long as a small fit

    found = {"length": _baseline([_column(part) for part in lengths], training, held_out)}
    try:
        vectorizer = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"\b\w+\b", sublinear_tf=True)
        words = [csr_array(vectorizer.fit_transform(texts[0])), csr_array(vectorizer.transform(texts[1]))]
    except ValueError:  # no response holds a word
        return found
    return found | {"tfidf": _baseline(words, training, held_out)}


def _column(values: Sequence[int]) -> Floats:
    spread = max(float(np.std(values)), 1e-9)
    return np.array(values, dtype=np.float64)[:, None] / spread


def _baseline(
    features: Sequence[Any], training: Sequence[TokenBallot], held_out: Sequence[TokenBallot]
) -> dict[str, Any]:
    a, b = vote_pairs(training).T
    table = reference_table(training)
    penalty = 1 / float(table.weight.sum())
    weight, _ = fit_linear(features[0][a] - features[0][b], table.p, table.weight, penalty=penalty)
    return quality(score_table(np.asarray(features[1] @ weight), held_out))
