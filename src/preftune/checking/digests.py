"""What is kept of every row: digests of eight bytes, in flat arrays.

48 bytes for a row with one vote: 21 for the prompt, 27 for the vote. Two different texts among a million have the same
digest with a probability of 3·10⁻⁸.
"""

from __future__ import annotations

from array import array

from xxhash import xxh3_64_intdigest

from ..data import Prompt, Vote
from .facts import Counted, counted_votes
from .rows import Seen
from .texts import turns

MOST_SPLITS = 100


SPACE = bytes(range(33))  # and what else controls a line


def digest(text: str) -> int:
    """Eight bytes that stand for a text."""
    return xxh3_64_intdigest(text.encode("utf-8", "surrogatepass"))


def exact(prompt: Prompt) -> int:
    """The digest of a prompt as it is."""
    if isinstance(prompt, str):
        return digest(prompt)
    return digest("".join("\x1e" + "\x1f".join(turn) for turn in prompt))


def loose(prompt: Prompt) -> int:
    """The digest of what a prompt says, whatever its letters' case, its white space, and how it marks its turns."""
    text = prompt if isinstance(prompt, str) else "".join(turns(prompt))
    return xxh3_64_intdigest(text.casefold().encode("utf-8", "surrogatepass").translate(None, SPACE))


class Kept:
    """The arrays: a prompt's digests for every row that has one, and who beat whom for every vote."""

    def __init__(self) -> None:
        self.number = array("I")  # of the row
        self.exact = array("Q")
        self.loose = array("Q")
        self.split = array("B")  # place of the row's split among `splits`
        self.splits: list[str] = []
        self.prompt = array("I")  # place of the vote's prompt in the arrays above
        self.a = array("Q")  # digest of the response
        self.b = array("Q")
        self.sign = array("b")  # 1: a was preferred, −1: b, 0: neither
        self.counts = (array("H"), array("H"), array("H"))  # single votes for a, for b, for neither

    def add(self, seen: Seen) -> None:
        if seen.prompt is None:
            return
        split = seen.row.get("split")
        self.add_prompt(seen.number, seen.prompt, split if isinstance(split, str) else "")
        if ballot := seen.ballot:
            self.add_votes(ballot.responses, ballot.votes, counted_votes(seen.row, ballot))

    def add_prompt(self, number: int, prompt: Prompt, split: str = "") -> None:
        self.number.append(min(number, 2**32 - 1))
        self.exact.append(exact(prompt))
        self.loose.append(loose(prompt))
        if split not in self.splits:
            self.splits = [*self.splits, split][:MOST_SPLITS]
        self.split.append(self.splits.index(split) if split in self.splits else MOST_SPLITS - 1)

    def add_votes(self, responses: tuple[str, ...], votes: tuple[Vote, ...], counts: list[Counted]) -> None:
        """Of the prompt that was added last."""
        digests = [digest(text) for text in responses]
        place = len(self.exact) - 1
        for vote, counted in zip(votes, counts, strict=True):
            self.prompt.append(place)
            self.a.append(digests[vote.a])
            self.b.append(digests[vote.b])
            self.sign.append((vote.p > 0.5) - (vote.p < 0.5))
            for column, count in zip(self.counts, counted, strict=True):
                column.append(count)

    @property
    def bytes(self) -> int:
        """How much memory the arrays take."""
        columns = (
            self.number,
            self.exact,
            self.loose,
            self.split,
            self.prompt,
            self.a,
            self.b,
            self.sign,
            *self.counts,
        )
        return sum(column.itemsize * len(column) for column in columns)
