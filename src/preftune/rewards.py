"""Fitting a Bradley–Terry reward model to votes, and saying how good it is beside what costs nothing.

`lora` and `full` train a score head with the trunk below it in THE training loop; `frozen` fits a linear score to the
mean-pooled response tokens of a middle layer, for which one forward pass over the responses is enough. Whatever is
chosen by looking at votes is chosen on training votes: `frozen` chooses layer and penalty by cross-validation over
prompts; `lora` and `full` keep the checkpoint of the lowest log-loss on prompts that are taken out of the training
ones, with one exception that the record names: `train reward` itself has them look at the held-out votes.

Shapes: V votes, F features, L layers, D hidden size.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file
from scipy.sparse import csr_array
from scipy.special import expit
from sklearn.feature_extraction.text import TfidfVectorizer
from torch import Tensor, nn

from .ballots import Ballot, split_by_prompt
from .blocks import decoder_blocks
from .branches import pack
from .console import say, track
from .engine import remove_state, return_freed_memory
from .errors import UserError
from .evaluate import VoteTable, accuracy, evaluation_groups, reference_table
from .heads import last_states, pooled_layers, score_head
from .linear_preference import fit_frozen, fit_linear, vote_pairs
from .logprobs import check_finite
from .methods import DPO, AnyMethod, LossOptions, Method, Scored, Terms, pairwise_terms
from .models import Policy, plain_weights, start_policy
from .objectives import bradley_terry, smooth
from .preference_model import (
    KINDS,
    RewardModel,
    classifier_class,
    delta_of,
    save_classifier,
    save_frozen,
)
from .results import read_metrics, write_json
from .run import (
    Run,
    Training,
    check_out,
    describe_counts,
    describe_training_data,
    open_reward,
    prepare_training,
    run_identity,
    trained_on_chats,
    versions,
)
from .session import Session, run_session
from .settings import AMORTIZED, Settings, make_settings, nearest
from .stats import Estimate, clustered_mean, number
from .stopping import only_writer, stop_requests
from .stores import response_keys
from .tokens import TextFormat, TokenBallot, TokenSet, tokenize
from .workbench import Workbench, open_workbench

Floats = npt.NDArray[np.float64]
DEPTHS = (1 / 3, 1 / 2, 2 / 3)  # of the model: the layers that `frozen` chooses from
VALIDATION = 10  # one of so many training prompts says when `lora` and `full` stop
EVALUATIONS = 4  # of its log-loss, per epoch
CENTER_BALLOTS = 512  # the centre of a trained score is a mean over the responses of so many ballots at most
BINS = 10


def _loss(scored: Scored, options: LossOptions) -> Terms:
    """Bradley–Terry on scores, which come in the place of log-ratios; flips are part of the likelihood."""

    def loss(score_a: Tensor, score_b: Tensor, p: Tensor) -> Tensor:
        smoothed = smooth(p, options.label_smoothing)
        return bradley_terry(score_a, score_b, preference=smoothed, flip_rate=options.flip_rate)

    return pairwise_terms(scored, options, loss)


REWARD = replace(DPO, name="reward", uses_reference=False, loss=_loss)


# --- votes and what a score makes of them ----------------------------------------------------------------------------


def score_table(scores: Floats, ballots: Sequence[TokenBallot]) -> VoteTable:
    """The votes with their score differences; `scores` has one entry per response, in order."""
    a, b = vote_pairs(ballots).T
    return replace(reference_table(ballots), difference=scores[a] - scores[b])


def score_ballots(
    score: Callable[[Sequence[TokenBallot]], Tensor],
    ballots: Sequence[TokenBallot],
    bench: Workbench,
    micro_tokens: int,
) -> Floats:
    """Scores of all responses of the ballots, in order, computed in micro-batches."""
    found: dict[int, list[float]] = {}
    for group in track(evaluation_groups(ballots, bench.layout, micro_tokens), "scores"):
        scores_B = score([ballots[i] for i in group])
        check_finite(scores_B, "scores", bench.base.model)
        values = iter(scores_B.tolist())
        found |= {i: [next(values) for _ in ballots[i].responses] for i in group}
    return np.array([value for i in range(len(ballots)) for value in found[i]])


def vote_losses(table: VoteTable) -> Floats:
    """−p·log σ(Δ) − (1 − p)·log σ(−Δ) of every vote, in nats, `[V]`."""
    return np.asarray(np.logaddexp(0, table.difference) - table.p * table.difference)


def log_loss(table: VoteTable) -> Estimate:
    """Mean of `vote_losses`: of the probabilities as they are, so that a wrong scale costs."""
    return clustered_mean(vote_losses(table), table.prompt, table.weight)


def reliability(table: VoteTable) -> list[dict[str, float]]:
    """Predicted probability against observed share in ten bins from ½ to 1; empty bins are left out.

    Every vote is told from the side that the score prefers, since which response comes first means nothing. A row has
    the bin's ends, the mean prediction, the share of vote weight that agrees, and that weight.
    """
    prefers_a = table.difference >= 0
    predicted = expit(np.abs(table.difference))
    agrees = np.where(prefers_a, table.p, 1 - table.p)
    edges = np.linspace(0.5, 1, BINS + 1)
    of_bin = np.clip(np.searchsorted(edges, predicted, side="right") - 1, 0, BINS - 1)
    rows = []
    for i in np.unique(of_bin):
        weight = np.where(of_bin == i, table.weight, 0.0)
        rows.append(
            {
                "from": float(edges[i]),
                "to": float(edges[i + 1]),
                "predicted": float(weight @ predicted / weight.sum()),
                "observed": float(weight @ agrees / weight.sum()),
                "votes": float(weight.sum()),
            }
        )
    return rows


def quality(table: VoteTable) -> dict[str, Any]:
    """Accuracy and log-loss on votes, each with its standard error clustered by prompt."""
    estimates = {"accuracy": accuracy(table), "log_loss": log_loss(table)}
    return {name: {"value": e.value, "se": e.se} for name, e in estimates.items()}


# --- the baselines ---------------------------------------------------------------------------------------------------


def baselines(
    training: Sequence[TokenBallot], held_out: Sequence[TokenBallot], form: TextFormat
) -> dict[str, dict[str, Any]]:
    """What costs nothing, fitted to the same training votes and asked the same held-out ones.

    `length`: the number of tokens of a response. `tfidf`: its words and pairs of words (TF-IDF).
    """
    lengths = [_column([len(ids) for ballot in part for ids in ballot.responses]) for part in (training, held_out)]
    texts = [[form.text(ids) for ballot in part for ids in ballot.responses] for part in (training, held_out)]
    found = {"length": _baseline(lengths, training, held_out)}
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


# --- features --------------------------------------------------------------------------------------------------------


def stored_layers(bench: Workbench) -> list[int]:
    """The layers whose features the passes for reference log-probs leave behind: those that `frozen` chooses from.

    None of them where the reference is another model than the one whose features are read.
    """
    return candidate_layers(bench)[1] if bench.reference.is_start(bench.base) else []


def pooled_features(
    bench: Workbench, ballots: Sequence[TokenBallot], layers: Sequence[int], micro_tokens: int
) -> npt.NDArray[np.float32]:
    """Features of all responses of the ballots after some layers of the base model, `[L, B, D]`, from the store where
    they are there. Raises UserError for one that is not finite."""
    store = bench.start_store
    keys = [response_keys(ballot) for ballot in ballots]
    flat = [key for group in keys for key in group]
    known = store.features(flat, layers)
    missing = [i for i, own in enumerate(keys) if any((key, layer) not in known for key in own for layer in layers)]
    groups = [[missing[i] for i in g] for g in pack([bench.layout.size(ballots[i]) for i in missing], micro_tokens)]
    with bench.start.alone() as model:
        for group in track(groups, "features") if groups else ():
            batch = bench.layout.lay_out([ballots[i] for i in group]).to(model.device)
            values_LBD = pooled_layers(model, batch, layers, bench.precision)
            if not bool(values_LBD.isfinite().all()):
                raise UserError("--model: its hidden states are not finite; use --precision fp32, or check for NaN")
            store.add_features([ballots[i] for i in group], layers, values_LBD)
    known |= store.features([key for i in missing for key in keys[i]], layers)
    return np.stack([[np.frombuffer(known[key, layer], np.float32) for key in flat] for layer in layers])


# --- fitting ---------------------------------------------------------------------------------------------------------


def fit_reward(
    bench: Workbench,
    tokens: TokenSet,
    held_out: Sequence[TokenBallot],
    settings: Settings,
    *,
    kind: str,
    seed: int,
    folder: Path,
    resume: bool = False,
    validation: Sequence[TokenBallot] | None = None,
) -> RewardModel:
    """Fit a reward model of the base model to votes; leave it in `folder/reward`, and return it as it is loaded there.

    `lora` and `full` keep the checkpoint of the lowest log-loss on `validation`, by default the held-out ballots. Its
    `info` has what was chosen and, with held-out ballots, accuracy, log-loss and reliability on them beside the
    baselines. Scores are centred on the responses of the training ballots: samples of the reference, where those are
    what people compared. Raises UserError for votes or settings that cannot be trained on.
    """
    check_kind(kind, settings)
    training = prepare_training(REWARD, tokens, settings, bench.layout, seed)
    held = prepare_held_out(held_out)
    if kind == "frozen":
        info, scores = _fit_frozen(bench, training, held, settings, seed, folder)
    else:
        stop_on = ("held-out votes", held)
        if validation is not None:
            stop_on = ("votes taken out of the training ones", prepare_held_out(validation))
        info, scores = _fit_trained(bench, training, held, stop_on, settings, kind, seed, folder, resume)
    if held:
        info |= judge(score_table(scores, held), training.ballots, held, bench.base.form)
    path = folder / "reward" / "reward.json"
    write_json(path, {**json.loads(path.read_text(encoding="utf-8")), "info": info})
    return open_reward(folder / "reward", bench)


def fit_or_load(
    bench: Workbench,
    tokens: TokenSet,
    held_out: Sequence[TokenBallot],
    settings: Settings,
    *,
    kind: str,
    seed: int,
    folder: Path,
) -> RewardModel:
    """`fit_reward` for policies that learn from it, or what it left in the folder before: `done.json` says it is whole.

    `settings` are the policies'; the reward model takes one pass over the votes, with an adapter only if it is `lora`.
    A tenth of the prompts says when `lora` and `full` stop. Raises UserError if what is there is of another kind.
    """
    done, settings = folder / "done.json", settings_of(kind, settings)
    check_fitted(folder, kind)
    if done.exists():
        return open_reward(folder / "reward", bench)
    say(f"reward model, seed {seed} ({kind})")
    validation: Sequence[TokenBallot] = ()
    if kind != "frozen":
        tokens, validation = take_out(tokens, seed=seed)
    with stop_requests():
        reward = fit_reward(
            bench, tokens, held_out, settings, kind=kind, seed=seed, folder=folder, resume=True, validation=validation
        )
        write_json(done, {"kind": kind, "seed": seed})
    remove_state(folder / "state")
    return_freed_memory()
    return reward


def check_fitted(folder: Path, kind: str) -> None:
    """Raises UserError if what was fitted in the folder is of another kind."""
    done = folder / "done.json"
    there = json.loads(done.read_text(encoding="utf-8"))["kind"] if done.exists() else kind
    if there != kind:
        raise UserError(f"--kind {kind}: {folder} holds one of kind {there}; give --kind {there}, or a new --out")


def take_out(tokens: TokenSet, *, seed: int) -> tuple[TokenSet, tuple[TokenBallot, ...]]:
    """(what is left, the ballots of a tenth of the prompts, rounded down)."""
    prompts = sorted({ballot.prompt for ballot in tokens.ballots})
    random.Random(f"validation/{seed}").shuffle(prompts)
    chosen = set(prompts[: len(prompts) // VALIDATION])
    left = tuple(ballot for ballot in tokens.ballots if ballot.prompt not in chosen)
    return replace(tokens, ballots=left), tuple(ballot for ballot in tokens.ballots if ballot.prompt in chosen)


def settings_of(kind: str, settings: Settings) -> Settings:
    """The policies' settings as a reward model of that kind is trained with them."""
    own = {name: getattr(Settings(), name) for name in AMORTIZED}
    lora = settings.lora if kind == "lora" else 0
    return replace(settings, steps=None, epochs=1.0, reduction="sum", lora=lora, **own)


def default_kind(methods: Iterable[AnyMethod], settings: Settings) -> str:
    """A whole model, or an adapter where policies have one; frozen features where scores are only regressed on."""
    if all(isinstance(method, Method) for method in methods):
        return "frozen"
    return "lora" if settings.lora else "full"


def check_kind(kind: str, settings: Settings) -> None:
    """Raises UserError for an unknown kind, or one that contradicts the settings."""
    if kind not in KINDS:
        raise UserError(f"--kind {kind!r}: unknown{nearest(kind, KINDS)}")
    if kind == "lora" and not settings.lora:
        raise UserError("--kind lora: add --lora R, the rank of the adapter")
    if kind != "frozen" and settings.estimate_flips:
        raise UserError(f"--estimate-flips: needs --kind frozen; give --kind {kind} a known rate with --flip-rate")
    if kind != "lora" and settings.lora:
        raise UserError(f"--lora {settings.lora}: --kind {kind} has no adapter; leave one of them out")
    if settings.reduction != "sum":
        raise UserError(
            f"--reduction {settings.reduction}: a reward model has one score per response, nothing to reduce"
        )


def prepare_held_out(ballots: Sequence[TokenBallot]) -> tuple[TokenBallot, ...]:
    """The ballots without responses in no vote, as in training."""
    kept = [REWARD.prepare(ballot, Counter()) for ballot in ballots]
    return tuple(ballot for ballot in kept if ballot is not None)


def judge(
    table: VoteTable, training: Sequence[TokenBallot], held_out: Sequence[TokenBallot], form: TextFormat
) -> dict[str, Any]:
    """How good the scores are on held-out votes, beside the baselines on the same ones."""
    return {
        "held_out": {"votes": len(table.p), "prompts": len(set(table.prompt)), **quality(table)},
        "reliability": reliability(table),
        "baselines": baselines(training, held_out, form),
    }


def candidate_layers(bench: Workbench) -> tuple[int, list[int]]:
    """(number of layers, those that frozen features are chosen from)."""
    depth = len(decoder_blocks(bench.base.model))
    return depth, sorted({max(1, round(depth * share)) for share in DEPTHS})


def rate_of(settings: Settings) -> float | None:
    """The flip rate that a likelihood assumes; None if it is to be estimated."""
    return None if settings.estimate_flips else settings.flip_rate


def targets_of(ballots: Sequence[TokenBallot], settings: Settings) -> Floats:
    """The preference of every vote, smoothed as the settings say, `[V]`."""
    votes = [vote for ballot in ballots for vote in ballot.votes]
    return np.array([smooth(v.p, settings.label_smoothing) for v in votes])


def _fit_frozen(
    bench: Workbench,
    training: Training,
    held_out: Sequence[TokenBallot],
    settings: Settings,
    seed: int,
    folder: Path,
) -> tuple[dict[str, Any], Floats]:
    depth, layers = candidate_layers(bench)
    features = pooled_features(bench, (*training.ballots, *held_out), layers, settings.pass_tokens)
    count = sum(len(ballot.responses) for ballot in training.ballots)
    target, rate = targets_of(training.ballots, settings), rate_of(settings)
    fit = fit_frozen(features[:, :count], training.ballots, target, seed=seed, flip_rate=rate)
    scores = features[fit.candidate].astype(np.float64) @ fit.weight
    center = float(scores[:count].mean())
    layer = layers[fit.candidate]
    info = {"layer": layer, "of_layers": depth, "penalty": fit.penalty, "cross_validated_log_loss": fit.log_loss}
    info |= {"flip_rate": fit.flip_rate} if fit.flip_rate else {}
    weight_D = torch.tensor(fit.weight, dtype=torch.float32)
    save_frozen(folder / "reward", weight_D, layer=layer, center=center, base=bench.base, info=info)
    return info, scores[count:]


# --- a trained score -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trainee:
    """A score in training: a policy's trunk (all weights, or an adapter in the base) and a head on it."""

    policy: Policy
    head: nn.Linear
    bench: Workbench

    def scores(self, ballots: Sequence[TokenBallot]) -> Tensor:
        """Raw scores, `[B]`, differentiable."""
        batch = self.bench.layout.lay_out(ballots).to(self.head.weight.device)
        return last_states(self.policy.model, batch, self.bench.precision) @ self.head.weight[0]

    def trainable(self) -> dict[str, nn.Parameter]:
        """The parameters that training moves, by name; a language-model head is none of them."""
        trunk = self.policy.model.get_decoder().named_parameters()
        return {name: p for name, p in trunk if p.requires_grad} | {"score.weight": self.head.weight}

    def loss(self, ballots: Sequence[TokenBallot], options: LossOptions) -> Terms:
        """Summed Bradley–Terry loss of all votes of the ballots."""
        scores_B = self.scores(ballots)
        lengths_B = scores_B.new_tensor([len(ids) for ballot in ballots for ids in ballot.responses])
        terms = REWARD.loss(Scored(ballots, scores_B, torch.zeros_like(scores_B), lengths_B), options)
        return Terms(terms.loss, {name.replace("log_ratio", "score"): value for name, value in terms.sums.items()})

    def save(self, folder: Path, *, kind: str, center: float, info: Mapping[str, Any]) -> None:
        """Write a folder that transformers loads, and the adapter beside it where there is one."""
        with self.policy.merged():
            decoder = plain_weights(self.policy.model.get_decoder())
            delta = None if self.policy.adapter is None else delta_of(self.policy.model)
            head_D = self.head.weight.detach()[0].cpu()
            base = self.bench.base
            save_classifier(folder, decoder, head_D, base=base, center=center, kind=kind, info=info, delta=delta)


@dataclass
class Best:
    """The weights of the lowest held-out log-loss so far, in a file; `loss` and `step` go with the saved state."""

    path: Path
    loss: float = math.inf
    step: int = 0

    def consider(self, loss: float, step: int, parameters: Mapping[str, nn.Parameter]) -> None:
        if not loss < self.loss:
            return
        partial = self.path.with_suffix(".partial")
        save_file({name: p.detach().contiguous() for name, p in parameters.items()}, partial)
        os.replace(partial, self.path)
        self.loss, self.step = loss, step

    def restore(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Put the best weights back, if any were kept, and remove the file."""
        if self.step:
            kept = load_file(self.path)
            with torch.no_grad():
                for name, parameter in parameters.items():
                    parameter.copy_(kept[name])
        self.path.unlink(missing_ok=True)


def _fit_trained(
    bench: Workbench,
    training: Training,
    held_out: Sequence[TokenBallot],
    stop_on: tuple[str, Sequence[TokenBallot]],
    settings: Settings,
    kind: str,
    seed: int,
    folder: Path,
    resume: bool,
) -> tuple[dict[str, Any], Floats]:
    classifier_class(bench.base)
    identity = run_identity(bench, training, settings, None, seed)
    both = repr((identity["data"], stop_on[1])).encode()
    session = Session(folder, identity | {"data": hashlib.sha256(both).hexdigest()}, resume=resume)
    record = session.record()
    best = Best(folder / "best.safetensors", *(record["kept"]["best"] if record else ()))
    policy = start_policy(bench.base, seed=seed, **settings.policy_options())
    with stop_requests(hand_on=True), closing(policy):
        width = bench.base.model.config.get_text_config().hidden_size
        trainee = Trainee(policy, score_head(width, seed=seed).to(bench.base.model.device), bench)
        return _train(trainee, session, best, training, held_out, stop_on, settings, kind, seed)


def _train(
    trainee: Trainee,
    session: Session,
    best: Best,
    training: Training,
    held_out: Sequence[TokenBallot],
    stop_on: tuple[str, Sequence[TokenBallot]],
    settings: Settings,
    kind: str,
    seed: int,
) -> tuple[dict[str, Any], Floats]:
    bench, parameters = trainee.bench, trainee.trainable()
    options = LossOptions(1.0, "sum", settings.label_smoothing, settings.flip_rate)
    chosen_on, watched = stop_on

    @torch.no_grad()
    def scores_of(ballots: Sequence[TokenBallot]) -> Floats:
        return score_ballots(trainee.scores, ballots, bench, settings.pass_tokens)

    def at_checkpoint(step: int) -> None:
        if watched:
            best.consider(log_loss(score_table(scores_of(watched), watched)).value, step, parameters)

    epochs = len(training.plan) / math.ceil(len(training.ballots) / settings.batch_size)
    checkpoints = min(len(training.plan), math.ceil(EVALUATIONS * epochs))
    run_session(
        session,
        lambda done: training.plan[done:],
        lambda indices: trainee.loss([training.ballots[i] for i in indices], options),
        parameters=parameters,
        settings=settings,
        total=len(training.plan),
        tokens_of=lambda indices: sum(bench.layout.size(training.ballots[i]) for i in indices),
        description="reward",
        at_checkpoint=at_checkpoint,
        checkpoints=checkpoints,
        kept=lambda: {"best": [best.loss, best.step]},
    )
    best.restore(parameters)
    sample = random.Random(seed).sample(training.ballots, min(CENTER_BALLOTS, len(training.ballots)))
    center = float(scores_of(sample).mean())
    steps = {"step": best.step or len(training.plan), "of_steps": len(training.plan)}
    chosen = {"evaluations": checkpoints, "chosen_on": f"log-loss on {chosen_on}"} if watched else {}
    trainee.save(session.folder / "reward", kind=kind, center=center, info={})
    scores = scores_of(held_out) if held_out else np.zeros(0)
    return {**steps, **chosen}, scores


# --- the public function ---------------------------------------------------------------------------------------------


def train_reward(
    ballots: Sequence[Ballot],
    *,
    model: str,
    out: str | Path,
    kind: str | None = None,
    eval_ballots: Sequence[Ballot] | None = None,
    eval_fraction: float = 0.1,
    seed: int = 0,
    resume: bool = False,
    **options: Any,
) -> Run:
    """Fit a Bradley–Terry reward model to ballots, and leave it in a folder.

    Writes `out/reward/` (with `full` and `lora` a folder that transformers loads as a sequence classifier) and
    `out/run.json` (settings, counts of everything skipped, and on held-out votes accuracy, log-loss and reliability
    beside a TF-IDF and a length baseline); `full` and `lora` also `out/metrics.jsonl`. `policy` of the result is the
    `RewardModel`.

    Args:
        ballots: preference data, from `read_ballots` or made by hand.
        model: a local folder, a GGUF file or a hub name.
        out: the folder to make; it must be new or empty, unless `resume`.
        kind: `full`, `lora` (the default with an adapter's rank), or `frozen`, for small machines.
        eval_ballots: ballots to evaluate on; or `eval_fraction` of the prompts, held out.
        seed: order of the data, first weights of head and adapter, folds.
        resume: go on with an interrupted run.
        options: the fields of `Settings`.

    Raises:
        UserError: for anything in the input that the user can mend; nothing is written then.
    """
    for name in ("beta", "reference"):
        if options.pop(name, None) is not None:
            raise UserError(f"--{name}: a reward model has none; leave it out")
    settings = make_settings(options)
    kind = kind or ("lora" if settings.lora else "full")
    check_kind(kind, settings)
    folder = check_out(Path(out), resume=resume)
    if not 0 <= eval_fraction < 1:
        raise UserError(f"--eval-fraction {eval_fraction}: must be at least 0 and below 1")
    training_ballots: Sequence[Ballot] = tuple(ballots)
    if eval_ballots is None:
        training_ballots, eval_ballots = split_by_prompt(ballots, eval_fraction, seed=seed)
    with only_writer(folder), stop_requests():
        bench = open_workbench(model, precision=settings.precision, device=settings.device)
        tokens = tokenize(training_ballots, bench.base.form, max_length=settings.max_length)
        held_out = tokenize(eval_ballots, bench.base.form, max_length=settings.max_length)
        say(f"layout: {bench.layout.name} ({bench.layout.reason})")
        skipped = describe_counts(tokens.skipped)
        say(f"{len(tokens.ballots)} ballots, {len(held_out.ballots)} held out; skipped: {skipped}")
        say(f"shortened: {describe_counts(tokens.shortened)}")
        reward = fit_reward(
            bench, tokens, held_out.ballots, settings, kind=kind, seed=seed, folder=folder, resume=resume
        )
        record = {
            "method": "reward",
            "kind": kind,
            "seed": seed,
            "model": {"name": model, "sha256": bench.base.sha256},
            "reward": {"sha256": reward.sha256, "center": reward.center, **reward.info},
            "chat": trained_on_chats(training_ballots),
            "layout": asdict(bench.layout),
            "settings": settings.record(),
            "data": describe_training_data(ballots, tokens),
            "versions": versions(),
        }
        write_json(folder / "run.json", record)
        remove_state(folder / "state")
    log = folder / "metrics.jsonl"
    metrics = read_metrics(log) if log.exists() else ()  # frozen features take no steps
    return Run(reward, bench.base.tokenizer, metrics, folder, record)


def quality_table(info: Mapping[str, Any]) -> str:
    """Accuracy and log-loss of the reward model and the baselines, and its reliability, as text."""
    if "held_out" not in info:
        return "no held-out votes: nothing measured"
    held = info["held_out"]
    rows = {"reward model": held, "TF-IDF": info["baselines"].get("tfidf"), "length": info["baselines"]["length"]}
    lines = [f"{held['votes']} held-out votes on {held['prompts']} prompts (± one standard error)", ""]
    lines.append(f"{'':14}{'accuracy':>16}{'log-loss, nats':>18}")
    for name, row in rows.items():
        if row:
            lines.append(f"{name:14}{_plus_minus(row['accuracy']):>16}{_plus_minus(row['log_loss']):>18}")
    lines += ["", f"{'predicted':>12}{'observed':>12}{'votes':>10}"]
    lines += [f"{r['predicted']:12.3f}{r['observed']:12.3f}{r['votes']:10g}" for r in info["reliability"]]
    return "\n".join(lines)


def _plus_minus(estimate: Mapping[str, float | None]) -> str:
    value, se = estimate["value"] or 0.0, estimate["se"]
    return f"{value:.3f}" if se is None else f"{number(value, se)} ± {number(se, se)}"
