"""Generate many texts, for data and not for a reader: plain sampling, without drafts.

**Problem.** Decoding one text reads all weights for every token. For a thousand texts that is a
thousand times the same weights.

**Idea.** One pass covers the pending tokens of many texts, so the weights are read once for all of
them (continuous batching, as in Orca, Yu et al. 2022, and vLLM). Each text has its own cache, and
attention goes from text to text. There is no padding, and a text that ends makes room for the next.

**A text depends on its own request only**: prompt, sampling, seed and length. With the compiled
kernels the bits of a row do not depend on the other rows, so it is the text that the same request
gives alone, with any number of threads. A greedy text is also that of a `Decoder`. A sampled one is
another sample from the same distribution: the decoder draws one random number for every token of
the vocabulary, which drafter and target can share. Here one per token of the text is enough.

Drafts would not help: they fill a pass that covers one row, and here the passes are full. On a GPU
the texts are generated one after another by a `Decoder`, whose passes are recorded there.
"""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event, Lock

from minimtp.backend import array_module
from minimtp.backend import numpy as np
from minimtp.decode.batch import row_seed
from minimtp.decode.batched.passes import BatchedRunner
from minimtp.decode.batched.request import GeneratedText, TextRequest
from minimtp.decode.batched.worker import Worker
from minimtp.decode.cache import bytes_for
from minimtp.decode.decoder import Decoder
from minimtp.decode.drafters.config import DraftConfig
from minimtp.decode.drafters.deploy import deploy
from minimtp.decode.model_runner import ModelRunner
from minimtp.decode.options import checked_prompt, known_tokens
from minimtp.model.loaded import LoadedModel

MAX_PLACES = 32  # of a thread; more rows would hardly make a pass faster per row
CACHE_BYTES = 2**30  # of all threads
Advance = Callable[[int], object]


class TextGenerator:
    """Generates many texts with one model, which is prepared once.

    kv_cache: number format of the caches on a CPU, as in `ModelRunner`. On a GPU they are those of
    a `Decoder` by default.
    """

    def __init__(self, loaded: LoadedModel, kv_cache: str | None = None) -> None:
        on_cpu = array_module(loaded.model.trunk.final_norm.weight.data) is np
        self._texts = ManyAtOnce(loaded, kv_cache) if on_cpu else OneByOne(loaded)

    def generate(
        self,
        requests: Sequence[TextRequest],
        threads: int = 1,
        advance: Advance = lambda tokens: None,
    ) -> list[GeneratedText]:
        """Generate the requested texts, in the order of the requests.

        A text ends at an end token of the tokenizer, unless its follow-up comes then, after
        `max_new_tokens`, where the model's context ends, or in a loop, if its request says so.
        threads: of the processor. The texts do not depend on it.
        advance: called with the number of new tokens, for a progress bar.

        Raises UserError if a prompt is empty, too long or of another tokenizer, or if the model is
        broken.
        """
        for request in requests:
            checked_prompt(request.prompt, self._texts.target)
            known_tokens(request.follow_up, self._texts.target)  # one that is too long is left out
        return self._texts.generate(requests, threads, advance) if requests else []


class ManyAtOnce:
    """Generates texts on a CPU: a pass covers many of them."""

    def __init__(self, loaded: LoadedModel, kv_cache: str | None) -> None:
        self.target = deploy(loaded.model, kv_cache=kv_cache)[0]
        self._tokenizer = loaded.tokenizer

    def generate(
        self, requests: Sequence[TextRequest], threads: int, advance: Advance
    ) -> list[GeneratedText]:
        runner = self.target
        room = min(max(request.longest for request in requests), runner.context_length)
        places = _places(runner, room, len(requests), threads)
        found: list[GeneratedText | None] = [None] * len(requests)
        queue, lock, stopped = deque(enumerate(requests)), Lock(), Event()

        def count(tokens: int) -> None:
            with lock:
                advance(tokens)

        def work() -> None:
            batched = BatchedRunner(runner, places, room)
            worker = Worker(batched, queue, self._tokenizer.end_tokens, found.__setitem__, count)
            try:
                worker.run(stopped.is_set)
            except BaseException:
                stopped.set()  # the other threads end with their pass
                raise

        if threads == 1:
            work()
            return found
        with ThreadPoolExecutor(threads) as pool:
            try:
                for done in [pool.submit(work) for _ in range(threads)]:
                    done.result()
            finally:  # Ctrl-C arrives here
                stopped.set()
        return found


class OneByOne:
    """Generates texts on a GPU: one after another with a decoder."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._decoder = Decoder(loaded, DraftConfig("none", rule="token"))
        self.target = self._decoder.target

    def generate(
        self, requests: Sequence[TextRequest], threads: int, advance: Advance
    ) -> list[GeneratedText]:
        found = []
        for request in requests:
            tokens, reason = _continued(self._decoder, request, request.prompt, request.seed)
            first_answer, given = None, 0  # given: tokens that the model did not generate
            if reason == "stop" and request.follows(tokens, already=False):
                whole = [*request.prompt, *tokens, *request.follow_up[1:]]
                if len(whole) <= self.target.context_length:
                    first_answer, given = len(tokens), len(request.follow_up) - 1
                    seed = row_seed(request.seed, 1)  # the second answer draws other numbers
                    more, reason = _continued(self._decoder, request, whole, seed)
                    tokens += [*request.follow_up[1:], *more]
            advance(len(tokens) - given)
            found.append(GeneratedText(tokens, reason == "stop", first_answer))
        return found


def _continued(
    decoder: Decoder, request: TextRequest, prompt: Sequence[int], seed: int
) -> tuple[list[int], str]:
    """Return the tokens after a prompt, and why they end."""
    generation = decoder.generate(
        prompt, max_new_tokens=request.max_new_tokens, sampling=request.sampling, seed=seed
    )
    tokens: list[int] = []
    for token in generation:
        tokens.append(token)
        if request.loops(tokens):
            return tokens, "loop"
    return tokens, generation.reason


def _places(runner: ModelRunner, room: int, texts: int, threads: int) -> int:
    """Return the number of texts of one thread at a time: the caches must fit CACHE_BYTES."""
    fitting = CACHE_BYTES // (bytes_for(runner.cache, room) * threads)
    return max(1, min(MAX_PLACES, fitting, -(-texts // threads)))
