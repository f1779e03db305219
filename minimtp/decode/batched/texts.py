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

__all__ = ["GeneratedText", "TextRequest", "generate_texts", "prepare"]

MAX_PLACES = 32  # of a thread; more rows would hardly make a pass faster per row
CACHE_BYTES = 2**30  # of all threads


def prepare(loaded: LoadedModel, kv_cache: str | None = None) -> ModelRunner | Decoder:
    """Prepare a model for `generate_texts`, for callers who generate often.

    kv_cache: number format of the caches on a CPU, as in `ModelRunner`. On a GPU, where texts are
    generated one after another, the result is a decoder.
    """
    if array_module(loaded.model.trunk.final_norm.weight.data) is np:
        return deploy(loaded.model, kv_cache=kv_cache)[0]
    return Decoder(loaded, DraftConfig("none", rule="token"))


def generate_texts(
    loaded: LoadedModel,
    requests: Sequence[TextRequest],
    *,
    prepared: ModelRunner | Decoder | None = None,
    threads: int = 1,
    advance: Callable[[int], object] = lambda tokens: None,
) -> list[GeneratedText]:
    """Generate the requested texts, in the order of the requests.

    A text ends at an end token of the tokenizer, unless its follow-up comes then, after
    `max_new_tokens`, where the model's context ends, or in a loop, if its request says so.
    prepared: the result of `prepare`. None: the model is prepared here.
    threads: of the processor. The texts do not depend on it.
    advance: called with the number of new tokens, for a progress bar.

    Raises UserError if a prompt is empty, too long or of another tokenizer, or if the model is
    broken.
    """
    if not requests:
        return []
    prepared = prepared or prepare(loaded)
    runner = prepared.target if isinstance(prepared, Decoder) else prepared
    for request in requests:
        checked_prompt(request.prompt, runner)
        known_tokens(request.follow_up, runner)  # one that is too long is left out
    if isinstance(prepared, Decoder):
        return _one_by_one(prepared, requests, advance)
    room = min(max(request.longest for request in requests), runner.context_length)
    places = _places(runner, room, len(requests), threads)
    found: list[GeneratedText | None] = [None] * len(requests)
    queue, lock, stopped = deque(enumerate(requests)), Lock(), Event()

    def count(tokens: int) -> None:
        with lock:
            advance(tokens)

    def work() -> None:
        batched = BatchedRunner(runner, places, room)
        worker = Worker(batched, queue, loaded.tokenizer.end_tokens, found.__setitem__, count)
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


def _one_by_one(
    decoder: Decoder, requests: Sequence[TextRequest], advance: Callable[[int], object]
) -> list[GeneratedText]:
    """Generate the requested texts with a decoder."""
    found = []
    for request in requests:
        tokens, reason = _continued(decoder, request, request.prompt, request.seed)
        first_answer, given = None, 0  # given: tokens that the model did not generate
        if reason == "stop" and request.follows(tokens, already=False):
            whole = [*request.prompt, *tokens, *request.follow_up[1:]]
            if len(whole) <= decoder.target.context_length:
                first_answer, given = len(tokens), len(request.follow_up) - 1
                seed = row_seed(request.seed, 1)  # the second answer draws other numbers
                more, reason = _continued(decoder, request, whole, seed)
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
