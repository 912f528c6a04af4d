"""The layouts of a batch, against an oracle that walks over single tokens and knows nothing of tensors."""

from __future__ import annotations

from itertools import pairwise

import torch
from branch_rows import batches, places, predictions, sees
from hypothesis import given
from hypothesis import strategies as st

from preftune.data.branches import BranchBatch, branch_layout, pack, padded_layout
from preftune.data.tokens import TokenBallot
from preftune.data.votes import vote_offsets


@given(batches)
def test_the_branch_row_holds_every_prompt_once_and_positions_go_on_from_its_end(ballots: list[TokenBallot]) -> None:
    batch, row = branch_layout(ballots), places(ballots)
    assert batch.ids_RT.tolist() == [[p.token for p in row]]
    assert batch.positions_RT.tolist() == [[p.position for p in row]]
    assert batch.plan is not None and batch.plan.segment_T.tolist() == [p.branch for p in row]
    assert batch.unique_tokens == len(row) == sum(ballot.size for ballot in ballots)


@given(batches, st.none() | st.integers(1, 8))
def test_a_token_sees_its_prompt_and_its_own_branch_up_to_itself(
    ballots: list[TokenBallot], window: int | None
) -> None:
    plan, row = branch_layout(ballots).plan, places(ballots)
    assert plan is not None
    if window is None:
        assert plan.dense().tolist() == [[sees(q, k, None) for k in row] for q in row]
    for start, middle, stop in plan.spans:
        for first, last in ((start, stop), (start, middle), (middle, stop)):
            wanted = [[sees(q, k, window) for k in row[start:last]] for q in row[first:last]]
            assert plan.visible(start, last, first, window).tolist() == wanted


@given(batches)
def test_the_spans_cut_the_row_into_ballots_and_their_prompts(ballots: list[TokenBallot]) -> None:
    plan = branch_layout(ballots).plan
    assert plan is not None and len(plan.spans) == len(ballots)
    assert plan.spans[0][0] == 0 and all(before[2] == after[0] for before, after in pairwise(plan.spans))
    for (start, middle, stop), ballot in zip(plan.spans, ballots, strict=True):
        assert (middle - start, stop - start) == (len(ballot.prompt), ballot.size)


def read_off(batch: BranchBatch, visible: list[list[bool]]) -> list[tuple[int, int, list[int]]]:
    """What a batch asks of a model: for each prediction its branch, its token, and the tokens its source sees."""
    flat, positions = batch.ids_RT.flatten().tolist(), batch.positions_RT.flatten().tolist()
    found = []
    for source, target, branch in zip(
        batch.source_N.tolist(), batch.target_N.tolist(), batch.branch_N.tolist(), strict=True
    ):
        context = sorted((positions[t], flat[t]) for t in range(len(flat)) if visible[source][t])
        assert [position for position, _ in context] == list(range(len(context)))
        found.append((branch, target, [token for _, token in context]))
    return found


@given(batches)
def test_both_layouts_predict_the_same_tokens_from_the_same_contexts(ballots: list[TokenBallot]) -> None:
    branch, padded, row = branch_layout(ballots), padded_layout(ballots), places(ballots)
    assert read_off(branch, [[sees(q, k, None) for k in row] for q in row]) == predictions(ballots)
    rows, width = padded.ids_RT.shape
    causal = [[q // width == k // width and k <= q for k in range(rows * width)] for q in range(rows * width)]
    assert read_off(padded, causal) == predictions(ballots)


@given(batches)
def test_the_last_place_of_a_response_is_where_its_last_token_stands(ballots: list[TokenBallot]) -> None:
    lengths = [(len(ballot.prompt), len(response)) for ballot in ballots for response in ballot.responses]
    finals = [response[-1] for ballot in ballots for response in ballot.responses]
    for batch in (branch_layout(ballots), padded_layout(ballots)):
        flat, positions = batch.ids_RT.flatten()[batch.last_B], batch.positions_RT.flatten()[batch.last_B]
        assert flat.tolist() == finals
        assert positions.tolist() == [prompt + response - 1 for prompt, response in lengths]
    row = places(ballots)
    ends = [i for i, (p, q) in enumerate(pairwise(row)) if p.branch and (p.ballot, p.branch) != (q.ballot, q.branch)]
    assert [*ends, len(row) - 1] == branch_layout(ballots).last_B.tolist()


@given(batches)
def test_padding_is_told_by_position_and_never_by_the_value_of_a_token(ballots: list[TokenBallot]) -> None:
    padded = padded_layout(ballots)
    assert padded.padding_RT is not None and padded.plan is None
    sequences = [[*b.prompt, *r] for b in ballots for r in b.responses]
    for row, mask, positions, sequence in zip(
        padded.ids_RT.tolist(), padded.padding_RT.tolist(), padded.positions_RT.tolist(), sequences, strict=True
    ):
        real = len(sequence)
        assert (row[:real], mask) == (sequence, [1] * real + [0] * (len(row) - real))
        assert positions[:real] == list(range(real))
    assert padded.unique_tokens == sum(map(len, sequences))


@given(batches)
def test_lengths_and_offsets_number_the_responses_over_the_whole_batch(ballots: list[TokenBallot]) -> None:
    responses = [response for ballot in ballots for response in ballot.responses]
    for batch in (branch_layout(ballots), padded_layout(ballots)):
        assert batch.branches == len(responses)
        assert batch.lengths_B().tolist() == [len(response) for response in responses]
    for ballot, offset in zip(ballots, vote_offsets(ballots), strict=True):
        assert tuple(responses[offset : offset + len(ballot.responses)]) == ballot.responses


sizes = st.lists(st.integers(1, 50), max_size=40)


@given(sizes, st.integers(1, 80))
def test_packing_takes_every_item_once_and_keeps_to_the_budget(sizes: list[int], budget: int) -> None:
    groups = pack(sizes, budget)
    assert sorted(i for group in groups for i in group) == list(range(len(sizes)))
    assert all(group for group in groups)
    for group in groups:
        assert sum(sizes[i] for i in group) <= budget or len(group) == 1


@given(sizes, st.integers(1, 80))
def test_packing_leaves_no_two_groups_that_fit_into_one(sizes: list[int], budget: int) -> None:
    loads = sorted(sum(sizes[i] for i in group) for group in pack(sizes, budget))
    assert len(loads) < 2 or loads[0] + loads[1] > budget


def test_packing_is_a_function_of_the_sizes() -> None:
    assert pack([3, 9, 4, 4, 1], 10) == pack([3, 9, 4, 4, 1], 10) == [[1, 4], [2, 3], [0]]
    assert pack([], 10) == []


def test_a_batch_moves_whole_to_another_device_and_stays_itself_on_its_own() -> None:
    elsewhere = torch.device("meta")
    for layout in (branch_layout, padded_layout):
        batch = layout([TokenBallot((1, 2), ((3,), (4, 5)), ())])
        assert batch.to(torch.device("cpu")) is batch
        moved = batch.to(elsewhere)
        for name, value in vars(batch).items():
            if isinstance(value, torch.Tensor):
                assert (vars(moved)[name].device, vars(moved)[name].shape) == (elsewhere, value.shape)
        assert moved.branches == batch.branches
        if batch.plan is not None and moved.plan is not None:
            assert moved.plan.spans == batch.plan.spans
            assert moved.plan.visible(0, 5, 0, None).shape == (5, 5)
            assert moved.plan.visible(0, 5, 0, None).device == elsewhere
