"""Batched generation. Each sequence is identical to the one generated alone.

Every row has its own cache, drafter, draft length, end and random numbers (`row_seed`). The rows
alternate, one round each. A cache takes memory, so at most MAX_RUNNING rows alternate, and when one
ends the next one begins. So row r of a batch is, token for token, the text that `start_generation`
gives with the seed `row_seed(seed, r)`, whatever the other rows are.

The disadvantage: a forward pass covers the tokens of one row, so the weights are read once per row
and not once for all rows. This costs little time if the processor's cache holds the weights, or if
drafts are long. With a large model on a GPU it costs much: one pass over all rows would take little
longer than a pass over one row, but the batch takes as long as its rows one after another. In
return there is no padding, no row waits for the longest one, and exactness needs no new proof: each
row is the ordinary decoding loop.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from minimtp.backend import numpy as np
from minimtp.decode.generation import Generation
from minimtp.decode.options import GenerationOptions, checked_prompt, start_text
from minimtp.decode.round import Round
from minimtp.decode.states import DecodingStates
from minimtp.errors import UserError, naming

MAX_RUNNING = 16  # rows that have a cache at the same time


def row_seed(seed: int, row: int) -> int:
    """Return one row's seed: `seed` for row 0, derived from `seed` and `row` for the others."""
    if row == 0:
        return seed
    return int(np.random.SeedSequence([seed, row]).generate_state(1, np.uint64)[0])


class Batch:
    """Several running generations: iterate over it for (row, token), or over `rounds()`.

    rows: the generations; each has its `tokens`, `reason` and `statistics`.
    """

    def __init__(self, rows: Sequence[Generation]) -> None:
        self.rows = list(rows)
        self._waiting = deque(range(len(self.rows)))
        self._turns: deque[int] = deque()  # the rows that have begun and not ended
        self._unread: Iterator[tuple[int, int]] = iter(())

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return self

    def __next__(self) -> tuple[int, int]:
        for row_and_token in self._unread:
            return row_and_token
        row, round_ = next(self.rounds())
        self._unread = iter([(row, token) for token in round_.tokens])
        return next(self._unread)

    def rounds(self) -> Iterator[tuple[int, Round]]:
        """Yield the remaining (row, round). At most MAX_RUNNING rows alternate."""
        while self._turns or self._waiting:
            begins = self._waiting and len(self._turns) < MAX_RUNNING
            row = (self._waiting if begins else self._turns).popleft()
            round_ = self.rows[row].next_round()
            if round_ is not None:
                self._turns.append(row)
                yield row, round_


def start_batch(
    states: DecodingStates, prompts: Iterable[Iterable[int]], options: GenerationOptions
) -> Batch:
    """Start one generation per prompt, with these options and the row's seed.

    Raises UserError if there is no prompt, or if `start_text` rejects a prompt, which the
    message counts from 1, or an option.
    """
    prompts = list(prompts)
    if not prompts:
        raise UserError("prompts are empty: give at least one text to continue")
    tokens = []
    for row, prompt in enumerate(prompts):
        with naming(f"prompt {row + 1} of {len(prompts)}"):
            tokens.append(checked_prompt(prompt, states.target))
    return Batch(
        [
            start_text(states, prompt, replace(options, seed=row_seed(options.seed, row)))
            for row, prompt in enumerate(tokens)
        ]
    )
