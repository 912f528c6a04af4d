"""The charts: what is drawn is what was measured, in the places that the axes say."""

import itertools
import math
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from report_pages import change, set_info
from synthetic_study import write_synthetic_study

from preftune.errors import UserError
from preftune.evidence import bracket, read_study, verdict
from preftune.evidence.results import read_results
from preftune.report import frontier_image
from preftune.report.calibration import Bin, bins_of, calibration_panels, pooled
from preftune.report.curves import mean_of, smooth, training_panels
from preftune.report.frontier import draw, frontier_panels, scene_of
from preftune.report.looks import looks
from preftune.report.pictures import alone
from preftune.report.svg import Frame, axis_over, dot, frame_of, label, line, root_axis, round_ticks, tick_texts

numbers = st.floats(-1e6, 1e6, allow_nan=False).map(lambda value: round(value, 5))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic_study(tmp_path_factory.mktemp("plain"), prompts=16, seeds=(0, 1))


# --- axes -------------------------------------------------------------------------------------------------------------


@given(values=st.lists(numbers, min_size=1, max_size=8), count=st.integers(3, 8))
def test_a_linear_axis_holds_every_value_and_has_about_so_many_round_ticks(values: list[float], count: int) -> None:
    axis = axis_over("", values, count)
    assert all(-1e-9 <= axis.at(value) <= 1 + 1e-9 for value in values)
    assert count / 2 - 1 <= len(axis.ticks) <= 2 * count + 1
    assert all(-1e-6 <= axis.at(tick) <= 1 + 1e-6 for tick in axis.ticks)
    for tick, words in zip(axis.ticks, tick_texts(axis), strict=True):
        said = float(words.replace("−", "-").replace(",", "").replace("k", "e3"))
        assert said == pytest.approx(tick, abs=1e-6 * (axis.high - axis.low)), "a tick stands where it says"


@given(values=st.lists(st.floats(0, 1e4), min_size=1, max_size=8), count=st.integers(3, 8))
def test_a_root_axis_begins_at_0_and_its_ticks_have_one_digit(values: list[float], count: int) -> None:
    axis = root_axis("", values, count)
    assert axis.at(0) == 0 and all(0 <= axis.at(value) <= 1 for value in values)
    assert axis.at(axis.high / 4) == pytest.approx(0.5)
    assert all(tick == float(f"{tick:.1g}") for tick in axis.ticks) and list(axis.ticks) == sorted(set(axis.ticks))


@given(low=st.floats(-1e3, 1e3), size=st.floats(1e-2, 1e6), count=st.integers(2, 9))
def test_round_ticks_are_multiples_of_their_step(low: float, size: float, count: int) -> None:
    ticks = round_ticks(low, low + size, count)
    assume(len(ticks) > 1)
    step = (ticks[-1] - ticks[0]) / (len(ticks) - 1)
    digit = step / 10 ** math.floor(math.log10(step * 1.0001))
    assert min(abs(digit - whole) for whole in (1, 2, 5)) < 1e-3
    assert all(tick / step == pytest.approx(round(tick / step), abs=1e-3) for tick in ticks)


def test_a_place_lies_between_the_axes_and_up_is_more() -> None:
    frame = Frame(400, 200, axis_over("", [0, 1]), axis_over("", [0, 1]))
    (x, y), (further, higher) = frame.at(0.25, 0.25), frame.at(0.75, 0.75)
    assert frame.left < x < further < 400 - frame.right and frame.top < higher < y < 200 - frame.bottom


@given(text=st.text(max_size=30))
def test_no_text_leaves_its_mark(text: str) -> None:
    for mark in (label((0, 0), text, "note"), dot((0, 0), "circle", "dot", 0, text)):
        element = ET.fromstring(str(mark))
        assert not list(element) and element.tag in ("text", "path")


def test_a_line_is_broken_where_there_is_no_number() -> None:
    drawn = str(line([(0, 0), (1, 1), (2, math.nan), (3, 3), (4, 4)], "line"))
    assert re.findall("[ML]", drawn.split(" d=")[1]) == ["M", "L", "M", "L"]


# --- the frontier -----------------------------------------------------------------------------------------------------


def test_the_frontier_has_every_checkpoint_every_path_and_every_fit(plain: Path) -> None:
    study = read_study(plain)
    answer = verdict(study)
    drawn = ET.fromstring(alone(draw(scene_of(study, answer), 760, 440)))
    classes = [element.get("class") or "" for element in drawn.iter()]
    assert sum("dot" in names.split() for names in classes) == len(study.trained())
    assert sum("end-dot" in names for names in classes) == len(study.finals())
    assert sum("line thin" in names for names in classes) == len(study.finals())
    assert sum("line broad" in names for names in classes) == len(answer.frontiers)
    assert sum("bracket" in names for names in classes) == 2


def test_a_mark_lies_where_its_gain_and_kl_say(plain: Path) -> None:
    study = read_study(plain)
    scene = scene_of(study, verdict(study))
    drawn = ET.fromstring(alone(draw(scene, 760, 440)))
    marks = [e for e in drawn.iter() if e.get("data-tip")]
    found = []
    for mark in marks:
        told = re.search(r"gain (\S+).*KL (\S+)", (mark.get("data-tip") or "").replace("\n", " ").replace("−", "-"))
        place = re.match(r"translate\((\S+) (\S+)\)", mark.get("transform") or "")
        assert told and place
        found.append((math.sqrt(float(told[2])), float(place[1]), float(told[1]), float(place[2])))
    for a, b in itertools.pairwise(found):  # two marks give the scale; all others must agree with it
        if abs(a[0] - b[0]) > 0.5:
            assert (b[1] - a[1]) / (b[0] - a[0]) == pytest.approx(_slope(found, 0, 1), rel=0.03)
    assert _slope(found, 2, 3) < 0 < _slope(found, 0, 1), "more gain is higher, more KL further right"


def _slope(found: list[tuple[float, float, float, float]], value: int, place: int) -> float:
    low, high = min(found, key=lambda f: f[value]), max(found, key=lambda f: f[value])
    return (high[place] - low[place]) / (high[value] - low[value])


def test_brackets_say_where_arms_can_be_compared(plain: Path) -> None:
    answer = verdict(read_study(plain))
    (pair,) = answer.comparisons
    reached = [bracket([point for point in answer.points if point.arm == arm]) for arm in ("dpo", "ipo")]
    assert pair.kl and all(span and span[0] <= pair.kl <= span[1] for span in reached)
    assert bracket([]) is None


def test_a_narrow_screen_has_a_chart_of_its_own(plain: Path) -> None:
    study = read_study(plain)
    (panel,) = frontier_panels(study, verdict(study))
    assert 'viewBox="0 0 760' in panel.wide and panel.narrow is not None and 'viewBox="0 0 380' in panel.narrow


def test_labels_of_ends_do_not_lie_on_each_other(plain: Path) -> None:
    study = read_study(plain)
    drawn = ET.fromstring(alone(draw(scene_of(study, verdict(study)), 760, 440)))
    texts = [e for e in drawn.iter() if (e.get("class") or "").startswith("of-arm")]
    boxes = [(float(e.get("x") or 0), float(e.get("y") or 0), 6 * len(e.text or "")) for e in texts]
    assert len(boxes) >= 3
    for i, (x, y, long) in enumerate(boxes):
        assert all(abs(y - v) >= 11 or x + long <= u or u + other <= x for u, v, other in boxes[:i])


def test_the_picture_stands_alone_with_its_legend(plain: Path, tmp_path: Path) -> None:
    svg = frontier_image(plain, tmp_path / "frontier.svg").read_text(encoding="utf-8")
    for words in ("dpo", "ipo", "KL from the reference", "gain in predicted human rating"):
        assert words in svg
    assert "var(" not in svg and "#0068b3" in svg and ET.fromstring(svg).get("width") == "760"
    assert frontier_image(plain, tmp_path / "frontier.png").read_bytes().startswith(b"\x89PNG")


def test_a_picture_of_another_kind_or_of_no_study_is_refused(plain: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"svg or a \.png"):
        frontier_image(plain, tmp_path / "frontier.jpg")
    with pytest.raises(UserError, match="is no study folder"):
        frontier_image(tmp_path, tmp_path / "frontier.svg")
    assert list(tmp_path.iterdir()) == []


# --- curves -----------------------------------------------------------------------------------------------------------


def test_both_log_ratios_have_one_scale(plain: Path) -> None:
    panels = training_panels(read_study(plain))
    ticks = [re.findall(r'class="tick end"[^>]*>([^<]*)<', panels[name].wide) for name in
             ("log_ratio_preferred", "log_ratio_other")]  # fmt: skip
    assert ticks[0] == ticks[1] != []


def test_long_curves_keep_the_mean_of_what_was_logged(tmp_path: Path) -> None:
    folder = write_synthetic_study(tmp_path, prompts=4, arms=("dpo",), betas=(0.1,), steps=(1000,))
    panel = training_panels(read_study(folder))["margin"]
    faint, strong = (re.search(rf'class="{c} a0"[^>]* d="([^"]*)"', panel.wide) for c in ("line faint", "line"))
    assert faint and strong and faint[1].count("L") == strong[1].count("L") == 59


@given(runs=st.lists(st.lists(numbers, min_size=3, max_size=9), min_size=1, max_size=4))
def test_the_mean_of_runs_of_equal_length_is_their_mean_at_each_step(runs: list[list[float]]) -> None:
    shortest = min(map(len, runs))
    curves = [[(float(i), value) for i, value in enumerate(run[:shortest])] for run in runs]
    for step, value in mean_of(curves):
        assert value == pytest.approx(sum(run[int(step)] for run in runs) / len(runs), abs=1e-6, rel=1e-9)


@given(values=st.lists(numbers, min_size=1, max_size=80))
def test_smoothing_stays_within_the_values_and_keeps_a_constant(values: list[float]) -> None:
    smoothed = [value for _, value in smooth([(float(i), value) for i, value in enumerate(values)])]
    assert all(min(values) - 1e-6 <= value <= max(values) + 1e-6 for value in smoothed)
    assert len(smoothed) == len(values)


def test_calibration_is_drawn_for_every_arm_that_has_it(plain: Path, tmp_path: Path) -> None:
    folder = write_synthetic_study(tmp_path, prompts=4)
    bins = [{"from": 0.5, "to": 0.55, "predicted": 0.52, "observed": 0.6, "votes": 40.0}]
    study = read_study(set_info(folder, calibration={"dpo-0.1-0": bins, "ipo-0.1-0": [{"predicted": "x"}]}))
    (panel,) = calibration_panels(study)
    assert panel.title == "dpo" and "predicted 0.52, observed 0.60\n40 votes" in panel.wide
    assert calibration_panels(read_study(plain)) == []
    assert bins_of([bins[0], {"predicted": math.nan, "observed": 1, "votes": 1}, 7]) == [(0.52, 0.6, 40.0)]


bins = st.builds(Bin, st.floats(0.5, 1), st.floats(0, 1), st.integers(1, 50).map(float))


@given(st.lists(bins, min_size=1, max_size=30))
def test_pooling_bins_keeps_every_vote_and_the_means(found: list[Bin]) -> None:
    together = pooled(found)
    assert len(together) <= 10 and [b.predicted for b in together] == sorted(b.predicted for b in together)
    for i in (0, 1):
        before, after = (sum(b.votes * b[i] for b in group) for group in (found, together))
        assert after == pytest.approx(before)
    assert sum(b.votes for b in together) == sum(b.votes for b in found)


def test_more_than_six_arms_repeat_colours_in_other_shapes(tmp_path: Path) -> None:
    folder = write_synthetic_study(tmp_path, prompts=4, arms=("dpo",), betas=(0.1,))
    names = [f"dpo[lr={i}]" for i in range(12)]
    styles = looks(read_study(set_info(folder, arms=names)))
    assert len({(look.colour, look.shape) for look in styles.values()}) == len(styles) == 13


# --- seen by everybody ------------------------------------------------------------------------------------------------

SIMULATED = {  # Machado, Oliveira & Fernandes 2009, severity 1, on linear RGB
    "normal": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protanopia": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deuteranopia": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
    "tritanopia": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)),
}


def colours(part: str) -> list[str]:
    theme = (Path(__file__).parents[2] / "src/preftune/report/theme.css").read_text(encoding="utf-8")
    light, dark = theme.split("@media")
    return re.findall(r"--arm\d: (#\w+);", light if part == "light" else dark)


def linear(colour: str) -> list[float]:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]


def lab(rgb: list[float]) -> tuple[float, float, float]:
    r, g, b = (min(max(c, 0), 1) for c in rgb)
    xyz = (
        (0.4124 * r + 0.3576 * g + 0.1805 * b) / 0.9505,
        0.2126 * r + 0.7152 * g + 0.0722 * b,
        (0.0193 * r + 0.1192 * g + 0.9505 * b) / 1.089,
    )
    x, y, z = (t ** (1 / 3) if t > 0.008856 else 7.787 * t + 16 / 116 for t in xyz)
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


@pytest.mark.parametrize("part", ["light", "dark"])
@pytest.mark.parametrize("sight", SIMULATED)
def test_four_arms_are_told_apart_by_every_eye_and_more_by_their_shapes_too(part: str, sight: str) -> None:
    mixed = SIMULATED[sight]
    seen = [lab([dot_product(row, linear(colour)) for row in mixed]) for colour in colours(part)]
    assert len(seen) == 6
    assert min(math.dist(a, b) for i, a in enumerate(seen[:4]) for b in seen[:i]) > 15


@pytest.mark.parametrize("part", ["light", "dark"])
def test_arms_stand_out_from_the_ground(part: str) -> None:
    weights = (0.2126, 0.7152, 0.0722)
    ground = dot_product(weights, linear("#ffffff" if part == "light" else "#12161b"))
    for colour in colours(part):
        own = dot_product(weights, linear(colour))
        assert (max(own, ground) + 0.05) / (min(own, ground) + 0.05) >= 4.5, colour  # WCAG 2, of text


def dot_product(a: tuple[float, ...], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def test_a_frame_has_room_for_its_numbers() -> None:
    narrow, wide = (frame_of(400, 200, axis_over("", [0, 1]), axis_over("", [0, top])) for top in (1, 100_000_000))
    assert narrow.left < wide.left


def test_a_run_without_end_is_drawn_at_its_last_checkpoint(tmp_path: Path) -> None:
    folder = write_synthetic_study(tmp_path, prompts=4)
    change(folder, "results.jsonl", read_results, lambda row: replace(row, gain_se=None, kl_se=None))
    study = read_study(set_info(folder, steps={"dpo": 64, "ipo": 64}))
    drawn = draw(scene_of(study, verdict(study)), 760, 440)
    assert drawn.count("end-dot") == 4
