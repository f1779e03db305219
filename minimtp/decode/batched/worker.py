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

    number: of the request. tokens: those after the prompt. unread: the tokens that come next for
    the model. position: tokens that the model has read.
    """

    def __init__(self, number: int, request: TextRequest) -> None:
        self.number, self.request = number, request
        self.tokens: list[int] = []
        self.first_answer: int | None = None
        self.unread = list(request.prompt)
        self.position = 0
        self._answer = 0  # where in `tokens` the model's last answer begins
        self._last = request.max_new_tokens  # the length of `tokens` at which the text ends
        self._random = np.random.default_rng(request.seed).random

    def read(self, limit: int) -> list[int]:
        """Return at most `limit` tokens, the next ones for the model, which then count as read."""
        tokens, self.unread = self.unread[:limit], self.unread[limit:]
        self.position += len(tokens)
        return tokens

    def append(self, token: int, is_end: bool, context: int) -> GeneratedText | None:
        """Append the model's token. Return the text if it is complete.

        context: tokens that the model can read.
        """
        self.tokens.append(token)
        self.unread = [token]
        if is_end and self.request.follows(self.tokens, self.first_answer is not None):
            following = list(self.request.follow_up[1:])
            if self.position + 1 + len(following) <= context:
                self.first_answer = len(self.tokens)
                self.tokens += following
                self.unread += following
                self._answer = len(self.tokens)
                self._last = self._answer + self.request.max_new_tokens
                return None
        is_full = len(self.tokens) == self._last or self.position == context
        if is_end or is_full or self.request.loops(self.tokens[self._answer :]):
            return GeneratedText(self.tokens, is_end, self.first_answer)
        return None

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
        # Texts with a single unread token come first: they get a token from every pass.
        for place, text in sorted(self._texts.items(), key=lambda item: len(item[1].unread) > 1):
            start = text.position
            tokens = text.read(min(room, MAX_PROMPT_ROWS) if len(text.unread) > 1 else 1)
            if not tokens:
                continue
            pending.append(Pending(tokens, place, start))
            room = max(0, room - len(tokens))
            if not text.unread:
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
        complete = text.append(token, token in self._ends, self._context)
        if complete is not None:
            del self._texts[place]
            self._finished(text.number, complete)
