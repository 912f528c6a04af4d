"""A score that is linear in frozen features of the base model: one forward pass, then a logistic regression."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..data import TokenBallot
from ..evidence import Floats
from ..methods import AmortizedOptions, LikelihoodOptions
from ..model import Workbench, decoder_blocks, pooled_features, save_frozen
from ..objectives import smooth
from ..training import Training
from .fitting import Fitting
from .linear import fit_frozen

DEPTHS = (1 / 3, 1 / 2, 2 / 3)  # of the model: the layers that `frozen` chooses from


def stored_layers(bench: Workbench) -> list[int]:
    """The layers whose features the passes for reference log-probs leave behind: those that `frozen` chooses from.

    None of them where the reference is another model than the one whose features are read.
    """
    return candidate_layers(bench)[1] if bench.reference.is_start(bench.base) else []


def candidate_layers(bench: Workbench) -> tuple[int, list[int]]:
    """(number of layers, those that frozen features are chosen from)."""
    depth = len(decoder_blocks(bench.base.model))
    return depth, sorted({max(1, round(depth * share)) for share in DEPTHS})


def rate_of(options: LikelihoodOptions | AmortizedOptions) -> float | None:
    """The flip rate that a likelihood assumes; None if it is to be estimated."""
    return None if options.estimate_flips else options.flip_rate


def targets_of(ballots: Sequence[TokenBallot], options: LikelihoodOptions | AmortizedOptions) -> Floats:
    """The preference of every vote, smoothed as the options say, `[V]`."""
    votes = [vote for ballot in ballots for vote in ballot.votes]
    return np.array([smooth(v.p, options.label_smoothing) for v in votes])


def fit_linear_score(
    job: Fitting, training: Training, held_out: Sequence[TokenBallot]
) -> tuple[dict[str, Any], Floats]:
    """Fit and save a `frozen` reward model: what was chosen, and its scores of the held-out responses."""
    depth, layers = candidate_layers(job.bench)
    features = pooled_features(job.bench, (*training.ballots, *held_out), layers, job.recipe.settings.pass_tokens)
    count = sum(len(ballot.responses) for ballot in training.ballots)
    target, rate = targets_of(training.ballots, job.recipe.options), rate_of(job.recipe.options)
    fit = fit_frozen(features[:, :count], training.ballots, target, seed=job.seed, flip_rate=rate)
    scores = features[fit.candidate].astype(np.float64) @ fit.weight
    center = float(scores[:count].mean())
    layer = layers[fit.candidate]
    info = {"layer": layer, "of_layers": depth, "penalty": fit.penalty, "cross_validated_log_loss": fit.log_loss}
    info |= {"flip_rate": fit.flip_rate} if fit.flip_rate else {}
    weight_D = torch.tensor(fit.weight, dtype=torch.float32)
    save_frozen(job.folder / "reward", weight_D, layer=layer, center=center, base=job.bench.base, info=info)
    return info, scores[count:]
