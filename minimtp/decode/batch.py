"""Batched generation. Each sequence is identical to the one generated alone.

Every row has its own cache, drafter, draft length, end and random numbers (`row_seed`). The rows
alternate, one round each. So row r of a batch is, token for token, the text that `start_generation`
gives with the seed `row_seed(seed, r)`, whatever the other rows are.

The disadvantage: a forward pass covers the tokens of one row, so the weights are read once per row
and not once for all rows. This costs little time if the processor's cache holds the weights, or if
drafts are long. With a large model on a GPU it costs much: one pass over all rows would take little
longer than a pass over one row, but the batch takes as long as its rows one after another. In
return there is no padding, no row waits for the longest one, and exactness needs no new proof: each
row is the ordinary decoding loop.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

from minimtp.backend import numpy as np
from minimtp.decode.drafters.drafter import Drafter
from minimtp.decode.generation import Generation
from minimtp.decode.options import start_generation
from minimtp.decode.policy.plan import DraftPolicy
from minimtp.decode.round import Round
from minimtp.decode.target import Target
from minimtp.errors import UserError


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
        self._rounds = self._run()
        self._stream = ((row, token) for row, round_ in self._rounds for token in round_.tokens)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return self

    def __next__(self) -> tuple[int, int]:
        return next(self._stream)

    def rounds(self) -> Iterator[tuple[int, Round]]:
        """Return the iterator over the remaining (row, round). Unfinished rows alternate."""
        return self._rounds

    def _run(self) -> Iterator[tuple[int, Round]]:
        unfinished = {row: generation.rounds() for row, generation in enumerate(self.rows)}
        while unfinished:
            for row, rounds in list(unfinished.items()):
                yield row, next(rounds)
                if self.rows[row].reason is not None:
                    del unfinished[row]


def _no_policy(target: Target) -> None:
    return None


def start_batch(
    target: Target,
    drafter: Drafter | None,
    prompts: Iterable[Iterable[int]],
    *,
    seed: int = 0,
    make_policy: Callable[[Target], DraftPolicy | None] = _no_policy,
    **options: object,
) -> Batch:
    """Start one generation per prompt, with the options of `start_generation`.

    make_policy: returns the draft policy of a row. Called once per row with the row's target.
    Raises UserError if there is no prompt, or if `start_generation` rejects a prompt or an option.
    """
    prompts = list(prompts)
    if not prompts:
        raise UserError("there is no prompt: give at least one text to continue")
    rows = []
    for row, prompt in enumerate(prompts):
        first = row == 0
        row_target = target if first else target.clone()
        row_drafter = drafter if first or drafter is None else drafter.clone()
        generation = start_generation(
            row_target,
            row_drafter,
            prompt,
            seed=row_seed(seed, row),
            policy=make_policy(row_target),
            **options,
        )
        rows.append(generation)
    return Batch(rows)
