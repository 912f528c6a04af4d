"""What every policy is asked, the same for all: prompts to answer, ballots to agree with, judges."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from ..data import Ballot, Prompt, TextFormat, TokenBallot, TokenSet, as_text, fit_prompts
from ..errors import UserError
from ..judges import Judge


@dataclass(frozen=True)
class Questions:
    """What every policy of a study is asked: prompts to answer, ballots to agree with, and who judges the answers.

    `prompts` are token ids and `texts` what a person reads; `samples` responses are drawn to each. `judge` gives the
    reward, `others` are second opinions by name. Of a study's prompts, `first` is the number of the first one here.
    """

    prompts: tuple[tuple[int, ...], ...]
    texts: tuple[str, ...]
    ballots: tuple[TokenBallot, ...]
    samples: int = 1
    max_new_tokens: int = 128
    seed: int = 0
    judge: Judge | None = None
    others: Mapping[str, Judge] = field(default_factory=dict)
    first: int = 0
    asked: tuple[Prompt, ...] = ()  # the prompts as they are asked, for those who read them

    def part(self, start: int, stop: int | None = None) -> Questions:
        """The same with some of these prompts, which keep their numbers."""
        kept = slice(start, stop)
        return replace(
            self,
            prompts=self.prompts[kept],
            texts=self.texts[kept],
            asked=self.asked[kept],
            first=self.first + start,
        )


def held_out_prompts(ballots: Sequence[Ballot], limit: int) -> tuple[Prompt, ...]:
    """The distinct prompts of the ballots, at most `limit`, chosen by their content and not by their order."""
    distinct = {hashlib.sha256(repr(ballot.prompt).encode()).digest(): ballot.prompt for ballot in ballots}
    return tuple(distinct[key] for key in sorted(distinct)[:limit])


def make_questions(
    prompts: Sequence[Prompt],
    eval_set: TokenSet,
    form: TextFormat,
    max_length: int,
    samples: int,
    max_new_tokens: int,
    judge: Judge | None,
    others: Mapping[str, Judge],
) -> tuple[Questions, Counter[str]]:
    """What every policy is asked, and how many prompts were left out, or shortened to leave room for the answer, by
    reason."""
    if samples and max_new_tokens >= max_length:
        raise UserError(
            f"--max-new-tokens {max_new_tokens}: must leave room for a prompt within --max-length {max_length}"
        )
    asked, counts = fit_prompts(prompts, form, max_length - max_new_tokens) if samples else ([], Counter())
    if samples and prompts and not asked:
        raise UserError(f"--prompts: none of them can be asked ({'; '.join(counts)})")
    texts = tuple(as_text(prompt) for prompt, _ in asked)
    ids = tuple(ids for _, ids in asked)
    own = tuple(prompt for prompt, _ in asked)
    questions = Questions(ids, texts, eval_set.ballots, samples, max_new_tokens, 0, judge, others, asked=own)
    return questions, Counter({f"evaluation prompts, {reason}": count for reason, count in counts.items()})
