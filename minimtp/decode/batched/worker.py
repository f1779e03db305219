"""One thread of batched generation.

A worker has a number of places. Each holds a running text; when it ends, the next request takes its
place, and its prompt is read in the same passes in which the other texts go on. So passes stay
full until the requests run out.
"""

from collections import deque
from collections.abc import Callable, Collection

from minimtp.backend import numpy as np
from minimtp.backend import to_numpy
from minimtp.decode.batched.passes import BatchedRunner, Pending
from minimtp.decode.batched.request import GeneratedText, TextRequest
from minimtp.decode.sampling.params import NOT_FINITE
from minimtp.errors import UserError

MAX_ROWS = 64  # tokens of a pass, unless there are more texts
MAX_PROMPT_ROWS = 32  # of one prompt


class RunningText:
    """A text, and what the model has not read of it.

    number: of the request. position: tokens that the model has read.
    """

    def __init__(self, number: int, request: TextRequest) -> None:
        self.number, self.request = number, request
        self.tokens: list[int] = []
        self.position = 0
        self._prompt = request.prompt
        self._random = np.random.default_rng(request.seed).random

    def pending(self, most: int) -> list[int]:
        """Return the next tokens for the model, at most so many."""
        if self.position >= len(self._prompt):
            return self.tokens[-1:]
        return list(self._prompt[self.position : self.position + most])

    @property
    def reads_prompt(self) -> bool:
        return self.position < len(self._prompt)

    def point(self) -> float:
        """Return the random number of the next token."""
        return 0.0 if self.request.sampling.greedy else self._random()


class Worker:
    """Generates the texts of a queue of (number, request), which other workers may share.

    finished: receives the number of a request and its text. advance: receives the number of new
    tokens after each pass.
    """

    def __init__(
        self,
        runner: BatchedRunner,
        queue: deque[tuple[int, TextRequest]],
        end_tokens: Collection[int],
        finished: Callable[[int, GeneratedText], None],
        advance: Callable[[int], object],
    ) -> None:
        self._runner, self._queue, self._ends = runner, queue, frozenset(end_tokens)
        self._finished, self._advance = finished, advance
        self._texts: dict[int, RunningText] = {}  # by place
        self._context = runner.runner.context_length

    def run(self, stopped: Callable[[], bool] = lambda: False) -> None:
        """Generate until the queue is empty and every text has ended, or `stopped()`."""
        while not stopped() and self._fill():
            self._pass()

    def _fill(self) -> bool:
        """Put requests into the free places. Return whether there is any text."""
        for place in range(self._runner.places):
            if place not in self._texts:
                try:
                    number, request = self._queue.popleft()
                except IndexError:
                    break
                self._texts[place] = RunningText(number, request)
        return bool(self._texts)

    def _pass(self) -> None:
        pending, ready, room = [], [], MAX_ROWS
        # Texts that have read their prompt come first: they get a token from every pass.
        for place, text in sorted(self._texts.items(), key=lambda item: item[1].reads_prompt):
            tokens = text.pending(min(room, MAX_PROMPT_ROWS) if text.reads_prompt else 1)
            if not tokens:
                continue
            pending.append(Pending(tokens, place, text.position))
            room = max(0, room - len(tokens))
            text.position += len(tokens)
            if not text.reads_prompt:
                ready.append(len(pending) - 1)
        logits = self._runner.forward(pending)
        if not ready:
            return
        if len(ready) < len(pending):
            logits = logits[np.array(ready)]
        places = [pending[m].place for m in ready]
        for place, token in zip(places, self._choose(logits, places).tolist(), strict=True):
            self._append(place, token)
        self._advance(len(ready))

    def _choose(self, logits: np.ndarray, places: list[int]) -> np.ndarray:
        """Return the next token of the texts at these places, (M,) int64."""
        texts = [self._texts[place] for place in places]
        temperatures = []
        for row, text in enumerate(texts):
            sampling = text.request.sampling
            if sampling.truncates and not sampling.greedy:
                logits[row] = sampling.scores(logits[row : row + 1])[0]
                temperatures.append(1.0)
            else:
                temperatures.append(0.0 if sampling.greedy else sampling.temperature)
        kernel = self._runner.runner.kernel
        xp = self._runner.xp
        points = xp.asarray([text.point() for text in texts])
        tokens = to_numpy(kernel.sample(logits, xp.asarray(temperatures, logits.dtype), points))
        if tokens.min() < 0:
            raise UserError(NOT_FINITE)
        return tokens

    def _append(self, place: int, token: int) -> None:
        text = self._texts[place]
        text.tokens.append(token)
        ended = token in self._ends
        full = len(text.tokens) == text.request.max_new_tokens or text.position == self._context
        if ended or full:
            del self._texts[place]
            self._finished(text.number, GeneratedText(text.tokens, ended))
