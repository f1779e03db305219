"""Self-generated text: training text that a model generates, for self-distillation of its heads.

Heads draft for a trunk. So they should learn the trunk's predictions, on text that the trunk itself
generates. The recipe's `head_targets trunk` does the first half: heads learn the probabilities of
the trunk instead of the next tokens of the text. This file does the second half. The model
continues prompts from its training text at temperature 1, up to its context length, but at most
MAX_LENGTH tokens, and the heads
are trained on the result, usually with `freeze_trunk`. FastMTP (arXiv 2509.18362) does the same,
and EAGLE trains on a fixed data set that the target generated. Speculative decoding does not change
the distribution of the samples.

The text is kept in the run folder as ordinary text files, and a resumed run reads it again.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from minimtp.backend import numpy as np
from minimtp.decode.batch import row_seed
from minimtp.decode.decoder import Decoder
from minimtp.decode.sampling.params import SamplingParams
from minimtp.errors import UserError
from minimtp.files import FileKind, new_folder, write_text
from minimtp.model.loaded import LoadedModel
from minimtp.training.data.corpus import Corpus

FOLDER = "self-generated"
MAX_LENGTH = 2048  # tokens per text; many short texts are more varied than a few long ones
PROMPT_SHARE = 8  # a prompt is one eighth of a text
MIN_DISTINCT = 0.35  # of the 4-grams
MARK = ".minimtp-text"  # shows that minimtp made the folder
TEXT = FileKind("a generated text")
FILE_SIZE = 1 << 16  # characters


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
    generated, pending, files = 0, "", 0
    with (
        new_folder(final, MARK) as folder,
        tqdm(total=tokens, unit="tok", unit_scale=True, desc=FOLDER, disable=None) as bar,
    ):
        for text, count in _texts(loaded, corpus, length, prompt_length, seed):
            generated += count
            pending += text + "\n"
            bar.update(count)
            finished = generated >= tokens
            if len(pending) >= FILE_SIZE or finished:
                write_text(folder / f"{files:05}.txt", pending, TEXT)
                pending, files = "", files + 1
            if finished:
                break
    return final


def _texts(
    loaded: LoadedModel, corpus: Corpus, length: int, prompt_length: int, seed: int
) -> Iterator[tuple[str, int]]:
    """Yield texts without end: (a prompt and its continuation, number of generated tokens)."""
    decoder = Decoder(loaded, context_length=length)
    places = np.random.default_rng(seed)
    number = 0
    while True:
        start = int(places.integers(len(corpus.train) - prompt_length))
        generation = decoder.generate(
            corpus.train[start : start + prompt_length],
            max_new_tokens=length,
            sampling=SamplingParams(1.0),
            seed=row_seed(seed, number),
        )
        count = len(list(generation))
        yield _readable(loaded.tokenizer.decode(generation.tokens)), count
        number += 1


def is_repetitive(tokens: Sequence[int]) -> bool:
    """Return whether a text runs in a loop: fewer than 35 % of its 4-grams are distinct.

    Small models fall into loops. Heads that learn from them predict loops.
    """
    grams = [tuple(tokens[i : i + 4]) for i in range(len(tokens) - 3)]
    return len(set(grams)) < MIN_DISTINCT * len(grams)


def _readable(text: str) -> str:
    """Remove the control characters that would make the file look binary."""
    return "".join(letter for letter in text if letter.isprintable() or letter in "\n\t")
