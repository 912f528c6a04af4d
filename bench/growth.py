"""How training time grows with the length of prompts and the number of responses.

    python -m bench.growth

Steps of DPO on random tokens, one ballot of K responses of 64 tokens to each prompt, all votes on all pairs, at about
the same number of unique tokens a step. Time per unique token after the attention's share is taken off at the measured
matrix rate should not depend on either; the largest over the smallest says how nearly so. The shapes take turns.
"""

import argparse
import statistics
import sys
from collections.abc import Mapping
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import altair as alt
import torch

from bench.contestants import BETA, timed_step
from bench.inputs import default_model
from bench.machine import ROOT, describe_machine, gemm_rate, show, write_results
from preftune.data.ballots import Vote
from preftune.data.branches import Branches
from preftune.data.tokens import TokenBallot
from preftune.methods import METHODS
from preftune.model.policy import start_policy
from preftune.model.stores import response_keys
from preftune.model.workbench import Workbench, open_workbench
from preftune.training.arms import make_recipe
from preftune.training.loop import Step
from preftune.training.preparing import Training
from preftune.training.run import loss_of_votes

RESPONSE = 64
PROMPTS = (64, 128, 256, 512, 1024, 2048)
RESPONSES = (2, 4, 8)


def random_ballot(prompt: int, responses: int, vocabulary: int, seed: int) -> TokenBallot:
    """Random tokens, and a vote on every pair."""
    generator = torch.Generator().manual_seed(seed)

    def ids(length: int) -> tuple[int, ...]:
        return tuple(torch.randint(vocabulary, (length,), generator=generator).tolist())

    votes = tuple(Vote(a, b, 1.0, 1.0) for a, b in combinations(range(responses), 2))
    return TokenBallot(ids(prompt), tuple(ids(RESPONSE) for _ in range(responses)), votes)


def attention_operations(ballot: Branches, config: Any) -> float:
    """Operations of softmax(QKᵀ)V in all layers that are needed, three times over for the backward pass."""
    prompt, lengths = len(ballot.prompt), [len(ids) for ids in ballot.responses]
    pairs = prompt**2 / 2 + sum(length * prompt + length**2 / 2 for length in lengths)
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    width = config.num_attention_heads * head
    return float(3 * 4 * pairs * width * config.num_hidden_layers)


class Shapes:
    """One policy that trains on ballots of any shape."""

    def __init__(self, model: str, tokens: int) -> None:
        self.bench: Workbench = open_workbench(model, device="cpu")
        self.policy, self.tokens = start_policy(self.bench.base, lora=0, seed=0), tokens
        self.parameters = list(self.policy.trainable().values())
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-6, fused=True)

    def step(self, prompt: int, responses: int) -> dict[str, float]:
        """One optimiser step on as many ballots as come nearest to the tokens asked for."""
        config = self.bench.base.model.config.get_text_config()
        count = max(1, round(self.tokens / (prompt + responses * RESPONSE)))
        ballots = tuple(random_ballot(prompt, responses, config.vocab_size, seed) for seed in range(count))
        reference: Mapping[bytes, float] = {key: 0.0 for ballot in ballots for key in response_keys(ballot)}
        training = Training(make_recipe("dpo", {}), ballots, (), {})
        whole = Step(1, (tuple(range(count)),), sum(map(METHODS["dpo"].mass, ballots)))
        loss = partial(loss_of_votes, self.policy, self.bench, training, reference, BETA)
        seconds, _ = timed_step(whole, loss, self.optimizer, self.parameters, "cpu")
        unique = sum(map(self.bench.layout.size, ballots))
        pairs = count * responses * (responses - 1) / 2
        return {
            "seconds": seconds,
            "unique": unique,
            "pairs_per_second": pairs / seconds,
            "attention": sum(attention_operations(ballot, config) for ballot in ballots),
        }


def measure(shapes: Shapes, turns: int) -> list[dict[str, float]]:
    """A row per shape, medians over the turns; microseconds per unique token, attention taken off."""
    found: dict[tuple[int, int], list[dict[str, float]]] = {(p, k): [] for p in PROMPTS for k in RESPONSES}
    for turn in range(turns + 1):
        rate = gemm_rate()
        for (prompt, responses), rows in found.items():
            row = shapes.step(prompt, responses)
            row["microseconds"] = (row["seconds"] - row["attention"] / rate) / row["unique"] * 1e6
            rows.append(row)
        print(f"turn {turn} of {turns}", file=sys.stderr)
    return [
        {"prompt": prompt, "responses": responses, "unique": rows[0]["unique"]}
        | {key: statistics.median(row[key] for row in rows[1:]) for key in ("pairs_per_second", "microseconds")}
        for (prompt, responses), rows in found.items()
    ]


def draw(rows: list[dict[str, float]], path: Path) -> None:
    """Pairs a second and time per unique token against the prompt's length."""
    base = (
        alt.Chart(alt.InlineData(rows))
        .mark_line(point=True)
        .encode(
            x=alt.X("prompt:Q", title="prompt, tokens", scale=alt.Scale(type="log", base=2)),
            color=alt.Color("responses:N", title="responses K"),
        )
    )
    left = base.encode(y=alt.Y("pairs_per_second:Q", title="pairs a second", scale=alt.Scale(type="log", nice=False)))
    right = base.encode(y=alt.Y("microseconds:Q", title="µs per unique token, attention taken off"))
    (left | right).save(path, ppi=144)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="", help="local folder or hub name (default: the embedded experiment's)")
    parser.add_argument("--tokens", type=int, default=1024, help="unique tokens a step, about")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--plot", type=Path, default=ROOT / "docs" / "growth.png")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    model = given.model or default_model()
    rows = measure(Shapes(model, given.tokens), given.turns)
    spread = max(row["microseconds"] for row in rows) / min(row["microseconds"] for row in rows)
    shown = {"prompt": ".0f", "responses": ".0f", "pairs_per_second": ".2f", "microseconds": ".0f"}
    lines = [[format(row[key], form) for key, form in shown.items()] for row in rows]
    show(f"time per unique token: largest / smallest {spread:.2f}", ["prompt", "K", "pairs/s", "µs/token"], lines)
    draw(rows, given.plot)
    write_results("growth", {"machine": describe_machine(), "spread": spread, "shapes": rows}, given.out)


if __name__ == "__main__":
    main()
