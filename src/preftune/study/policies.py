"""Trained policies in their folders: evaluated against their reference, and sampled side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from ..console import say
from ..data import Message, Prompt, Refused, read_ballots, read_prompts, reference_table, tokenize
from ..errors import UserError
from ..evidence import REFERENCE, Result, Sample, number, write_records
from ..judges import Judge
from ..model import Base, Policy, Reward, Workbench, open_workbench, sample_responses
from ..stopping import check_writable
from ..text import harmless
from ..training import describe_counts, held_out_reference, make_settings, open_reward, vote_table
from .evaluate import Proxy, answer, summarise
from .folders import PolicyFolder, common_base, common_options, common_reference, find_policy
from .limits import check_asked, check_precision
from .overlap import check_overlap, prompts_of, trained_on
from .policy_folders import load_beside, load_policy, met
from .questions import Questions, held_out_prompts, make_questions
from .rewards import above_reference, mean_scores, reference_rollouts


def evaluate_folders(
    folders: Sequence[str],
    *,
    reference: str | None = None,
    data: str | None = None,
    prompts: str | None = None,
    eval_prompts: int = 64,
    samples: int = 1,
    max_new_tokens: int = 64,
    seed: int = 0,
    max_length: int = 1024,
    micro_tokens: int | None = None,
    precision: str = "fp32",
    device: str = "auto",
    template_options: str | None = None,
    base: str | None = None,
    out: str | None = None,
    judge: Judge | None = None,
    reward: str | None = None,
    allow_overlap: bool = False,
    reading: Mapping[str, Any] | None = None,
) -> tuple[Result, ...]:
    """Meet every policy with the same prompts, ballots and random numbers, and print one table.

    The reference is the model that the policies were trained from, unless another is named, its weights kept in `base`,
    by default as they were in training; a policy that was trained beside that very base is met there, as an adapter,
    any other one as it was written down. `judge` is the reward of a response, where one is known; `reward` the folder
    of a reward model whose opinion is `proxy` in a row's `extra`.
    `out` keeps the rows and the samples as JSONL; `reading` are further arguments of `read_ballots`. The chat template
    is the reference's, with the options that the policies were trained with, unless others are given. Raises UserError
    when there is nothing to ask, or when the policies have different references or options, or were trained on what
    they are asked (with `allow_overlap` that is a caveat).
    """
    check_asked(samples=samples, max_new_tokens=max_new_tokens, eval_prompts=eval_prompts)
    check_precision(precision, base or "fp32")
    if out:
        check_writable(Path(out))
    found = [find_policy(folder) for folder in folders]
    budget = make_settings({"micro_tokens": micro_tokens, "device": device}).pass_tokens
    ballots = read_ballots(data, **(reading or {})) if data else ()
    asked = read_prompts(prompts) if prompts else held_out_prompts(ballots, eval_prompts)
    if not asked:
        raise UserError("evaluate: nothing to ask; give --prompts FILE, or --data FILE with preferences")
    sets = {"--data": prompts_of(ballots)} if ballots else {}
    sets |= {"--prompts": list(asked)} if prompts else {}
    seen = trained_on((), *(folder.path for folder in found), reward)
    caveats = check_overlap(sets, seen, allowed=allow_overlap)
    start = common_reference(found, reference)
    bench = open_workbench(
        start,
        precision=precision,
        device=device,
        template=common_options(found) if template_options is None else template_options,
        where=f"--reference {start}",
        base=common_base(found) if base is None else base,
    )
    tokens = tokenize(ballots, bench.base.form, max_length=max_length)
    questions, cuts = make_questions(asked, tokens, bench.base.form, max_length, samples, max_new_tokens, judge, {})
    counts = describe_counts(Counter(tokens.skipped) + Counter(tokens.shortened) + cuts)
    say(f"{len(questions.ballots)} ballots, {len(questions.prompts)} prompts; skipped or shortened: {counts}")
    known = held_out_reference(bench, questions.ballots, budget)
    proxy = None
    if reward and samples:
        judging = open_reward(reward, bench, chats=any(not isinstance(prompt, str) for prompt in asked))
        proxy = proxy_of(judging, bench, questions, budget)
    rows: list[Result] = []
    everything: list[Sample] = []
    for folder in [PolicyFolder(Path(), REFERENCE, {}), *found]:
        with met(folder, bench, device) as policy:
            row, answers = _evaluate(policy, folder, bench, questions, known, budget, proxy, everything)
        rows.append(row)
        everything += answers
    Console().print(_table(rows, caveats))
    if out:
        Path(out).mkdir(parents=True, exist_ok=True)
        write_records(Path(out) / "samples.jsonl", everything)
        write_records(Path(out) / "results.jsonl", rows)
    return tuple(rows)


def _evaluate(
    policy: Policy,
    folder: PolicyFolder,
    bench: Workbench,
    questions: Questions,
    known: dict[bytes, float],
    micro_tokens: int,
    proxy: Proxy | None,
    before: Sequence[Sample],
) -> tuple[Result, list[Sample]]:
    """A row and the samples of one policy; among the samples `before` are the reference's, unless this is it."""
    shared: dict[str, Any] = {"layout": bench.layout, "precision": bench.precision, "micro_tokens": micro_tokens}
    answers: list[Sample] = []
    if questions.samples:
        reference = None if folder.name == REFERENCE else bench.reference.alone
        answers = answer(
            policy.model,
            reference,
            questions,
            bench.base.form,
            run=folder.name,
            step=0,
            merged=policy.merged,
            proxy=None if folder.name == REFERENCE else proxy,
            **shared,
        )
    reduction = folder.record.get("settings", {}).get("reduction", "sum")
    table = reference_table(questions.ballots) if known else None
    if known and folder.name != REFERENCE:
        table = vote_table(policy.model, questions.ballots, known, reduction=reduction, **shared)
    record = folder.record
    identity = {"arm": record.get("arm", folder.name), "method": record.get("method", "model")}
    identity |= {"run": folder.name, "beta": record.get("beta"), "seed": record.get("seed", 0), "step": 0}
    own = [sample for sample in before if sample.run == REFERENCE]
    return summarise(answers, own or answers, table, **identity), answers


def proxy_of(reward: Reward, bench: Workbench, questions: Questions, micro_tokens: int) -> Proxy:
    """`above_reference`, on the samples that the reference gives to the same questions."""
    drawn = reference_rollouts(bench, questions, questions.samples, questions.seed)
    return above_reference(reward, mean_scores(reward, drawn, bench, micro_tokens), bench, micro_tokens)


def _ids(prompt: Prompt, base: Base, folder: PolicyFolder) -> list[int]:
    try:
        ids = base.form.prompt(prompt)
    except Refused as reason:
        raise UserError(f"{folder.path}: {reason}") from None
    if not ids:
        raise UserError(f"--prompt {prompt!r}: comes to no token with the tokenizer of {folder.path}; write some text")
    return ids


def _table(rows: Sequence[Result], caveats: Sequence[str]) -> Table:
    columns = {"kl": "KL (nats)", "length": "length (tokens)", "accuracy": "accuracy", "log_loss": "log-loss (nats)"}
    shown = {name: title for name, title in columns.items() if any(getattr(row, name) is not None for row in rows)}
    caption = Text(harmless("\n".join(["mean ± standard error, clustered by prompt", *caveats])))
    table = Table("policy", *shown.values(), box=box.SIMPLE, caption=caption)
    for row in rows:
        table.add_row(
            Text(harmless(row.run)), *(_cell(getattr(row, name), getattr(row, f"{name}_se")) for name in shown)
        )
    return table


def _cell(value: float | None, error: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if error is None else f"{number(value, error)} ± {number(error, error)}"


def sample_folders(
    folders: Sequence[str],
    *,
    prompt: str,
    samples: int = 1,
    max_new_tokens: int = 64,
    seed: int = 0,
    precision: str = "fp32",
    device: str = "auto",
    base: str = "fp32",
) -> None:
    """Print the responses of several policies to one prompt, side by side, drawn with the same random numbers.

    A policy trained on chats, or a plain model with a chat template, gets the prompt as a user's message. With a `base`
    in few bits a policy that was trained beside it is loaded as its adapter and that base, which takes less memory than
    what was written down; a plain model is put into few bits.
    """
    check_asked(samples=samples, max_new_tokens=max_new_tokens, least=1)
    check_precision(precision, base)
    found = [find_policy(folder) for folder in folders]
    table = Table(*(Column(Text(harmless(folder.name))) for folder in found), box=box.SIMPLE, show_lines=True)
    columns = []
    for folder in found:
        start = load_beside(folder, base, device) if base != "fp32" else load_policy(folder, device)
        asked: Prompt = (Message("user", prompt),) if folder.record.get("chat", start.form.has_template) else prompt
        rollout = sample_responses(
            start.model,
            [_ids(asked, start, folder)],
            stops=start.form.stops,
            samples=samples,
            max_new_tokens=max_new_tokens,
            seed=seed,
            precision=precision,
            description=harmless(folder.name),
        )[0]
        columns.append([harmless(start.form.text(ids)) for ids in rollout.responses])
    for texts in zip(*columns, strict=True):
        table.add_row(*(Text(text) for text in texts))
    Console().print(table)
