"""Do judges agree with people, where it is known what people say?

    python -m bench.judges --judge-model MODEL [--pairs 160 60]

PandaLM (three annotators a pair) and LLMFAO (a crowd, 13 prompts) are judged by a local model, by a reward model fitted
to the votes on PandaLM's other prompts, and by the rule that the longer response is better. Half of PandaLM's prompts
are judged; of each set so many pairs, in the order of a hash of their ids.
"""

import argparse
import hashlib
import json
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.machine import ROOT, describe_machine, show, write_results
from preftune import train
from preftune.data import Ballot, read_ballots, split_by_prompt
from preftune.evidence import clustered_mean, number
from preftune.judges import Caller, Contest, Opinion, PairJudge, judge_by_reward, open_local, read_wording
from preftune.model import load_reward, open_workbench

DATA = ROOT.parent / "shared" / "data" / "multi-vote"
FEW = 20  # prompts: with fewer there is no interval
VOTE = {"a": 1.0, "b": 0.0}  # anything else is a tie


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--judge-model", required=True, help="local folder, GGUF file or hub name")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of pandalm.jsonl.gz and llmfao.jsonl.gz")
    parser.add_argument("--pairs", type=int, nargs=2, default=(160, 60), help="of PandaLM, of LLMFAO (0: all)")
    parser.add_argument("--precision", default="fp32", help="fp32 or bf16")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="where the JSON goes (default: bench/results/judges.json)")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    pandalm, llmfao = (read_ballots(given.data / f"{name}.jsonl.gz") for name in ("pandalm", "llmfao"))
    fitted, judged = split_by_prompt(pandalm.ballots, 0.5, seed=0)
    sets = {"PandaLM": some(judged, given.pairs[0]), "LLMFAO": some(llmfao.ballots, given.pairs[1])}
    with tempfile.TemporaryDirectory() as folder:
        judges, info = open_judges(given.judge_model, fitted, given.precision, Path(folder))
        found = {name: measure_all(ballots, judges) for name, ballots in sets.items()}
    for name, rows in found.items():
        show_rows(name, sets[name], rows)
    record = {
        "machine": describe_machine(),
        "model": Path(given.judge_model).name,
        "precision": given.precision,
        "judges": {kind(judge): {**judge.identity} for judge in judges},
        "reward": info,
        "sets": {
            name: {"pairs": len(ballots), "prompts": len({b.prompt for b in ballots}), "rows": found[name]}
            for name, ballots in sets.items()
        },
    }
    write_results("judges", json.loads(json.dumps(record)), given.out)


def some(ballots: Sequence[Ballot], count: int) -> list[Ballot]:
    """The first ballots in the order of a hash of their ids."""
    ordered = sorted(ballots, key=lambda ballot: hashlib.sha256(ballot.id.encode()).hexdigest())
    return ordered[: count or None]


def open_judges(
    model: str, fitted: Sequence[Ballot], precision: str, folder: Path
) -> tuple[list[PairJudge], dict[str, Any]]:
    """The judges, and how the reward model was fitted."""
    start = time.perf_counter()
    run = train("reward", fitted, model=model, out=folder / "reward", kind="frozen", precision=precision)
    bench = open_workbench(model, precision=precision)
    path = run.folder / "reward"
    reward = load_reward(path, bench.base, layout=bench.layout, precision=precision, device=bench.base.device)
    info = {**run.record["reward"], "votes": run.record["data"], "seconds": round(time.perf_counter() - start)}
    return [
        Caller("length", "the longer response is better", longer),
        judge_by_reward(reward, bench, micro_tokens=1024),
        open_local(model, wording=read_wording(), precision=precision),
    ], info


def kind(judge: PairJudge) -> str:
    """Its name without the place that it lies in."""
    return judge.name.partition(":")[0]


def longer(prompt: object, a: str, b: str) -> float:
    return 0.5 if len(a) == len(b) else float(len(a) > len(b))


def measure_all(ballots: Sequence[Ballot], judges: Sequence[PairJudge]) -> list[dict[str, Any]]:
    """A row for every judge, and first for one person against the others."""
    rows = [{"judge": "one person", "against_others": clustered(ballots, person_against_others(ballots))}]
    contests = [Contest(ballot.prompt, *ballot.responses, *ballot.ended) for ballot in ballots]
    for judge in judges:
        start = time.perf_counter()
        opinions = judge.prefer(contests)
        seconds = time.perf_counter() - start
        rows.append({"judge": kind(judge), **measure(ballots, opinions), "seconds": round(seconds, 1)})
    return rows


def measure(ballots: Sequence[Ballot], opinions: Sequence[Opinion]) -> dict[str, Any]:
    """How a judge's opinions agree with people, with themselves, and with length; over the pairs with a verdict."""
    pairs = [(b, o) for b, o in zip(ballots, opinions, strict=True) if o.preference is not None]
    kept = [ballot for ballot, _ in pairs]
    sides = [np.sign(opinion.preference - 0.5) for _, opinion in pairs]  # type: ignore[operator]
    first = [np.sign(opinion.first - 0.5) for _, opinion in pairs]  # type: ignore[operator]
    second = [np.sign(opinion.second - 0.5) for _, opinion in pairs]  # type: ignore[operator]
    slots = [half(f, 1) / 2 + half(-s, 1) / 2 for f, s in zip(first, second, strict=True)]
    lengths = [np.sign(len(b.responses[0]) - len(b.responses[1])) for b in kept]
    decided = [half(side, length) for side, length in zip(sides, lengths, strict=True) if side and length]
    others = [
        None if (said := leave_one_out(ballot)) is None else float(np.mean([half(side, rest) for _, rest in said]))
        for ballot, side in zip(kept, sides, strict=True)
    ]
    return {
        "accuracy": clustered(kept, [half(s, majority(votes(b))) for b, s in zip(kept, sides, strict=True)]),
        "against_others": clustered(kept, others),
        "flips": float(np.mean([f * s < 0 for f, s in zip(first, second, strict=True)])),
        "first_slot": float(np.mean(slots)),
        "longer": float(np.mean(decided)) if decided else None,
        "missing": dict(Counter(o.why for o in opinions if o.preference is None)),
    }


def half(side: float, other: float) -> float:
    """1 if both are on one side, 0 if on different ones; a tie on either counts half."""
    return float((1 + side * other) / 2)


def votes(ballot: Ballot) -> list[float]:
    return [VOTE.get(said.winner, 0.5) for said in ballot.annotations]


def majority(said: Sequence[float]) -> float:
    """The side that most votes are on: 1 for a, −1 for b, 0 for a tie."""
    return float(np.sign(np.mean(said) - 0.5))


def leave_one_out(ballot: Ballot) -> list[tuple[float, float]] | None:
    """The side of each person and that of all others; None with fewer than three people."""
    said = votes(ballot)
    if len(said) < 3:
        return None
    return [(np.sign(one - 0.5), majority(said[:i] + said[i + 1 :])) for i, one in enumerate(said)]


def person_against_others(ballots: Sequence[Ballot]) -> list[float | None]:
    pairs = [leave_one_out(ballot) for ballot in ballots]
    return [None if said is None else float(np.mean([half(one, rest) for one, rest in said])) for said in pairs]


def clustered(ballots: Sequence[Ballot], values: Sequence[float | None]) -> dict[str, Any]:
    """The mean, and its standard error with prompts as clusters where there are enough of them."""
    known = [(value, str(ballot.prompt)) for ballot, value in zip(ballots, values, strict=True) if value is not None]
    estimate = clustered_mean([value for value, _ in known], [prompt for _, prompt in known])
    few = len({prompt for _, prompt in known}) < FEW
    return {"value": estimate.value, "se": None if few else estimate.se, "pairs": len(known)}


def show_rows(name: str, ballots: Sequence[Ballot], rows: Sequence[dict[str, Any]]) -> None:
    prompts = len({ballot.prompt for ballot in ballots})
    title = f"{name}: {len(ballots)} pairs, {prompts} prompts" + (", too few for an interval" * (prompts < FEW))
    columns = ["judge", "the majority", "a majority without one", "flips", "first slot", "longer", "missing", "seconds"]
    cells = [
        [
            row["judge"],
            *(said(row.get(key)) for key in ("accuracy", "against_others")),
            *(share_of(row.get(key)) for key in ("flips", "first_slot", "longer")),
            ", ".join(f"{count} {why}" for why, count in row["missing"].items()) or "0" if "missing" in row else "",
            str(row.get("seconds", "")),
        ]
        for row in rows
    ]
    show(title, columns, cells)


def share_of(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def said(estimate: dict[str, Any] | None) -> str:
    if estimate is None:
        return ""
    value, se = estimate["value"], estimate["se"]
    return f"{value:.3f}" if se is None else f"{number(value, se)} ± {number(se, se)}"


if __name__ == "__main__":
    main()
