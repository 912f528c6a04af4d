"""A score head trained with the trunk below it, all weights or an adapter, in THE training loop."""

from __future__ import annotations

import hashlib
import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ..data import BranchBatch, TokenBallot, score_table, sent
from ..evidence import Floats, bt_log_loss
from ..files import content_hash
from ..methods import REWARD, LikelihoodOptions, Scored, Terms
from ..model import (
    Policy,
    Workbench,
    classifier_class,
    delta_of,
    extra_path,
    last_states,
    plain_weights,
    ranks,
    save_classifier,
    save_extra,
    score_ballots,
    score_head,
    start_policy,
    state_record,
    whole_weights,
)
from ..stopping import stop_requests
from ..training import Session, Training, run_identity, run_session
from .fitting import Fitting

EVALUATIONS = 4  # of its log-loss, per epoch
CENTER_BALLOTS = 512  # the centre of a trained score is a mean over the responses of so many ballots at most


def prepare_held_out(ballots: Sequence[TokenBallot]) -> tuple[TokenBallot, ...]:
    """The ballots without responses in no vote, as in training."""
    kept = [REWARD.prepare(ballot, Counter()) for ballot in ballots]
    return tuple(ballot for ballot in kept if ballot is not None)


@dataclass(frozen=True)
class Trainee:
    """A score in training: a policy's trunk (all weights, or an adapter in the base) and a head on it."""

    policy: Policy
    head: nn.Linear
    bench: Workbench

    def scores(self, batch: BranchBatch) -> Tensor:
        """Raw scores, `[B]`, differentiable."""
        return last_states(self.policy.model, batch, self.bench.precision) @ self.head.weight[0]

    def trainable(self) -> dict[str, nn.Parameter]:
        """The parameters that training moves, by name; a language-model head is none of them."""
        trunk = self.policy.model.get_decoder().named_parameters()
        return {name: p for name, p in trunk if p.requires_grad} | {"score.weight": self.head.weight}

    def loss(self, ballots: Sequence[TokenBallot], options: LikelihoodOptions) -> Terms:
        """Summed Bradley–Terry loss of all votes of the ballots."""
        scores_B = self.scores(self.bench.layout.lay_out(ballots).to(self.head.weight.device))
        lengths = torch.tensor([len(ids) for ballot in ballots for ids in ballot.responses], dtype=scores_B.dtype)
        lengths_B = sent(lengths, scores_B.device)
        terms = REWARD.loss(Scored(ballots, scores_B, torch.zeros_like(scores_B), lengths_B), 1.0, options)
        return Terms(terms.loss, {name.replace("log_ratio", "score"): value for name, value in terms.sums.items()})

    def _decoder(self) -> dict[str, Tensor]:
        """The weights of the trunk with the adapter folded in."""
        trunk = self.policy.model.get_decoder()
        if self.bench.base.kept_as != "fp32":
            return dict(whole_weights(trunk))
        with self.policy.merged():
            return plain_weights(trunk)

    def save(self, folder: Path, *, kind: str, center: float, info: Mapping[str, Any]) -> None:
        """Write a folder that transformers loads, and the adapter beside it where there is one."""
        decoder = self._decoder()
        delta = None if self.policy.adapter is None else delta_of(self.policy.model)
        head_D = self.head.weight.detach()[0].cpu()
        base = self.bench.base
        save_classifier(folder, decoder, head_D, base=base, center=center, kind=kind, info=info, delta=delta)


@dataclass
class Best:
    """The weights of the lowest held-out log-loss so far, in a file beside the saved `state`, which tells `kept` of it.

    The file that the last saved state tells of stays until a state tells of another one.
    """

    state: Path
    loss: float = math.inf
    step: int = 0
    hash: str = ""

    @property
    def path(self) -> Path:
        return extra_path(self.state, str(self.step))

    def consider(self, loss: float, step: int, parameters: Mapping[str, nn.Parameter]) -> None:
        if not loss < self.loss:
            return
        whole = ranks().gathered(parameters)
        self.loss, self.step, self.hash = loss, step, ranks().led(lambda: self._keep(step, whole))

    def _keep(self, step: int, whole: Mapping[str, Tensor]) -> str:
        """Write the weights of a step, beside those that the saved state tells of; their hash."""
        told = told_of(state_record(self.state) or {})
        for other in self.path.parent.glob(extra_path(self.state, "*").name):
            if not told or other != extra_path(self.state, str(told[1])):
                other.unlink()
        return save_extra(self.state, str(step), whole)

    def restore(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Put the best weights back, if any were kept."""
        if self.step:
            kept = load_file(self.path)
            with torch.no_grad():
                for name, parameter in parameters.items():
                    parameter.copy_(ranks().part_of(kept[name], parameter))
        ranks().meet()

    def kept(self) -> list[Any]:
        """What the saved state tells."""
        return [self.loss, self.step, self.hash]


def told_of(record: Mapping[str, Any]) -> list[Any]:
    """What `Best.kept` gave to the record of a saved state; empty if it gave nothing."""
    told = record.get("kept", {}).get("best")
    return told if isinstance(told, list) and len(told) == 3 else []  # without a hash before 0.3


def best_told(state: Path, record: Mapping[str, Any]) -> Best | None:
    """The best weights that the record of a saved state tells of, if they are what was written; None if not."""
    told = told_of(record)
    if not told:
        return None
    best = Best(state, *told)
    whole = not best.step or (best.path.is_file() and content_hash(best.path) == best.hash)
    return best if whole else None


def fit_trained_score(
    job: Fitting,
    training: Training,
    held_out: Sequence[TokenBallot],
    stop_on: tuple[str, Sequence[TokenBallot]],
    *,
    resume: bool,
) -> tuple[dict[str, Any], Floats]:
    """Train and save a `lora` or `full` reward model: what was chosen, and its scores of the held-out responses.

    `stop_on` are the ballots whose log-loss says which checkpoint is kept, and what they are called.
    """
    bench, seed = job.bench, job.seed
    classifier_class(bench.base)
    identity = run_identity(bench, training, None, seed)
    both = repr((identity["data"], stop_on[1])).encode()
    state = job.folder / "state"

    def lacks(record: Mapping[str, Any]) -> str:
        return "" if best_told(state, record) else "its best weights are not what was written"

    session = Session(job.folder, identity | {"data": hashlib.sha256(both).hexdigest()}, resume, lacks)
    record = session.record()
    best = (best_told(state, record) if record else None) or Best(state)
    policy = start_policy(bench.base, seed=seed, **job.recipe.settings.policy_options())
    with stop_requests(hand_on=True), closing(policy):
        width = bench.base.model.config.get_text_config().hidden_size
        trainee = Trainee(policy, score_head(width, seed=seed).to(bench.base.device), bench)
        return _train(trainee, job, session, best, training, held_out, stop_on)


def _train(
    trainee: Trainee,
    job: Fitting,
    session: Session,
    best: Best,
    training: Training,
    held_out: Sequence[TokenBallot],
    stop_on: tuple[str, Sequence[TokenBallot]],
) -> tuple[dict[str, Any], Floats]:
    settings = job.recipe.settings
    bench, parameters = trainee.bench, trainee.trainable()
    chosen_on, watched = stop_on

    def scores_of(ballots: Sequence[TokenBallot]) -> Floats:
        scores = score_ballots(trainee.scores, ballots, bench, settings.pass_tokens, trainee.policy.model)
        return np.array([score for own in scores for score in own])

    def at_checkpoint(step: int) -> None:
        if watched:
            best.consider(bt_log_loss(score_table(scores_of(watched), watched)).value, step, parameters)

    epochs = len(training.plan) / math.ceil(len(training.ballots) / settings.batch_size)
    checkpoints = min(len(training.plan), math.ceil(EVALUATIONS * epochs))
    run_session(
        session,
        lambda done: training.plan[done:],
        ranks().within(
            trainee.policy.model,
            lambda indices: trainee.loss([training.ballots[i] for i in indices], job.recipe.options),
        ),
        parameters=parameters,
        settings=settings,
        total=len(training.plan),
        tokens_of=lambda indices: sum(bench.layout.size(training.ballots[i]) for i in indices),
        description="reward",
        at_checkpoint=at_checkpoint,
        checkpoints=checkpoints,
        kept=lambda: {"best": best.kept()},
    )
    best.restore(parameters)
    sample = random.Random(job.seed).sample(training.ballots, min(CENTER_BALLOTS, len(training.ballots)))
    center = float(scores_of(sample).mean())
    steps = {"step": best.step or len(training.plan), "of_steps": len(training.plan)}
    chosen = {"evaluations": checkpoints, "chosen_on": f"log-loss on {chosen_on}"} if watched else {}
    whole = replace(trainee, policy=trainee.policy.whole())
    if ranks().leads:
        whole.save(session.folder / "reward", kind=job.kind, center=center, info={})
    ranks().meet()
    scores = scores_of(held_out) if held_out else np.zeros(0)
    return {**steps, **chosen}, scores
