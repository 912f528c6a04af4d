"""The two sides of a training benchmark: our loop, and TRL's trainers on the same token ids, weights and steps.

Each is a process that does one optimiser step when it is asked (`machine.Worker`). Both start from the same weights,
moved a little from the reference by the same seeded noise: at the reference itself the loss is log 2 whatever a method
does, so equal losses would say nothing. Times are of whole optimiser steps. Reference log-probs are computed before and
timed apart; TRL's collating and logging fall outside its time, ours inside.
"""

import argparse
import os
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bench.inputs import default_model, training_ballots
from bench.machine import DATA, Turns, clock, need, peak_memory
from preftune.data.tokens import TokenBallot, TokenSet, text_format, tokenize
from preftune.methods import Terms
from preftune.training.arms import Recipe, make_recipe
from preftune.training.loop import Step, run_loop

LR = 1e-6  # small: both sides stay at nearly the same weights for as long as they run
BETA = 0.1
NOISE = 0.01


def arguments() -> argparse.ArgumentParser:
    """What both sides and the programs that start them are told."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--model", default="", help="local folder or hub name (default: the embedded experiment's)")
    parser.add_argument("--data", type=Path, default=DATA, help="preference file (default: HH helpful-base, test)")
    parser.add_argument("--batch-size", type=int, default=8, help="pairs a step")
    parser.add_argument("--max-length", type=int, default=1024)
    parser.add_argument("--micro-tokens", type=int, default=None, help="our tokens a forward pass (default: ours)")
    parser.add_argument("--precision", default="fp32", help="fp32 or bf16")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--compile", action="store_true", help="our blocks compiled; what that takes is not timed")
    parser.add_argument("--peer-compile", action="store_true", help="TRL's torch_compile; likewise")
    return parser


def worker_arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(parents=[arguments()])
    parser.add_argument("--worker", action="store_true")
    parser.add_argument("--side", choices=("ours", "trl"), required=True)
    parser.add_argument("--method", choices=("dpo", "ipo", "reward"), required=True)
    parser.add_argument("--lora", type=int, default=0)
    parser.add_argument("--peer-batch", type=int, default=1, help="pairs in a forward pass of TRL's")
    parser.add_argument("--steps", type=int, required=True)
    return parser


def recipe_of(given: argparse.Namespace) -> Recipe:
    """IPO with the mean over tokens: the only kind that TRL has."""
    options = {
        "lr": LR,
        "steps": given.steps,
        "batch_size": given.batch_size,
        "max_length": given.max_length,
        "lora": given.lora,
        "precision": given.precision,
        "device": given.device,
    }
    options |= {"reduction": "mean"} if given.method == "ipo" else {}
    return make_recipe(given.method, options | ({"micro_tokens": given.micro_tokens} if given.micro_tokens else {}))


def tokens_of(given: argparse.Namespace, form: Any) -> TokenSet:
    """More ballots than the steps need, one pair each, since some may have to be skipped."""
    ballots = training_ballots(given.data, (given.steps + 2) * given.batch_size, given.seed)
    return tokenize(ballots, form, max_length=given.max_length)


@torch.no_grad()
def move_from_reference(model: nn.Module, *, lora: bool) -> None:
    """The same noise on the same parameters, whatever the wrappers around the model call them."""
    named = {
        name.replace("base_model.model.", "").replace(".default", ""): p
        for name, p in model.named_parameters()
        if p.requires_grad
    }
    for number, (_, parameter) in enumerate(sorted(named.items())):
        device = parameter.device
        noise = torch.randn(parameter.shape, generator=torch.Generator(device).manual_seed(number), device=device)
        if lora:
            parameter.copy_(NOISE * noise)
        else:
            parameter.add_(NOISE * noise * parameter.std())


# --- ours ------------------------------------------------------------------------------------------------------------


class Ours:
    """preftune's training loop, one optimiser step at a time."""

    def __init__(self, given: argparse.Namespace, bench: Any = None) -> None:
        from preftune.model.policy import start_policy
        from preftune.model.workbench import open_workbench
        from preftune.preference.trained import Trainee
        from preftune.training.preparing import prepare_training
        from preftune.training.run import loss_of_votes, reference_values

        self.recipe, self.device = recipe_of(given), given.device
        self.bench = bench or open_workbench(given.model, precision=given.precision, device=given.device)
        tokens = tokens_of(given, self.bench.base.form)
        self.training = prepare_training(self.recipe, tokens, self.bench.layout, given.seed)
        start = clock(self.device)
        reference = reference_values(self.bench, self.training).logprobs if given.method != "reward" else {}
        self.reference_seconds = clock(self.device) - start
        self.policy = policy = start_policy(self.bench.base, lora=given.lora, seed=0, compiled=given.compile)
        if given.method == "reward":
            trainee = Trainee(policy, _head(self.bench.base.model).to(given.device), self.bench)
            parameters = trainee.trainable()
            self.loss = lambda indices: trainee.loss([self.training.ballots[i] for i in indices], self.recipe.options)
        else:
            parameters = policy.trainable()
            self.loss = partial(loss_of_votes, policy, self.bench, self.training, reference, BETA)
        move_from_reference(policy.model.get_decoder() if given.method == "reward" else policy.model, lora=given.lora)
        self.parameters = list(parameters.values())
        self.trunk, self.head = _weights(self.bench.base.model)
        if given.method == "reward":
            self.head = 0  # one row
        self.optimizer = torch.optim.AdamW(self.parameters, lr=LR, weight_decay=0.0, fused=True)

    def step(self, number: int) -> dict[str, float]:
        """Do it, and say how long it took, its loss and what it computed."""
        step = self.training.plan[number]
        ballots = [self.training.ballots[i] for group in step.micro_batches for i in group]
        seconds, loss = timed_step(step, self.loss, self.optimizer, self.parameters, self.device)
        return {"seconds": seconds, "loss": loss, "peak_gib": peak_memory(self.device)} | self._work(ballots)

    def _work(self, ballots: Sequence[TokenBallot]) -> dict[str, float]:
        unique = sum(map(self.bench.layout.size, ballots))
        predicted = sum(len(ids) for ballot in ballots for ids in ballot.responses)
        return {"trunk": self.trunk, "head": self.head, "unique": unique, "predicted": predicted}


def timed_step(
    step: Step,
    loss: Callable[[Any], Terms],
    optimizer: torch.optim.AdamW,
    parameters: Sequence[nn.Parameter],
    device: str,
) -> tuple[float, float]:
    """Seconds of one step of our training loop, and its loss."""
    found: dict[str, float] = {}
    start = clock(device)
    run_loop(
        [step],
        loss,
        optimizer=optimizer,
        scheduler=torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0),
        parameters=parameters,
        clip_norm=1.0,
        tokens_of=len,
        after_step=lambda _, metrics: found.update(metrics),
    )
    return clock(device) - start, found["loss"]


def _weights(model: Any) -> tuple[int, int]:
    """Parameters of the layers, and of the head: what a token is multiplied with."""
    head = model.get_output_embeddings().weight
    ends = {id(head), id(model.get_input_embeddings().weight)}
    frozen = sum(p.numel() for name, p in model.named_parameters() if id(p) not in ends and ".lora_" not in name)
    return frozen, head.numel()


def _head(model: Any) -> nn.Linear:
    """The same start for both sides' reward heads."""
    head = nn.Linear(model.config.hidden_size, 1, bias=False)
    with torch.no_grad():
        head.weight.copy_(torch.linspace(-0.02, 0.02, model.config.hidden_size)[None])
    return head


# --- TRL -------------------------------------------------------------------------------------------------------------


def rows_of(ballots: Sequence[TokenBallot], method: str) -> list[dict[str, list[int]]]:
    """Pairs as TRL takes them when they are tokenised already."""
    rows = []
    for ballot in ballots:
        (vote,) = ballot.votes
        chosen, rejected = (vote.a, vote.b) if vote.p > 0.5 else (vote.b, vote.a)
        prompt = list(ballot.prompt) if method == "reward" else []
        sides = {"chosen_ids": ballot.responses[chosen], "rejected_ids": ballot.responses[rejected]}
        row = {name: prompt + list(ids) for name, ids in sides.items()}
        rows.append(row if method == "reward" else row | {"prompt_ids": list(ballot.prompt)})
    return rows


def peer_trainer(given: argparse.Namespace, folder: str, model: Any = None) -> tuple[Any, float]:
    """TRL's trainer on the same steps, and the seconds that its reference log-probs took. `model`: made already."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
    from trl import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer

    from preftune.model.layout import Layout
    from preftune.training.preparing import prepare_training

    tokenizer = AutoTokenizer.from_pretrained(given.model)
    recipe = recipe_of(given)
    tokens = tokens_of(given, text_format(tokenizer))
    training = prepare_training(recipe, tokens, Layout("branch", ""), given.seed)
    ordered = [training.ballots[i] for step in training.plan for group in step.micro_batches for i in group]
    common = {
        "output_dir": folder,
        "per_device_train_batch_size": given.peer_batch,
        "gradient_accumulation_steps": given.batch_size // given.peer_batch,
        "max_length": given.max_length,
        "max_steps": given.steps,
        "torch_compile": given.peer_compile,
        "learning_rate": LR,
        "lr_scheduler_type": "constant",
        "optim": "adamw_torch_fused",
        "gradient_checkpointing": False,
        "bf16": given.precision == "bf16",
        "use_cpu": given.device == "cpu",
        "train_sampling_strategy": "sequential",
        "logging_steps": given.steps + 1,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
    }
    adapter = _peer_adapter(given) if given.lora else None
    data = Dataset.from_list(rows_of(ordered, given.method))
    start = clock(given.device)
    if given.method == "reward":
        # its score is read at the last token that is not padding, and SmolLM2's padding is its end-of-text
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.pad_token
        model = AutoModelForSequenceClassification.from_pretrained(given.model, num_labels=1, dtype=torch.float32)
        model.score.weight.data.copy_(_head(model).weight)
        trainer = RewardTrainer(
            model, args=RewardConfig(**common), train_dataset=data, processing_class=tokenizer, peft_config=adapter
        )
    else:
        loss_type = "sigmoid" if given.method == "dpo" else "ipo"
        config = DPOConfig(**common, beta=BETA, loss_type=[loss_type], precompute_ref_log_probs=True)
        model = model or AutoModelForCausalLM.from_pretrained(given.model, dtype=torch.float32)

        class OnTokens(DPOTrainer):  # type: ignore[misc]
            def _prepare_dataset(self, dataset: Dataset, *args: Any) -> Dataset:
                return dataset  # tokenised already, as ours

        trainer = OnTokens(model, args=config, train_dataset=data, processing_class=tokenizer, peft_config=adapter)
    seconds = clock(given.device) - start
    move_from_reference(trainer.model.model if given.method == "reward" else trainer.model, lora=given.lora)
    return trainer, seconds


def _peer_adapter(given: argparse.Namespace) -> Any:
    from peft import LoraConfig

    task = "SEQ_CLS" if given.method == "reward" else "CAUSAL_LM"
    return LoraConfig(r=given.lora, lora_alpha=2 * given.lora, target_modules="all-linear", task_type=task)


def run_peer(given: argparse.Namespace, turns: Turns) -> None:
    """Let TRL train, but wait at the beginning of every step until it is asked for."""
    from transformers import TrainerCallback

    turns.wait()  # also with getting ready: the sides must not be in each other's way
    with tempfile.TemporaryDirectory() as folder:
        trainer, reference_seconds = peer_trainer(given, folder)
        losses: list[float] = []
        compute = trainer.compute_loss

        def compute_loss(*args: Any, **kwargs: Any) -> Any:
            loss = compute(*args, **kwargs)
            losses.append(float((loss[0] if isinstance(loss, tuple) else loss).detach()))
            return loss

        class Stepwise(TrainerCallback):  # type: ignore[misc]
            def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
                turns.wait()
                losses.clear()
                self.start = clock(given.device)

            def on_step_end(self, *args: Any, **kwargs: Any) -> None:
                seconds = clock(given.device) - self.start
                loss = sum(losses) / len(losses)
                turns.answer(seconds=seconds, loss=loss, peak_gib=peak_memory(given.device))

        trainer.compute_loss = compute_loss
        trainer.add_callback(Stepwise())
        turns.answer(reference_seconds=reference_seconds)
        trainer.train()
        turns.wait()


def main() -> None:
    given = worker_arguments().parse_args()
    given.model = given.model or default_model()
    turns = Turns()
    if given.side == "trl":
        need("trl")
        run_peer(given, turns)
        return
    with tempfile.TemporaryDirectory() as store:
        os.environ["PREFTUNE_CACHE"] = store
        turns.wait()
        ours = Ours(given)
        turns.answer(reference_seconds=ours.reference_seconds)
        number = 0
        while True:
            turns.wait()
            turns.answer(**ours.step(number))
            number += 1


if __name__ == "__main__":
    main()
