"""Several texts side by side, each exactly what it would be alone.

Every row has a cache, a drafter, an acceptance, a draft length and an end of its own, and noise of its own: that of its number,
by `row_seed`. Rows take turns, a round each. So row r of a batch is, token for token, the text of `generate` with the seed
`row_seed(seed, r)`, whoever its neighbours are, and whether there are any.

What that gives up: a pass is over one row's tokens, so the weights are read once for each row and not once for all. On a
processor whose cache holds the weights, or for drafts of many tokens, that costs little; where one pass over all rows would be
nearly free (a large model on a GPU), the whole batch takes as long as its rows one after another. In return there is no
padding, no row waits for the longest one, and nothing has to be proved again: each row is the one decoding loop.
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
    """The seed of a batch's row: row 0 has the batch's own, the others one mixed from both numbers."""
    return (
        seed
        if row == 0
        else int(np.random.SeedSequence([seed, row]).generate_state(1, np.uint64)[0])
    )


class Batch:
    """Texts being written in turns: iterate over `rounds()`, or over (row, token).

    rows: the generations, by row; each has its `tokens`, `reason` and `statistics`.
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
        """(row, round) of the rounds that are still to come: one of each unfinished row in turn."""
        return self._rounds

    def _run(self) -> Iterator[tuple[int, Round]]:
        unfinished = {row: generation.rounds() for row, generation in enumerate(self.rows)}
        while unfinished:
            for row, rounds in list(unfinished.items()):
                yield row, next(rounds)
                if self.rows[row].reason is not None:
                    del unfinished[row]


def generate_batch(
    target: Target,
    drafter: Drafter | None,
    prompts: Iterable[Iterable[int]],
    *,
    seed: int = 0,
    make_policy: Callable[[Target], DraftPolicy | None] = lambda target: None,
    **options: object,
) -> Batch:
    """Continue each of the prompts as `generate` would, with the same options, in turns.

    make_lengths: called once a row with the row's target, for who chooses its draft lengths.
    Raises UserError where there is no prompt, and for what `generate` refuses.
    """
    prompts = list(prompts)
    if not prompts:
        raise UserError("there is no prompt: give at least one text to continue")
    rows = []
    for row, prompt in enumerate(prompts):
        own_target, own_drafter = (
            (target, drafter) if row == 0 else (target.clone(), drafter and drafter.clone())
        )
        policy = make_policy(own_target)
        rows.append(
            start_generation(
                own_target, own_drafter, prompt, seed=row_seed(seed, row), policy=policy, **options
            )
        )
    return Batch(rows)
