"""The branch row written out token by token: the definition that layouts and attention are held to."""

from dataclasses import dataclass

from hypothesis import strategies as st

from preftune.data.tokens import TokenBallot


@dataclass(frozen=True)
class Place:
    """One token of the branch row: its ballot, its branch (0: the prompt), its position and itself."""

    ballot: int
    branch: int
    position: int
    token: int


def places(ballots: list[TokenBallot]) -> list[Place]:
    row = []
    for i, ballot in enumerate(ballots):
        row += [Place(i, 0, t, token) for t, token in enumerate(ballot.prompt)]
        for k, response in enumerate(ballot.responses, 1):
            row += [Place(i, k, len(ballot.prompt) + t, token) for t, token in enumerate(response)]
    return row


def sees(query: Place, key: Place, window: int | None) -> bool:
    """A token sees itself and what came before it in its own sequence: its prompt and its own branch."""
    if query.ballot != key.ballot or key.branch not in (0, query.branch) or key.position > query.position:
        return False
    return window is None or query.position - key.position < window


def predictions(ballots: list[TokenBallot]) -> list[tuple[int, int, list[int]]]:
    """(branch over all ballots, token, its context) for every response token, in order."""
    found, number = [], 0
    for ballot in ballots:
        for response in ballot.responses:
            for t, token in enumerate(response):
                found.append((number, token, [*ballot.prompt, *response[:t]]))
            number += 1
    return found


def ids(size: int) -> st.SearchStrategy[tuple[int, ...]]:
    return st.lists(st.integers(0, 9), min_size=1, max_size=size).map(tuple)


token_ballots = st.builds(
    TokenBallot, prompt=ids(6), responses=st.lists(ids(4), min_size=1, max_size=4).map(tuple), votes=st.just(())
)
batches = st.lists(token_ballots, min_size=1, max_size=4)
