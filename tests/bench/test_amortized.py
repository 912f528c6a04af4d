"""What the benchmark of amortized IPO makes of a study."""

from dataclasses import replace
from pathlib import Path

from synthetic_study import write_synthetic_study

from bench.amortized import STOPPED, describe, of_seeds, stopped_early
from preftune.evidence.conclusion import verdict
from preftune.evidence.results import read_study


def test_a_run_that_is_stopped_early_ends_at_its_lowest_validation_loss(tmp_path: Path) -> None:
    study = read_study(write_synthetic_study(tmp_path, betas=(0.1, 0.5), seeds=(0, 1)))
    best = {run: 8 * (1 + i % 4) for i, run in enumerate(sorted({row.run for row in study.trained()}))}
    rows = [replace(row, validation=0.6 + abs(row.step - best.get(row.run, 0)) / 100) for row in study.results]
    told = stopped_early(replace(study, results=tuple(rows)))
    ends = {row.run: row.step for row in told.finals() if row.arm == STOPPED}
    assert ends == {f"{run}-stopped": step for run, step in best.items() if run.startswith("ipo")}
    for row in told.finals():
        if row.arm == STOPPED:
            own = next(r for r in rows if f"{r.run}-stopped" == row.run and r.step == row.step)
            assert (row.gain, row.kl, row.beta, row.seed) == (own.gain, own.kl, own.beta, own.seed)
    pairs = {frozenset((pair.a, pair.b)) for pair in verdict(told).comparisons}
    assert pairs == {frozenset(p) for p in (("dpo", "ipo"), ("dpo", STOPPED), ("ipo", STOPPED))}
    record = describe(told)
    assert len(record["comparisons"]) + len(record["not_compared"]) == 3
    assert not told.unfinished()


def test_a_seed_that_is_left_out_leaves_no_trace(tmp_path: Path) -> None:
    study = read_study(write_synthetic_study(tmp_path, betas=(0.1,), seeds=(0, 1)))
    one = of_seeds(study, [0])
    assert {row.seed for row in one.trained()} == {0} and one.info["seeds"] == [0]
    assert len(one.results) < len(study.results) and one.results[0] == study.results[0]
    assert {sample.run for sample in one.samples} == {row.run for row in one.results}
    assert of_seeds(study, [0, 1]) == study
