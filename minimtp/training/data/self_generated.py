"""Self-distillation's text: what a model writes itself.

Heads draft for a trunk, so what they should know is what the trunk will say, at the places where it gets to by its own choices.
The first half of that is the recipe's `head_targets trunk`, which teaches heads the trunk's probabilities instead of the text's
next tokens; this file is the other half. The model continues beginnings of its training text at temperature 1, to its
context's end, and the heads are trained on that, usually with `freeze_trunk` (as in FastMTP, 2509.18362, and EAGLE's fixed
data set made by the target). The samples are of the model's own law, drafted or not.

The text is kept in the run folder, in files of the usual kind: a resumed run reads it again.
"""

import os
import shutil
from pathlib import Path

from tqdm import tqdm

from minimtp.backend import numpy as np
from minimtp.decode.batch import row_seed
from minimtp.decode.decoder import Decoder
from minimtp.decode.options import start_generation
from minimtp.decode.sampling import SamplingParams
from minimtp.errors import UserError
from minimtp.files import make_folder, write_text
from minimtp.training.data.corpus import Corpus
from minimtp.training.run.folder import LoadedRun

FOLDER = "self-generated"
BEGINNING = 8  # of a text's context, one part in so many is given, the rest is the model's own
FILE_BYTES = 1 << 16


def generate_training_text(
    run: LoadedRun, corpus: Corpus, out: str | Path, tokens: int, seed: int
) -> Path:
    """Write at least `tokens` tokens of the run's own text into a folder below `out`, and return it.

    corpus: whose training part gives the beginnings. The same run, corpus and seed write the same text. What an interruption
    left unfinished is written anew. Raises UserError for a number that is not positive, for a corpus that is too short to begin
    with, and for a folder that cannot be written.
    """
    if tokens < 1:
        raise UserError(f"self_generated must be at least 1 token, not {tokens}")
    context_length = run.recipe.context_length
    beginning = max(1, context_length // BEGINNING)
    if len(corpus.train) <= beginning:
        raise UserError(
            f"{corpus.name} is too short: a beginning needs {beginning + 1} tokens, and it has {len(corpus.train)} to train "
            "on: give more text"
        )
    decoder = Decoder(run)
    places = np.random.default_rng(seed)
    partial = make_folder(Path(out, f"{FOLDER}.partial"))
    shutil.rmtree(partial)
    make_folder(partial)
    written, pending, files, text = 0, "", 0, 0
    with tqdm(total=tokens, unit="tok", unit_scale=True, desc=FOLDER, disable=None) as bar:
        while written < tokens:
            start = int(places.integers(len(corpus.train) - beginning))
            generation = start_generation(
                decoder.target, decoder.drafter, corpus.train[start : start + beginning].astype(np.int64), max_new_tokens=context_length,
                sampling=SamplingParams(1.0), seed=row_seed(seed, text), stop_tokens=[run.tokenizer.end_token], rule="shared-noise",
            )  # fmt: skip
            new = len(list(generation))
            pending += _readable(run.tokenizer.decode(generation.tokens)) + "\n"
            written, text = written + new, text + 1
            bar.update(new)
            if len(pending) >= FILE_BYTES or written >= tokens:
                write_text(partial / f"{files:05}.txt", pending)
                pending, files = "", files + 1
    final = Path(out, FOLDER)
    if final.exists():
        shutil.rmtree(final)
    os.replace(partial, final)
    return final


def _readable(text: str) -> str:
    """Without the control characters that make a file look binary; a model may write anything."""
    return "".join(letter for letter in text if letter.isprintable() or letter in "\n\t")
