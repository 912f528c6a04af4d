"""How fast are responses sampled, beside `model.generate(num_return_sequences=...)` of transformers?

    python -m bench.sampling

Both sides answer the same prompts of real conversations with the same model in float32: so many samples each, at
temperature 1 from the whole vocabulary, until the same end-of-text tokens or the limit. What counts is generated tokens
per second. generate is left-padded, with prompts of similar length in one batch; it first tries several batch sizes, a
turn each, and then takes the best of them. Before any timing counts, the two sides' samples are compared: their mean
length and their mean log-probability per token, both computed by the same code, must agree within their errors.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import machine
from bench.inputs import default_model, training_ballots

BATCHES = (4, 8, 16, 32, 64)  # prompts to a batch of generate
MAX_LENGTH = 1024
SEED = 0
TOLERATED = 4.0  # standard errors between the two sides' means
Draw = Callable[..., tuple[list[list[tuple[int, ...]]], float]]  # responses by prompt, and the seconds that they took


# --- a worker's side -------------------------------------------------------------------------------------------------


def ours(given: argparse.Namespace, prompts: Sequence[Sequence[int]], bench: Any) -> Draw:
    """Sampling by `rollouts.sample_responses`."""
    from preftune.rollouts import sample_responses

    def draw(seed: int) -> tuple[list[list[tuple[int, ...]]], float]:
        start = time.perf_counter()
        rollouts = sample_responses(
            bench.base.model,
            prompts,
            stops=bench.base.form.stops,
            samples=given.samples,
            max_new_tokens=given.tokens,
            seed=seed,
            precision="fp32",
        )
        return [list(rollout.responses) for rollout in rollouts], time.perf_counter() - start

    return draw


def peer(given: argparse.Namespace, prompts: Sequence[Sequence[int]], bench: Any) -> Draw:
    """Sampling by `generate`, as transformers loads the model, in batches of prompts of similar length."""
    import torch
    from transformers import AutoModelForCausalLM

    stops = list(bench.base.form.stops)
    model = AutoModelForCausalLM.from_pretrained(given.model, dtype=torch.float32).eval()
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    options = {"do_sample": True, "top_k": 0, "top_p": 1.0, "temperature": 1.0, "max_new_tokens": given.tokens}
    options |= {"num_return_sequences": given.samples, "eos_token_id": stops, "pad_token_id": stops[0]}

    def draw(seed: int, batch: int) -> tuple[list[list[tuple[int, ...]]], float]:
        torch.manual_seed(seed)
        start = time.perf_counter()
        responses: list[list[tuple[int, ...]]] = [[] for _ in prompts]
        for group in (order[i : i + batch] for i in range(0, len(order), batch)):
            width = max(len(prompts[i]) for i in group)
            padding = [width - len(prompts[i]) for i in group]
            ids = torch.tensor([[stops[0]] * pad + list(prompts[i]) for i, pad in zip(group, padding, strict=True)])
            mask = torch.tensor([[0] * pad + [1] * (width - pad) for pad in padding])
            output = model.generate(input_ids=ids, attention_mask=mask, **options)[:, width:].tolist()
            for row, tokens in enumerate(output):
                responses[group[row // given.samples]].append(_until_stop(tokens, stops))
        return responses, time.perf_counter() - start

    return draw


def _until_stop(ids: Sequence[int], stops: Sequence[int]) -> tuple[int, ...]:
    end = next((i for i, token in enumerate(ids) if token in stops), len(ids) - 1)
    return tuple(ids[: end + 1])


def token_logprobs(bench: Any, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[tuple[int, ...]]]) -> Any:
    """Mean log-probability per token, in nats, of every response, `[prompts × samples]`."""
    import torch

    from preftune.logprobs import response_logprobs
    from preftune.tokens import TokenBallot

    means: list[float] = []
    for prompt, given in zip(prompts, responses, strict=True):
        batch = bench.layout.lay_out([TokenBallot(tuple(prompt), tuple(given), ())])
        with torch.no_grad():
            values = response_logprobs(bench.base.model, batch, precision="fp32")
        means += (values / batch.lengths_B()).tolist()
    return means


def work(given: argparse.Namespace) -> None:
    """Answer with the work of one turn: generated tokens, seconds and, where asked for, what the samples are like."""
    from preftune.tokens import fit_prompt
    from preftune.workbench import open_workbench

    bench = open_workbench(given.model, device="cpu")
    ballots = training_ballots(given.data, given.prompts, SEED)
    prompts = [fit_prompt(ballot.prompt, bench.base.form, MAX_LENGTH - given.tokens)[0] for ballot in ballots]
    draw = {"ours": ours, "peer": peer}[given.side](given, prompts, bench)

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        describe = request.pop("describe", False)
        responses, seconds = draw(**request)
        lengths = [len(ids) for row in responses for ids in row]
        reply: dict[str, Any] = {"seconds": seconds, "tokens": sum(lengths), "peak_gib": machine.peak_memory()}
        if describe:
            means = token_logprobs(bench, prompts, responses)
            reply |= {"lengths": lengths, "logprobs": means, "prompt_tokens": [len(prompt) for prompt in prompts]}
        return reply

    machine.serve(answer)


# --- the benchmark ---------------------------------------------------------------------------------------------------


def check_equal(name: str, a: Sequence[float], b: Sequence[float]) -> dict[str, float]:
    """Means of a measure of both sides' samples. Stops the benchmark when they are too far apart to be chance."""
    means = statistics.mean(a), statistics.mean(b)
    error = (statistics.variance(a) / len(a) + statistics.variance(b) / len(b)) ** 0.5
    if abs(means[0] - means[1]) > TOLERATED * error:
        raise SystemExit(f"not equal work: {name} is {means[0]:.3f} with preftune and {means[1]:.3f} with generate")
    return {"preftune": means[0], "generate": means[1], "standard_error_of_difference": error}


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """The record of the benchmark."""
    shared = [f"--{name}={getattr(given, name)}" for name in ("model", "data", "prompts", "samples", "tokens")]
    with machine.workers("bench.sampling", {s: ["--side", s, *shared] for s in ("ours", "peer")}) as sides:
        drawn = {"ours": sides["ours"].ask(seed=SEED, describe=True)}
        sizes = sorted({min(size, given.prompts) for size in BATCHES})
        tried = {size: sides["peer"].ask(seed=SEED, batch=size, describe=size == sizes[0]) for size in sizes}
        drawn["peer"] = tried[sizes[0]]
        rates = {size: reply["tokens"] / reply["seconds"] for size, reply in tried.items()}
        best = max(rates, key=rates.__getitem__)
        equal = {name: check_equal(name, drawn["ours"][name], drawn["peer"][name]) for name in ("lengths", "logprobs")}
        turns: dict[str, list[dict[str, Any]]] = {"ours": [], "peer": []}
        for turn in range(1, given.turns + 1):
            turns["ours"].append(sides["ours"].ask(seed=turn))
            turns["peer"].append(sides["peer"].ask(seed=turn, batch=best))
    speed = {side: [reply["tokens"] / reply["seconds"] for reply in replies] for side, replies in turns.items()}
    prompt_tokens = drawn["ours"]["prompt_tokens"]
    return {
        "machine": machine.describe_machine(),
        "model": Path(given.model).name,
        "data": Path(given.data).name,
        "work": {
            "prompts": given.prompts,
            "samples": given.samples,
            "max_new_tokens": given.tokens,
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
        f"Sampling {work['prompts']} prompts × {work['samples']} samples × {work['max_new_tokens']} tokens, "
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
