"""What a study compares, settled before anything is trained: its runs, its votes, its questions, and their names."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..data import Ballot, TextFormat, TokenBallot, TokenSet, flip_votes, limit_votes, split_by_prompt, tokenize
from ..errors import UserError, nearest
from ..methods import KINDS, REWARD, Selection, all_options, check_known, names_of
from ..model import check_base
from ..preference import check_fit, default_kind, likelihood_of
from ..training import Arm, Recipe, Settings, check_given, make_settings, parse_arm, split_arms
from .limits import check_asked
from .looks import check_until, every_seed

AUTO = "auto"  # in the place of β or of a learning rate: it is found
Betas = Sequence[float] | Mapping[str, Sequence[float]] | str | None  # of every arm, of each by its name, or AUTO
TrainingKey = tuple[str, int, float]  # (arm, seed, noise)


@dataclass(frozen=True)
class Plan:
    """What a study compares, settled before anything is trained, but for the β of the arms in `searching`."""

    arms: tuple[Arm, ...]
    arm_betas: Mapping[str, tuple[float, ...]]  # of every arm whose method has a β, by its name
    seeds: tuple[int, ...]
    noises: tuple[float, ...]
    settings: Settings
    given: Mapping[str, Any]  # options of methods, for every arm whose method has them
    checkpoints: int
    kind: str
    judge_kind: str = ""  # of the reward model that judges, where one does
    searching: tuple[str, ...] = ()  # the arms whose β is to be found (`beta_search`)
    auto_lr: bool = False
    rates: Mapping[str, float] = field(default_factory=dict)  # learning rates that pilots chose, by arm

    @property
    def betas(self) -> tuple[float, ...]:
        """Every β of some arm, from the smallest."""
        return tuple(sorted({beta for own in self.arm_betas.values() for beta in own}))

    @property
    def needs_reward(self) -> bool:
        """Whether some arm learns from, or selects by, a reward model."""
        return any(arm.method.needs == "reward" for arm in self.arms)

    @property
    def reward_recipe(self) -> Recipe:
        """How the reward model of the study is fitted, before its kind has a say."""
        return Recipe(REWARD, self.settings, likelihood_of(dict(self.given)))

    def recipe(self, arm: Arm) -> Recipe:
        """How the runs of an arm are made, at the rate that its pilots chose, where they did."""
        recipe, rate = self.fitting_recipe(arm), self.rates.get(arm.name)
        return recipe if rate is None else replace(recipe, settings=replace(recipe.settings, lr=rate))

    def fitting_recipe(self, arm: Arm) -> Recipe:
        """How what an arm needs is fitted to the votes: before there are pilots, so that it knows of none."""
        return arm.recipe(self.settings, self.given)

    @property
    def piloted(self) -> tuple[Arm, ...]:
        """The arms whose learning rate is for pilots to choose: those that train and have none of their own."""
        free = [arm for arm in self.arms if not isinstance(arm.method, Selection) and "lr" not in arm.own]
        return tuple(free) if self.auto_lr else ()

    def record(self) -> dict[str, Any]:
        """The settings, and the options of the methods compared, as a study writes them down: an arm's own not."""
        options: dict[str, Any] = {}
        for arm in self.arms:
            options |= vars(Arm(arm.method.name, arm.method, {}).recipe(self.settings, self.given).options)
        return self.settings.record() | options | ({"lr": AUTO} if self.auto_lr else {})

    def conditions(self) -> list[tuple[int, float]]:
        """(seed, noise) of all sets of votes that are learned from."""
        return [(seed, noise) for noise in self.noises for seed in self.seeds]

    def runs(self) -> list[tuple[Arm, float | None, int, float]]:
        """(arm, β, seed, noise) of every run; an arm whose method has no β runs once per seed and noise."""
        return [
            (arm, beta, seed, noise)
            for seed, noise in self.conditions()
            for arm in self.arms
            for beta in self.arm_betas.get(arm.name, (None,))
        ]


@dataclass(frozen=True)
class Votes:
    """What the runs of one (seed, noise) learn from, and the votes taken out of it that only measure a log-loss."""

    tokens: TokenSet
    validation: tuple[TokenBallot, ...]
    flipped: int


@dataclass(frozen=True)
class StudyData:
    """The training ballots, their tokens with the votes as they were read, those of held-out and of validation ballots,
    and `votes`: what each (seed, noise) makes of the training and the validation ones. `taken_out` are the validation
    ballots as they were read."""

    ballots: tuple[Ballot, ...]
    training: TokenSet
    held_out: TokenSet
    validation: TokenSet
    votes: Mapping[tuple[int, float], Votes]
    taken_out: tuple[Ballot, ...] = ()


def settle_study(
    methods: Sequence[str] | str,
    *,
    betas: Betas = None,
    seeds: Sequence[int] | None = None,
    label_noise: Sequence[float] = (0.0,),
    checkpoints: int = 3,
    kind: str | None = None,
    votes_per_prompt: int | None = None,
    validation_fraction: float = 0.0,
    eval_fraction: float = 0.1,
    eval_prompts: int = 64,
    samples: int = 1,
    until: str | None = None,
    hours: float | None = None,
    scored: bool = False,
    fits_judge: bool = False,
    **options: Any,
) -> Plan:
    """Check and settle what is compared, before anything is loaded: with looks, all that the last one could have.

    `scored`: something judges responses; `fits_judge`: a reward model that is fitted for it. Raises UserError for what
    the user can mend.
    """
    plan = make_plan(methods, betas, every_seed(until, seeds), label_noise, options, checkpoints, kind)
    check_known_kind(kind)
    if fits_judge:
        plan = replace(plan, judge_kind=kind or default_kind([REWARD], plan.settings))
        check_fit(plan.judge_kind, plan.reward_recipe)
    check_until(until, hours, seeds, samples, len(plan.arms), scored)
    length = options.get("max_new_tokens", 1)
    check_asked(samples=samples, max_new_tokens=length, eval_prompts=eval_prompts, eval_fraction=eval_fraction)
    if until and plan.arm_betas:  # its β are where the search starts
        plan = replace(plan, searching=arms_to_search(plan.arms, AUTO, label_noise))
    check_shares(votes_per_prompt, validation_fraction)
    check_searchable(plan, samples)
    return plan


def make_plan(
    arms: Sequence[str] | str,
    betas: Betas,
    seeds: Sequence[int],
    noises: Sequence[float],
    options: Mapping[str, Any],
    checkpoints: int,
    kind: str | None = None,
) -> Plan:
    """Check and settle what is compared. Raises UserError for an empty or doubtful list."""
    names = split_arms(arms) if isinstance(arms, str) else list(arms)
    parsed = tuple(parse_arm(name) for name in names)
    for label, values in (("methods", [arm.name for arm in parsed]), ("seeds", seeds), ("label-noise", noises)):
        check_list(label, values)
    arm_betas = {} if betas is None or isinstance(betas, str) else settle_betas(parsed, betas)
    searching = () if arm_betas else arms_to_search(parsed, betas, noises)
    for noise in noises:
        if not 0 <= noise < 0.5:
            raise UserError(f"--label-noise {noise}: must be at least 0 and below 0.5")
    if checkpoints < 1:
        raise UserError(f"--checkpoints {checkpoints}: must be at least 1")
    auto_lr = options.get("lr") == AUTO
    told = {name: value for name, value in options.items() if not (auto_lr and name == "lr")}
    settings, given = split_options(told, [arm.method.name for arm in parsed])
    kind = kind or default_kind([arm.method for arm in parsed], settings)
    rates = tuple(map(float, noises))
    plan = Plan(
        parsed, arm_betas, tuple(seeds), rates, settings, given, checkpoints, kind, searching=searching, auto_lr=auto_lr
    )
    if plan.needs_reward:
        check_fit(kind, plan.reward_recipe)
    for arm in parsed:
        recipe = plan.recipe(arm)
        if not isinstance(arm.method, Selection):
            check_base(recipe.settings.base, recipe.settings.lora)
        if arm.method.needs == "preference":
            check_fit(kind, recipe)
    return plan


def check_known_kind(kind: str | None) -> None:
    """Raises UserError for a kind that no reward model has, also where no arm uses one yet: a study may grow."""
    if kind is not None and kind not in KINDS:
        raise UserError(f"--kind {kind!r}: unknown{nearest(kind, KINDS)}")


def split_options(options: Mapping[str, Any], methods: Sequence[str]) -> tuple[Settings, dict[str, Any]]:
    """The settings that all methods share, and the options that are given for all arms whose method has them.

    Raises UserError for a name that is neither, and for an option that no method of these has.
    """
    shared = names_of(Settings)
    check_known(options, [*shared, *all_options()])
    given = {name: value for name, value in options.items() if name not in shared}
    if given.get("kl_target"):
        raise UserError("--kl-target: it moves β, by which a study compares; leave it out")
    check_given({name: value for name, value in given.items() if name != "max_new_tokens"}, list(methods))
    return make_settings({name: value for name, value in options.items() if name in shared}), given


def check_list(label: str, values: Sequence[Any]) -> None:
    """Raises UserError for an empty list, or one that has something twice."""
    if not values:
        raise UserError(f"--{label}: give at least one")
    if len(set(values)) < len(values):
        raise UserError(f"--{label}: one of them is given twice ({', '.join(map(str, values))})")


def arms_to_search(arms: Sequence[Arm], betas: Betas, noises: Sequence[float]) -> tuple[str, ...]:
    """The arms whose β is to be found: all that have one. Raises UserError where there is no way to."""
    having = tuple(arm.name for arm in arms if arm.method.uses_reference)
    if isinstance(betas, str) and betas != AUTO:
        raise UserError(f"--betas {betas}: give numbers, or {AUTO}")
    if isinstance(betas, str) and not having:
        raise UserError(f"--betas {AUTO}: no arm has a β; leave it out")
    if having and 0 not in noises:
        raise UserError(f"--betas {AUTO}: β is found without label noise; add 0 to --label-noise, or give --betas")
    return having


def settle_betas(
    arms: Sequence[Arm], betas: Sequence[float] | Mapping[str, Sequence[float]]
) -> dict[str, tuple[float, ...]]:
    """The β of every arm whose method has one: the same for all, or each arm's own, by its name.

    Raises UserError for an arm that has none or is not compared, and for a doubtful list.
    """
    having = [arm.name for arm in arms if arm.method.uses_reference]
    if not isinstance(betas, Mapping):
        return dict.fromkeys(having, check_betas(betas))
    own = {parse_arm(name).name: check_betas(values) for name, values in betas.items()}
    for name in own:
        if name not in having:
            raise UserError(f"--betas: {name} is no arm with a β; those compared are {', '.join(having) or 'none'}")
    for name in having:
        if name not in own:
            raise UserError(f"--betas: {name} has none; give every arm its own")
    return {name: own[name] for name in having}


def check_betas(betas: Sequence[float]) -> tuple[float, ...]:
    """The same β. Raises UserError for an empty list, a β given twice or one that is not positive."""
    check_list("betas", betas)
    for beta in betas:
        if not 0 < beta < math.inf:
            raise UserError(f"--betas {beta}: must be greater than 0")
    return tuple(betas)


def check_searchable(plan: Plan, samples: int) -> None:
    """Raises UserError where β is to be found and nothing is sampled."""
    if plan.searching and samples < 1:
        raise UserError(f"--betas {AUTO}: β is found by KL, which needs samples; give --samples 1 or more, or --betas")


def check_shares(votes_per_prompt: int | None, validation_fraction: float) -> None:
    """Raises UserError for a number of votes or a share that is none."""
    if votes_per_prompt is not None and votes_per_prompt < 1:
        raise UserError(f"--votes-per-prompt {votes_per_prompt}: must be at least 1")
    if not 0 <= validation_fraction < 1:
        raise UserError(f"--validation-fraction {validation_fraction}: must be at least 0 and below 1")


def training_and_held_out(
    ballots: Sequence[Ballot], eval_ballots: Sequence[Ballot] | None, fraction: float, prompts: int
) -> tuple[tuple[Ballot, ...], tuple[Ballot, ...]]:
    """What is trained on, and what is held out: the ballots given for it, else a share of the prompts, so many at
    most."""
    if eval_ballots is not None:
        return tuple(ballots), tuple(eval_ballots)
    distinct = len({ballot.prompt for ballot in ballots})
    return split_by_prompt(ballots, min(fraction, prompts / max(distinct, 1)), seed=0)


def make_data(
    plan: Plan,
    training: Sequence[Ballot],
    held_out: Sequence[Ballot],
    form: TextFormat,
    votes_per_prompt: int | None,
    validation_fraction: float,
) -> StudyData:
    """Tokenise, take the validation ballots out of the training ones, and flip votes as the plan says."""
    if votes_per_prompt is not None:
        training = limit_votes(training, votes_per_prompt, seed=0)
    training, validation = split_by_prompt(training, validation_fraction, seed=1)
    length = plan.settings.max_length
    known, asked, kept = (tokenize(part, form, max_length=length) for part in (training, held_out, validation))
    votes = {where: noisy_votes(known, kept, *where) for where in plan.conditions()}
    return StudyData(tuple(training), known, asked, kept, votes, tuple(validation))


def noisy_votes(training: TokenSet, validation: TokenSet, seed: int, noise: float) -> Votes:
    """The training and validation ballots with every single vote flipped with probability `noise`."""
    ballots = (*training.ballots, *validation.ballots)
    votes, flipped = flip_votes([ballot.votes for ballot in ballots], noise, seed=seed)
    noisy = tuple(replace(ballot, votes=own) for ballot, own in zip(ballots, votes, strict=True))
    count = len(training.ballots)
    return Votes(replace(training, ballots=noisy[:count]), noisy[count:], flipped)
