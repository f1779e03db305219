"""Self-generated text: training text that a model generates, for self-distillation of its heads.

Heads draft for a trunk. So they should learn the trunk's predictions, on text that the trunk itself
generates. The recipe's `head_targets trunk` does the first half: heads learn the probabilities of
the trunk instead of the next tokens of the text. This file does the second half. The model
continues prompts from its training text at temperature 1, up to its context length, but at most
MAX_LENGTH tokens, many texts at once (decode/batched/), and the heads are trained on the result,
usually with `freeze_trunk`. FastMTP (arXiv 2509.18362) does the same, and EAGLE trains on a fixed
data set that the target generated. Speculative decoding does not change the distribution of the
samples.

Texts that run in a loop are left out, unless most texts of the model do.

The text is kept in the run folder as ordinary text files, and a resumed run reads it again.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from tqdm import tqdm

from minimtp.backend import numpy as np
from minimtp.decode.batch import row_seed
from minimtp.decode.batched.texts import GeneratedText, TextRequest, generate_texts
from minimtp.decode.sampling.params import SamplingParams
from minimtp.errors import UserError
from minimtp.files import FileKind, new_folder, write_text
from minimtp.machine import available_cores
from minimtp.model.loaded import LoadedModel
from minimtp.training.data.corpus import Corpus

FOLDER = "self-generated"
MAX_LENGTH = 512  # tokens per text; many short texts are more varied than a few long ones
PROMPT_SHARE = 8  # a prompt is one eighth of a text
MIN_DISTINCT = 0.35  # of the 4-grams
MIN_KEPT = 0.25  # of the new tokens; if fewer are without loops, loops are what the model writes
MARK = ".minimtp-text"  # shows that minimtp made the folder
TEXT = FileKind("a generated text")
FILE_SIZE = 1 << 16  # characters
TOKENS_AT_ONCE = 1 << 16  # new tokens in memory before their text is written


def generate_training_text(
    loaded: LoadedModel, corpus: Corpus, out: str | Path, tokens: int, seed: int
) -> Path:
    """Generate at least `tokens` tokens into a folder below `out`, and return that folder.

    corpus: its training part provides the prompts.

    The same model, corpus and seed generate the same text. The folder of an
    earlier attempt is replaced.

    Raises UserError if `tokens` is not positive, if the corpus is too short for a prompt, or if the
    folder cannot be written.
    """
    if tokens < 1:
        raise UserError(f"self_generated must be at least 1 token, not {tokens}")
    length = min(loaded.config.context_length, MAX_LENGTH)
    prompt_length = max(1, length // PROMPT_SHARE)
    if len(corpus.train) <= prompt_length:
        raise UserError(
            f"{corpus.name} is too short: a prompt needs {prompt_length + 1} tokens, but there are "
            f"{len(corpus.train)} to train on: give more text with --corpus"
        )
    final = Path(out, FOLDER)
    texts = _Texts(loaded, corpus, length, prompt_length, seed)
    generated, pending, files = 0, "", 0
    with (
        new_folder(final, MARK) as folder,
        tqdm(total=tokens, unit="tok", unit_scale=True, desc=FOLDER, disable=None) as bar,
    ):
        while generated < tokens:
            found, count = texts.next(min(tokens - generated, TOKENS_AT_ONCE), bar.update)
            generated += count
            for text in found:
                pending += text + "\n"
                if len(pending) >= FILE_SIZE or (text is found[-1] and generated >= tokens):
                    write_text(folder / f"{files:05}.txt", pending, TEXT)
                    pending, files = "", files + 1
    return final


class _Texts:
    """The texts of a seed, one after another."""

    def __init__(
        self, loaded: LoadedModel, corpus: Corpus, length: int, prompt_length: int, seed: int
    ) -> None:
        self._loaded, self._source, self._seed = loaded, corpus.train, seed
        self._length, self._prompt_length = length, prompt_length
        self._places, self._number = np.random.default_rng(seed), 0
        self._generated = self._kept = 0  # new tokens of all texts, and of those without loops

    def next(self, tokens: int, advance: Callable[[int], object]) -> tuple[list[str], int]:
        """Return texts, each a prompt and its continuation, with about so many new tokens, and the
        number of these. advance: receives the numbers of new tokens meanwhile.
        """
        new = self._length + 1 - self._prompt_length
        requests = [self._request(new) for _ in range(-(-tokens // new))]
        found = generate_texts(self._loaded, requests, threads=available_cores(), advance=advance)
        pairs = list(zip(requests, found, strict=True))
        kept = [pair for pair in pairs if not is_repetitive(pair[1].tokens)]
        self._generated += _count(pairs)
        self._kept += _count(kept)
        if self._kept < MIN_KEPT * self._generated:
            kept = pairs
        decode = self._loaded.tokenizer.decode
        texts = [_readable(decode([*request.prompt, *text.tokens])) for request, text in kept]
        return texts, _count(kept)

    def _request(self, new_tokens: int) -> TextRequest:
        start = int(self._places.integers(len(self._source) - self._prompt_length))
        prompt = self._source[start : start + self._prompt_length].tolist()
        self._number += 1
        return TextRequest(
            prompt, new_tokens, SamplingParams(1.0), row_seed(self._seed, self._number - 1)
        )


def _count(pairs: Sequence[tuple[TextRequest, GeneratedText]]) -> int:
    return sum(len(text.tokens) for _, text in pairs)


def is_repetitive(tokens: Sequence[int]) -> bool:
    """Return whether a text runs in a loop: fewer than 35 % of its 4-grams are distinct.

    Small models fall into loops. Heads that learn from them predict loops.
    """
    grams = [tuple(tokens[i : i + 4]) for i in range(len(tokens) - 3)]
    return len(set(grams)) < MIN_DISTINCT * len(grams)


def _readable(text: str) -> str:
    """Remove the control characters that would make the file look binary."""
    return "".join(letter for letter in text if letter.isprintable() or letter in "\n\t")
