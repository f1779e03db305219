"""Generate many texts, for data and not for a reader: plain sampling, without drafts.

Each text depends on its own request only: prompt, sampling, seed and length. The other texts, and
the number of threads, do not change it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from minimtp.decode.decoder import Decoder, DraftConfig
from minimtp.decode.sampling.params import GREEDY, SamplingParams
from minimtp.model.loaded import LoadedModel


@dataclass(frozen=True)
class TextRequest:
    """A text to generate: up to `max_new_tokens` tokens after `prompt`, token ids."""

    prompt: Sequence[int]
    max_new_tokens: int
    sampling: SamplingParams = GREEDY
    seed: int = 0


class GeneratedText(NamedTuple):
    """The new tokens of a text. ended: the last one is an end token of the model."""

    tokens: list[int]
    ended: bool


def generate_texts(
    loaded: LoadedModel,
    requests: Sequence[TextRequest],
    *,
    threads: int = 1,
    advance: Callable[[int], object] = lambda tokens: None,
) -> list[GeneratedText]:
    """Generate the requested texts, in the order of the requests.

    A text ends at an end token of the tokenizer, after `max_new_tokens`, or where the model's
    context ends.
    advance: called with the number of new tokens, for a progress bar.
    """
    longest = max((len(r.prompt) + r.max_new_tokens for r in requests), default=1)
    decoder = Decoder(
        loaded, DraftConfig("none", rule="token"), min(longest, loaded.config.context_length)
    )
    found = []
    for request in requests:
        generation = decoder.generate(
            request.prompt,
            max_new_tokens=request.max_new_tokens,
            sampling=request.sampling,
            seed=request.seed,
        )
        tokens = list(generation)
        advance(len(tokens))
        found.append(GeneratedText(tokens, generation.reason == "stop"))
    return found
