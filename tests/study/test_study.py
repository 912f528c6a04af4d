"""A study end to end on a tiny model: the same votes for all, resumable, able to grow, and everything counted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from studies import QUICK, WORDS, make_ballots

from preftune.data.ballots import Ballot, Message, Vote
from preftune.errors import Interrupted, UserError
from preftune.evidence.results import REFERENCE, read_results, read_samples
from preftune.evidence.rows import write_json
from preftune.study import asking, runs
from preftune.study.folders import find_policy
from preftune.study.naming import run_name
from preftune.study.policies import evaluate_folders, sample_folders
from preftune.study.study import Study, compare
from preftune.training.arms import parse_arm, split_arms


@pytest.fixture(scope="module")
def whole(model: str, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """An uninterrupted study."""
    return compare("dpo,ipo,sft", make_ballots(), model=model, out=tmp_path_factory.mktemp("study") / "s", **QUICK)


def rows_of(folder: Path) -> dict[tuple[str, int], dict[str, object]]:
    return {(row.run, row.step): vars(row) for row in read_results(folder / "results.jsonl")}


def test_every_run_is_evaluated_at_every_checkpoint_and_the_reference_once(whole: Study) -> None:
    runs = {(row.arm, row.beta) for row in whole.results}
    expected = {("dpo", 0.1), ("dpo", 0.5), ("ipo", 0.1), ("ipo", 0.5), ("sft", None), (REFERENCE, None)}
    assert runs == expected
    assert len(whole.results) == 1 + 2 * 5
    assert not whole.study.unfinished()


def test_the_reference_is_at_zero_in_everything(whole: Study) -> None:
    row = next(row for row in whole.results if row.run == REFERENCE)
    assert (row.kl, row.gain, row.win_rate, row.accuracy) == (0.0, 0.0, 0.5, 0.5)
    assert row.log_loss == pytest.approx(0.6931471805599453)


def test_training_moves_every_policy_towards_what_was_preferred(whole: Study) -> None:
    finals = [row for row in whole.study.finals() if row.method in ("dpo", "ipo")]
    assert sum(row.accuracy for row in finals) / len(finals) > 0.6 and all(row.kl > 0.01 for row in finals)
    assert max(row.gain / row.gain_se for row in finals) > 3


def test_what_margins_predict_of_held_out_votes_agrees_with_the_accuracy(whole: Study) -> None:
    calibration = whole.study.info["calibration"]
    finals = {row.run: row for row in whole.study.finals()}
    assert calibration.keys() == {run for run, row in finals.items() if row.method != "sft"}
    for run, bins in calibration.items():
        votes = sum(row["votes"] for row in bins)
        assert votes == whole.study.info["data"]["votes_eval"]
        agrees = sum(row["votes"] * row["observed"] for row in bins) / votes
        assert agrees == pytest.approx(finals[run].accuracy)


def test_all_policies_meet_the_same_prompts(whole: Study) -> None:
    samples = read_samples(whole.folder / "samples.jsonl")
    asked = {}
    for sample in samples:
        asked.setdefault((sample.run, sample.step), []).append((sample.prompt_id, sample.prompt, sample.sample))
    assert len({tuple(prompts) for prompts in asked.values()}) == 1


def test_pairwise_arms_see_the_same_votes_each_run_in_its_own_order(whole: Study) -> None:
    metrics = whole.study.metrics
    tokens = {run: [row["tokens"] for row in rows] for run, rows in metrics.items() if not run.startswith("sft")}
    assert len(tokens) == 4 == len({tuple(steps) for steps in tokens.values()})
    assert len({sum(steps) for steps in tokens.values()}) == 1


def test_doing_it_again_trains_nothing_and_changes_no_row(whole: Study, model: str, monkeypatch) -> None:
    before = (whole.folder / "results.jsonl").read_bytes()
    monkeypatch.setattr(runs, "train_any", lambda *args, **kwargs: pytest.fail("trained again"))
    compare("dpo,ipo,sft", make_ballots(), model=model, out=whole.folder, **QUICK)
    assert (whole.folder / "results.jsonl").read_bytes() == before


def test_an_interrupted_study_ends_in_the_same_rows(whole: Study, model: str, tmp_path: Path, monkeypatch) -> None:
    real, calls = asking.Evaluator.evaluate, []

    def stop_at_the_fifth(self, *args):
        calls.append(args)
        if len(calls) == 5:
            raise Interrupted("enough")
        return real(self, *args)

    monkeypatch.setattr(asking.Evaluator, "evaluate", stop_at_the_fifth)
    with pytest.raises(Interrupted):
        compare("dpo,ipo,sft", make_ballots(), model=model, out=tmp_path / "s", **QUICK)
    monkeypatch.setattr(asking.Evaluator, "evaluate", real)
    assert Study(tmp_path / "s").report().exists(), "an unfinished study has a report too"
    resumed = compare("dpo,ipo,sft", make_ballots(), model=model, out=tmp_path / "s", **QUICK)
    assert rows_of(resumed.folder) == rows_of(whole.folder)


def test_a_study_grows_by_a_beta_and_refuses_another_budget(model: str, tmp_path: Path) -> None:
    small = QUICK | {"betas": [0.1], "epochs": 1.0, "checkpoints": 1}
    compare("dpo", make_ballots(), model=model, out=tmp_path / "s", **small)
    first = rows_of(tmp_path / "s")
    grown = compare("dpo", make_ballots(), model=model, out=tmp_path / "s", **small | {"betas": [0.5]})
    assert grown.study.info["betas"] == [0.1, 0.5]
    assert first.items() <= rows_of(tmp_path / "s").items()
    with pytest.raises(UserError, match="--lr"):
        compare("dpo", make_ballots(), model=model, out=tmp_path / "s", **small | {"lr": 1e-3})
    with pytest.raises(UserError, match="data"):
        compare("dpo", make_ballots(seed=1), model=model, out=tmp_path / "s", **small)


def runs_of(study: Study) -> set[tuple[str, float | None]]:
    return {(row.arm, row.beta) for row in study.study.trained()}


def test_every_arm_may_have_its_own_betas_and_grows_by_them(model: str, tmp_path: Path) -> None:
    small = QUICK | {"epochs": 1.0, "checkpoints": 1, "samples": 0, "model": model, "out": tmp_path / "s"}
    own = {"dpo": [0.5, 0.1], "ipo[reduction=mean]": [0.02]}
    study = compare("dpo,ipo[ reduction=mean ],sft", make_ballots(), **small | {"betas": own})
    first = {("dpo", 0.5), ("dpo", 0.1), ("ipo[reduction=mean]", 0.02), ("sft", None)}
    assert runs_of(study) == first == {(arm, beta) for arm, beta, *_ in study.study.expected()}
    assert not study.study.unfinished()
    info = json.loads((tmp_path / "s" / "study.json").read_text(encoding="utf-8"))
    assert info["betas"] == [0.02, 0.1, 0.5] and info["arm_betas"] == own
    assert list(info["targets"]) == ["ipo[reduction=mean] @ beta=0.02"]
    grown = compare("ipo[reduction=mean]", make_ballots(), **small | {"betas": [0.04]})
    assert runs_of(grown) == first | {("ipo[reduction=mean]", 0.04)} and not grown.study.unfinished()
    assert grown.study.info["arm_betas"] == own | {"ipo[reduction=mean]": [0.02, 0.04]}


def test_a_folder_in_which_arms_had_no_betas_of_their_own_grows_on(model: str, tmp_path: Path) -> None:
    small = QUICK | {"epochs": 1.0, "checkpoints": 1, "samples": 0, "model": model, "out": tmp_path / "s"}
    compare("dpo", make_ballots(), **small | {"betas": [0.1]})
    info = json.loads((tmp_path / "s" / "study.json").read_text(encoding="utf-8"))
    del info["arm_betas"]
    write_json(tmp_path / "s" / "study.json", info | {"arms": ["dpo", "ipo"], "betas": [0.5, 0.1]})
    grown = compare("dpo", make_ballots(), **small | {"betas": {"dpo": [0.2]}}).study
    assert grown.info["arm_betas"] == {"dpo": [0.5, 0.1, 0.2], "ipo": [0.5, 0.1]}
    assert {(arm, beta) for arm, beta, *_ in grown.unfinished()} == {("dpo", 0.5), ("ipo", 0.5), ("ipo", 0.1)}


@pytest.mark.parametrize(
    ("betas", "message"),
    [
        ({"dpo": [0.1]}, "--betas: ipo has none"),
        ({"dpo": [0.1], "ipo": [0.1], "ppo": [0.1]}, "ppo is no arm with a β; those compared are dpo, ipo"),
        ({"dpo": [0.1], "ipo": [0.1], "sft": [0.1]}, "sft is no arm with a β"),
        ({"dpo": [0.1], "ipo": []}, "--betas: give at least one"),
        ({"dpo": [0.1], "ipo": [0.1, 0.1]}, "given twice"),
        ({"dpo": [-0.1], "ipo": [0.1]}, "--betas -0.1: must be greater than 0"),
        ({"dpo": [0.1], "ipoo": [0.1]}, "unknown method 'ipoo'; did you mean 'ipo'"),
        ([], "--betas: give at least one"),
    ],
)
def test_betas_that_fit_no_arm_are_refused(betas: object, message: str, model: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        compare("dpo,ipo,sft", make_ballots(), model=model, out=tmp_path / "s", **QUICK | {"betas": betas})
    assert message in str(caught.value) and not (tmp_path / "s").exists()


def test_what_no_arm_reads_may_change_while_a_study_grows(model: str, tmp_path: Path) -> None:
    """How the work is cut may change for all of them, and an option of a method that is not there yet is new."""
    out, small = tmp_path / "s", QUICK | {"betas": [0.1], "epochs": 1.0, "checkpoints": 1}
    before = compare("sft", make_ballots(), model=model, out=out, **small)
    settings = before.study.info["settings"]
    assert settings["micro_tokens"] == 1024 and "flip_rate" not in settings
    other = {"micro_tokens": 30, "grad_checkpointing": True, "flip_rate": 0.1}
    grown = compare("sft,dpo", make_ballots(), model=model, out=out, **small | other)
    settings = grown.study.info["settings"]
    assert {name: settings[name] for name in other} == other
    record = json.loads((out / "runs" / "dpo-beta0.1-seed0" / "run.json").read_text())
    assert (record["settings"]["micro_tokens"], record["settings"]["flip_rate"]) == (30, 0.1)
    again = compare("sft", make_ballots(), model=model, out=out, **small | {"micro_tokens": 500})
    assert again.study.info["settings"]["flip_rate"] == 0.1
    later = small | other | {"micro_tokens": 500}
    with pytest.raises(UserError, match=r"another --flip-rate \(0\.1, now 0\.2\)"):
        compare("sft,dpo", make_ballots(), model=model, out=out, **later | {"flip_rate": 0.2})
    with pytest.raises(UserError, match="another --reduction"):  # accuracy is measured with it
        compare("sft,dpo", make_ballots(), model=model, out=out, **later | {"reduction": "mean"})
    with pytest.raises(UserError, match="another --samples"):
        compare("sft,dpo", make_ballots(), model=model, out=out, **later | {"samples": 1})
    with pytest.raises(UserError, match=r"--flip-rate: is an option of dpo.*none of them is compared"):
        compare("sft", make_ballots(), model=model, out=out, **later)


def test_a_study_of_before_methods_had_their_own_options_goes_on(model: str, tmp_path: Path) -> None:
    """Its settings hold the options of every method; those that its arms read must be the same."""
    out, small = tmp_path / "s", QUICK | {"betas": [0.1], "epochs": 1.0, "checkpoints": 1}
    compare("dpo", make_ballots(), model=model, out=out, **small)
    info = json.loads((out / "study.json").read_text())
    info["settings"] |= {"rollouts": 7, "head": "score", "whiten": True}
    write_json(out / "study.json", info)
    grown = compare("dpo,sft", make_ballots(), model=model, out=out, **small)
    assert {row.arm for row in grown.study.trained()} == {"dpo", "sft"}
    with pytest.raises(UserError, match="another --reduction"):
        compare("dpo", make_ballots(), model=model, out=out, **small | {"reduction": "mean"})


def test_freed_memory_goes_back_between_the_runs(model: str, tmp_path: Path, monkeypatch) -> None:
    done: list[str] = []
    real = runs.Runner.run
    monkeypatch.setattr(runs.Runner, "run", lambda self, *args: (real(self, *args), done.append("run")))
    monkeypatch.setattr("preftune.study.runs.return_freed_memory", lambda: done.append("returned"))
    options = QUICK | {"epochs": 1.0, "checkpoints": 1, "samples": 0}
    compare("sft,dpo", make_ballots(), model=model, out=tmp_path / "s", **options)
    assert done == ["run", "returned"] * 3


def test_an_arm_with_lora_leaves_the_base_as_it_was(model: str, tmp_path: Path) -> None:
    small = QUICK | {"betas": [0.5], "epochs": 1.0, "checkpoints": 1}
    alone = compare("ipo", make_ballots(), model=model, out=tmp_path / "alone", **small)
    after = compare("ipo[lora=2],ipo", make_ballots(), model=model, out=tmp_path / "after", **small)
    pick = [row for row in after.results if row.arm == "ipo"]
    assert [vars(row) for row in pick] == [vars(row) for row in alone.results if row.arm == "ipo"]
    assert (tmp_path / "after" / "runs" / "ipo-lora-2-beta0.5-seed0" / "adapter").is_dir()


def test_without_gold_the_axis_is_held_out_accuracy(model: str, tmp_path: Path) -> None:
    options = QUICK | {"judge": None, "betas": [0.1], "epochs": 1.0}
    study = compare("dpo", make_ballots(), model=model, out=tmp_path / "s", **options)
    assert study.verdict.axis == "accuracy" and "no quality is claimed" in study.verdict.sentence
    assert all(row.reward is None for row in study.results)


def test_what_is_skipped_and_shortened_is_counted(model: str, tmp_path: Path) -> None:
    long = Ballot("a " * 60, ("a b", "c d"), (Vote(0, 1, 1.0),))
    same = Ballot("a b", ("c " * 40, "c " * 41), (Vote(0, 1, 1.0),))
    options = QUICK | {"betas": [0.1], "epochs": 1.0, "checkpoints": 1, "eval_ballots": make_ballots(8, seed=6)}
    study = compare("dpo", [*make_ballots(), long, same], model=model, out=tmp_path / "s", **options)
    data = study.study.info["data"]
    assert any("same tokens" in reason and count == 1 for reason, count in data["skipped"].items())
    assert any(reason.startswith("prompt: beginning cut") for reason in data["shortened"])
    assert data["rows"] == len(make_ballots()) + 2 == data["ballots_train"] + sum(data["skipped"].values())


def test_everything_in_the_report_comes_from_the_json_files(whole: Study) -> None:
    page = whole.report().read_text(encoding="utf-8")
    whole.report()
    assert (whole.folder / "report.html").read_text(encoding="utf-8") == page
    assert "dpo" in page and "ipo" in page and "http://" not in page.replace("http://www.w3.org", "")


def test_arms_are_cut_at_commas_outside_brackets_and_named_alike() -> None:
    assert split_arms("dpo, ipo[reduction=mean,lr=1e-5] ,sft") == ["dpo", "ipo[reduction=mean,lr=1e-5]", "sft"]
    arm = parse_arm("ipo[ reduction = mean, label-smoothing=0.1 ]")
    assert arm.name == "ipo[label_smoothing=0.1,reduction=mean]"
    assert run_name(arm, 0.05, 3) == "ipo-label-smoothing-0.1-reduction-mean-beta0.05-seed3"
    for wrong in ("ipo[epochs=3]", "ipo[reduction]", "ipo[reduction=max]", "ipo[", "ppoo"):
        with pytest.raises(UserError, match="--"):
            parse_arm(wrong)


def test_trained_policies_are_evaluated_and_sampled_from_their_folders(
    whole: Study, model: str, tmp_path: Path, capsys
) -> None:
    runs = [str(whole.folder / "runs" / name) for name in ("dpo-beta0.1-seed0", "ipo-beta0.5-seed0")]
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"a {word}"}) + "\n" for word in WORDS))
    rows = evaluate_folders(runs, prompts=str(prompts), samples=2, max_new_tokens=6, out=str(tmp_path / "e"))
    assert [row.run for row in rows] == [REFERENCE, "dpo-beta0.1-seed0", "ipo-beta0.5-seed0"]
    assert rows[0].kl == 0 and rows[1].kl > rows[2].kl > 0
    assert len(read_samples(tmp_path / "e" / "samples.jsonl")) == 3 * 2 * len(WORDS)
    sample_folders(runs, prompt="a b", max_new_tokens=4)
    assert "dpo-beta0.1-seed0" in capsys.readouterr().out
    with pytest.raises(UserError, match="no trained policy"):
        find_policy(str(tmp_path))
    with pytest.raises(UserError, match="--reference"):
        evaluate_folders([model], prompts=str(prompts))


def test_chats_are_trained_and_sampled_through_the_template(tmp_path: Path, model: str) -> None:
    chats = [
        Ballot((Message("user", ballot.prompt), Message("assistant", "a"), Message("user", "b")), *rest)
        for ballot in make_ballots()
        for rest in [(ballot.responses, ballot.votes)]
    ]
    options = QUICK | {"betas": [0.1], "epochs": 1.0, "checkpoints": 1, "max_length": 40}
    study = compare("dpo", chats, model=model, out=tmp_path / "s", **options)
    record = json.loads((tmp_path / "s" / "runs" / "dpo-beta0.1-seed0" / "run.json").read_text())
    assert record["chat"] is True and study.study.finals()[0].kl > 0
