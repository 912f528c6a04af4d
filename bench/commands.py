"""Commands on tiny models for `bench.faults`: every method and stage, and what of their folders must be the same."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from preftune.data import Ballot, Vote, write_ballots
from preftune.evidence import read_samples
from tests.tiny import tiny_llama

WORDS = tuple("abcdefgh")
SMALL = ("--batch-size", "4", "--micro-tokens", "40", "--max-length", "24", "--device", "cpu", "--lr", "5e-3")
SAMPLED = ("--max-new-tokens", "4")
STUDY = ("--betas", "0.1", "--eval-fraction", "0.3", "--samples", "2", "--checkpoints", "2", "--steps", "3")
EVERY = "sft,dpo,ipo,amortized-ipo,ppo,rloo,best-of-n"
EACH_STEP = ("--save-every", "0")


@dataclass(frozen=True)
class Command:
    """A command under a name, and what is added to it to go on."""

    name: str
    arguments: Sequence[str]
    to_go_on: Sequence[str] = ()


def study(name: str, methods: str, *more: str) -> Command:
    return Command(name, ("compare", "--methods", methods, *SMALL, *SAMPLED, *STUDY, "--rollouts", "2", *more))


def run(method: str, *more: str, steps: int = 5) -> Command:
    beta = () if method in ("sft", "reward") else ("--beta", "0.3")
    name = " ".join(("train", method, *more[:2]))
    how = ("train", method, *beta, *SMALL, "--steps", str(steps), "--eval-fraction", "0.3", *more)
    return Command(name, how, ("--resume",))


COMMANDS: Sequence[Command] = (
    study("study of every method", EVERY, "--kind", "frozen", *EACH_STEP),
    study("study of every method, LoRA", EVERY, "--lora", "2", *EACH_STEP),
    study("study, reward model and judge of all weights", "dpo,ppo", "--kind", "full", "--judge", "reward"),
    run("reward", "--kind", "full", *EACH_STEP),
    run("reward", "--lora", "2", *EACH_STEP),
    run("ppo", "--kind", "full", *SAMPLED, *EACH_STEP, steps=3),
    run("rloo", "--lora", "2", *SAMPLED, *EACH_STEP, steps=3),
    run("amortized-ipo", "--kind", "frozen", *EACH_STEP),
    run("dpo", *EACH_STEP, steps=8),
    run("ipo", "--lora", "2", *EACH_STEP, steps=8),
    run("sft", *EACH_STEP, steps=8),
)


def make_inputs(folder: Path) -> Sequence[str]:
    """A model and votes on three responses a prompt; the arguments that name them."""
    rng = random.Random(0)
    tiny_llama(folder / "model", WORDS)
    ballots = []
    for number in range(24):
        texts = {" ".join(rng.choices(WORDS, k=rng.randint(1, 4))): None for _ in range(3)}
        places = range(len(texts))
        votes = [Vote(a, b, float(rng.random() < 0.6)) for a in places for b in places if a < b]
        prompt = " ".join((WORDS[number % 8], WORDS[number // 8], *rng.choices(WORDS, k=2)))
        ballots += [Ballot(prompt, tuple(texts), tuple(votes))] if votes else []
    write_ballots(ballots, folder / "votes.jsonl")
    return ("--model", str(folder / "model"), "--data", str(folder / "votes.jsonl"))


# --- what a command leaves --------------------------------------------------------------------------------------------

EXACT = ("**/*.safetensors", "**/results.jsonl", "**/verdict.json", "**/judgements.jsonl", "**/reward.json")
TIMES = ("seconds", "tokens_per_second")


def left_by(folder: Path) -> Mapping[str, Any]:
    """What must be the same, by file: bytes, or records without the times in them."""
    return dict(_left_by(folder))


def _left_by(folder: Path) -> Iterator[tuple[str, Any]]:
    def files(*patterns: str) -> Iterator[tuple[str, Path]]:
        for path in sorted({path for pattern in patterns for path in folder.glob(pattern)}):
            name = str(path.relative_to(folder))
            if path.is_file() and ".broken" not in name:
                yield name, path

    for name, path in files(*EXACT):
        yield name, path.read_bytes()
    for name, path in files("**/metrics.jsonl"):
        yield name, [_timeless(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    for name, path in files("**/run.json"):
        yield name, _timeless(json.loads(path.read_text(encoding="utf-8")))
    for name, path in files("**/samples.jsonl"):
        yield name, set(map(repr, read_samples(path)))


def _timeless(record: Mapping[str, Any]) -> Mapping[str, Any]:
    return {name: value for name, value in record.items() if name not in TIMES}


def differences(found: Path, wanted: Mapping[str, Any]) -> list[str]:
    """The files of a folder that are not what they should be."""
    have = left_by(found)
    return [name for name in sorted({*have, *wanted}) if have.get(name) != wanted.get(name)]
