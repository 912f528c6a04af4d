"""How fast are responses sampled, beside `model.generate(num_return_sequences=...)` of transformers?

    python -m bench.sampling

Both sides answer the same prompts of real conversations with the same model: so many samples each, at temperature 1
from the whole vocabulary, until the same end-of-text tokens or the limit. What counts is generated tokens per second.
generate is left-padded, with prompts of similar length in one batch; it first tries several batch sizes, a turn each,
and then takes the best of them. Before any timing counts, the two sides' samples are compared: their mean length and
their mean log-probability per token, both computed by the same code, must agree within their errors.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import machine
from bench.inputs import default_model, training_ballots

BATCHES = (4, 8, 16, 32)  # prompts to a batch of generate
MAX_LENGTH = 1024
SEED = 0
TOLERATED = 4.0  # standard errors between the two sides' means
Responses = list[list[tuple[int, ...]]]  # by prompt


# --- a worker's side -------------------------------------------------------------------------------------------------


class Ours:
    """Sampling by `rollouts.sample_responses`; also says how likely responses are, those of the other side too."""

    def __init__(self, given: argparse.Namespace) -> None:
        from preftune.model.workbench import open_workbench

        self.given, self.bench = given, open_workbench(given.model, device="cpu")
        self.prompts = read_prompts(given, self.bench.base.form)

    def draw(self, seed: int) -> Responses:
        from preftune.model.sampling import sample_responses

        rollouts = sample_responses(
            self.bench.base.model,
            self.prompts,
            stops=self.bench.base.form.stops,
            samples=self.given.samples,
            max_new_tokens=self.given.tokens,
            seed=seed,
            precision=self.given.precision,
        )
        return [list(rollout.responses) for rollout in rollouts]

    def token_logprobs(self, responses: Responses) -> list[float]:
        """Mean log-probability per token, in nats, of every response."""
        import torch

        from preftune.data.tokens import TokenBallot
        from preftune.model.logprobs import response_logprobs

        means: list[float] = []
        for prompt, own in zip(self.prompts, responses, strict=True):
            batch = self.bench.layout.lay_out([TokenBallot(prompt, tuple(own), ())])
            with torch.no_grad():
                values = response_logprobs(self.bench.base.model, batch, precision="fp32")
            means += (values / batch.lengths_B()).tolist()
        return means


class Peer:
    """Sampling by `generate`, with the model as transformers loads it, in batches of prompts of similar length.

    In bf16 its weights are rounded to that as well, which is faster than casting them from float32 at every token.
    """

    def __init__(self, given: argparse.Namespace) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from preftune.data.tokens import text_format

        form = text_format(AutoTokenizer.from_pretrained(given.model))
        self.given, self.stops, self.prompts = given, list(form.stops), read_prompts(given, form)
        dtype = torch.bfloat16 if given.precision == "bf16" else torch.float32
        self.model = AutoModelForCausalLM.from_pretrained(given.model, dtype=dtype).eval()

    def draw(self, seed: int, batch: int) -> Responses:
        import torch

        torch.manual_seed(seed)
        order = sorted(range(len(self.prompts)), key=lambda i: len(self.prompts[i]))
        responses: Responses = [[] for _ in self.prompts]
        for start in range(0, len(order), batch):
            group = order[start : start + batch]
            for row, tokens in enumerate(self._generate([self.prompts[i] for i in group])):
                responses[group[row // self.given.samples]].append(_until_stop(tokens, self.stops))
        return responses

    def _generate(self, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        import torch

        width = max(map(len, prompts))
        padding = [width - len(prompt) for prompt in prompts]
        ids = [[self.stops[0]] * pad + list(prompt) for prompt, pad in zip(prompts, padding, strict=True)]
        mask = [[0] * pad + [1] * (width - pad) for pad in padding]
        output = self.model.generate(
            input_ids=torch.tensor(ids),
            attention_mask=torch.tensor(mask),
            do_sample=True,
            top_k=0,
            top_p=1.0,
            temperature=1.0,
            max_new_tokens=self.given.tokens,
            num_return_sequences=self.given.samples,
            eos_token_id=self.stops,
            pad_token_id=self.stops[0],
        )
        rows: list[list[int]] = output[:, width:].tolist()
        return rows


def read_prompts(given: argparse.Namespace, form: Any) -> list[tuple[int, ...]]:
    """The prompts as token ids, cut where they leave no room for an answer."""
    from preftune.data.tokens import fit_prompt

    ballots = training_ballots(given.data, given.prompts, SEED)
    return [tuple(fit_prompt(ballot.prompt, form, MAX_LENGTH - given.tokens)[0]) for ballot in ballots]


def _until_stop(ids: Sequence[int], stops: Sequence[int]) -> tuple[int, ...]:
    end = next((i for i, token in enumerate(ids) if token in stops), len(ids) - 1)
    return tuple(ids[: end + 1])


def work(given: argparse.Namespace) -> None:
    """Answer with what was sampled and the seconds that it took, or with log-probabilities of `responses`."""
    side = Ours(given) if given.side == "ours" else Peer(given)

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        if "responses" in request:
            assert isinstance(side, Ours)
            return {"logprobs": side.token_logprobs([[tuple(ids) for ids in row] for row in request["responses"]])}
        start = time.perf_counter()
        responses = side.draw(**request)
        seconds = time.perf_counter() - start
        lengths = [len(ids) for row in responses for ids in row]
        reply = {"seconds": seconds, "tokens": sum(lengths), "peak_gib": machine.peak_memory()}
        return reply | {"responses": responses, "prompt_tokens": [len(prompt) for prompt in side.prompts]}

    machine.serve(answer)


# --- the benchmark ---------------------------------------------------------------------------------------------------


def check_equal(name: str, a: Sequence[float], b: Sequence[float]) -> dict[str, float]:
    """Means of a measure of both sides' samples. Stops the benchmark when they are too far apart to be chance."""
    means = statistics.mean(a), statistics.mean(b)
    error = (statistics.variance(a) / len(a) + statistics.variance(b) / len(b)) ** 0.5
    if abs(means[0] - means[1]) > TOLERATED * error:
        raise SystemExit(f"not equal work: {name} is {means[0]:.3f} with preftune and {means[1]:.3f} with generate")
    return {"preftune": means[0], "generate": means[1], "standard_error_of_difference": error}


def equal_work(ours: machine.Worker, drawn: Mapping[str, Responses]) -> dict[str, dict[str, float]]:
    """What the samples of both sides are like: tokens in a response, and nats per token."""
    lengths = {side: [len(ids) for row in responses for ids in row] for side, responses in drawn.items()}
    logprobs = {side: ours.ask(responses=responses)["logprobs"] for side, responses in drawn.items()}
    measures = {"length": lengths, "log-probability per token": logprobs}
    return {name: check_equal(name, values["ours"], values["peer"]) for name, values in measures.items()}


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """The record of the benchmark."""
    shared = [
        f"--{name}={getattr(given, name)}" for name in ("model", "data", "prompts", "samples", "tokens", "precision")
    ]
    with machine.workers("bench.sampling", {s: ["--side", s, *shared] for s in ("ours", "peer")}) as sides:
        first = sides["ours"].ask(seed=SEED)
        sizes = sorted({min(size, given.prompts) for size in BATCHES})
        tried = {size: sides["peer"].ask(seed=SEED, batch=size) for size in sizes}
        print("tried generate's batches; the turns begin", file=sys.stderr)
        rates = {size: reply["tokens"] / reply["seconds"] for size, reply in tried.items()}
        best = max(rates, key=rates.__getitem__)
        equal = equal_work(sides["ours"], {"ours": first["responses"], "peer": tried[best]["responses"]})
        turns: dict[str, list[dict[str, float]]] = {"ours": [], "peer": []}
        for turn in range(1, given.turns + 1):
            for side, options in (("ours", {}), ("peer", {"batch": best})):
                reply = sides[side].ask(seed=turn, **options)
                turns[side].append({name: reply[name] for name in ("seconds", "tokens", "peak_gib")})
            print(f"turn {turn} of {given.turns}", file=sys.stderr)
    speed = {side: [reply["tokens"] / reply["seconds"] for reply in replies] for side, replies in turns.items()}
    prompt_tokens = first["prompt_tokens"]
    return {
        "machine": machine.describe_machine(),
        "model": Path(given.model).name,
        "data": Path(given.data).name,
        "work": {
            "prompts": given.prompts,
            "samples": given.samples,
            "max_new_tokens": given.tokens,
            "precision": given.precision,
            "prompt_tokens": {"mean": statistics.mean(prompt_tokens), "max": max(prompt_tokens)},
        },
        "equal_work": equal,
        "generate_tokens_per_second_by_batch": rates,
        "generate_batch": best,
        "turns": turns,
        "tokens_per_second": {side: statistics.median(values) for side, values in speed.items()},
        "ratio": machine.median_ratio(speed["ours"], speed["peer"]),
    }


def table(record: Mapping[str, Any]) -> None:
    """Print what was measured."""
    work, ratio, turns = record["work"], record["ratio"], record["turns"]
    rows = []
    for side, label in (("ours", "preftune"), ("peer", f"generate, {record['generate_batch']} prompts to a batch")):
        seconds = statistics.median(reply["seconds"] for reply in turns[side])
        speed, peak = record["tokens_per_second"][side], max(reply["peak_gib"] for reply in turns[side])
        rows.append([label, f"{speed:.0f}", f"{seconds:.1f}", f"{peak:.1f}"])
    title = (
        f"Sampling in {work['precision']}: {work['prompts']} prompts × {work['samples']} samples × "
        f"{work['max_new_tokens']} tokens, "
        f"prompts of {work['prompt_tokens']['mean']:.0f} tokens on average: {ratio['median']:.2f} × "
        f"({ratio['min']:.2f} to {ratio['max']:.2f}, {ratio['repeats']} turns)"
    )
    machine.show(title, ["side", "tokens/s", "s", "peak GiB"], rows)
    tried = record["generate_tokens_per_second_by_batch"]
    machine.show(
        "generate by prompts to a batch", ["prompts", "tokens/s"], [[str(n), f"{v:.0f}"] for n, v in tried.items()]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a model's folder (default: the model of `preftune demo`)")
    parser.add_argument("--data", default=str(machine.DATA), help="preference file with the prompts")
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--precision", default="fp32", help="fp32 or bf16")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    given = parser.parse_args()
    given.model = given.model or default_model()
    if given.worker:
        work(given)
        return
    record = measure(given)
    table(record)
    machine.write_results("sampling", record, given.out)


if __name__ == "__main__":
    main()
