"""`quantize`: a trained run's weights packed into blocks of a few bits, as a run folder of its own.

A run trained with quantization is packed on the grids it was trained on: its outputs do not change. Any other run is rounded
after training by one of the methods of `minimtp.quant.ptq`, which costs quality; that is what quantization-aware training is
measured against. The methods that look at text see windows spread evenly over the training part of the run's own corpus, or
of another one, never the held-out part that a model is judged by.
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tqdm import tqdm

from minimtp.backend import array_module
from minimtp.backend import numpy as np
from minimtp.engine.tensor import Array
from minimtp.errors import UserError
from minimtp.quant.packed import stored_arrays
from minimtp.quant.ptq import METHODS, METHODS_WITH_TEXT, quantize_after_training
from minimtp.quant.qat import QuantizationSpec, convert
from minimtp.training import checkpoint
from minimtp.training.build import quantization_spec
from minimtp.training.checkpoint import Checkpoint, LoadedRun, load
from minimtp.training.corpus import Corpus, open_corpus

CALIBRATION_TOKENS = 16_384
TOKENS_AT_ONCE = 2_048


def quantize(
    run: LoadedRun | str | Path,
    out: str | Path,
    grid: str | None = None,
    *,
    method: str | None = None,
    calibration: Corpus | Sequence[str | Path] = (),
) -> LoadedRun:
    """Write the packed model to the folder `out` and return it loaded.

    grid: of all matrices but the token table and the output, which get q8_0; by default q4_0.
    method: one of METHODS, by default rtn.
    A run trained with quantization has its own grids, and takes no other grid and no method.
    calibration: a Corpus, or what `open_corpus` takes, for the METHODS_WITH_TEXT; left out, the run's own.
    Raises UserError for a run that cannot be packed so, or an `out` that exists already.
    """
    if not isinstance(run, LoadedRun):
        run = load(run)
    if checkpoint.exists(out):
        raise UserError(f"{out} already holds a checkpoint: choose another --out")
    if run.packed is not None:
        raise UserError(f"{run.folder} is quantized already: give the run it was made from")
    if calibration and method not in METHODS_WITH_TEXT:
        raise UserError(f"method {method or 'rtn'} does not look at any text: leave the calibration out, or use gptq or awq")
    trained = run.recipe.quantization == "qat"
    spec = quantization_spec(run.recipe) if trained else QuantizationSpec(weights=grid or "q4_0", heads=grid or "q4_0")
    if trained and grid not in (None, spec.weights):
        raise UserError(f"{run.folder} was trained for {spec.weights} weights: leave --grid out to keep them exactly")
    state: dict[str, object] = {"made_from": str(run.folder)}
    if trained and run.fake_quantized:
        if method is not None:
            raise UserError(f"{run.folder} was trained through its rounding: leave --method out to keep its weights exactly")
        model = convert(run.model)
    else:
        method = method or "rtn"
        batches: list[Array] = []
        if method in METHODS_WITH_TEXT:
            if not isinstance(calibration, Corpus):
                calibration = open_corpus(calibration or run.corpus.get("sources", ()), run.tokenizer)
            xp = array_module(run.model.parameters()[0].data)
            windows = calibration_batches(calibration, run.recipe.context, run.model.depth)
            batches = [xp.asarray(batch) for batch in windows]
            state["calibration"] = calibration.to_dict()
        state["method"] = method
        with tqdm(desc=method, unit="matrix", disable=None, file=sys.stderr) as bar:
            model = quantize_after_training(run.model, spec, method, batches, lambda name: bar.update())
    checkpoint.write(out, Checkpoint(
        recipe=run.recipe, parameters=stored_arrays(model), step=run.step, tokens=run.tokens, corpus=run.corpus,
        tokenizer=run.tokenizer.to_dict(), packed=asdict(spec), state=state,
    ))  # fmt: skip
    return load(out)


def calibration_batches(corpus: Corpus, context: int, depth: int, tokens: int = CALIBRATION_TOKENS) -> list[np.ndarray]:
    """About `tokens` training tokens as windows spread evenly over the text: a list of (B, context + 1 + depth) int64.

    Raises UserError for a text that is shorter than one window.
    """
    width = context + 1 + depth
    room = len(corpus.train) - width
    if room < 0:
        raise UserError(f"{corpus.name} is too short to calibrate with: a window needs {width:,} tokens, give more text")
    count = max(1, min(tokens, len(corpus.train)) // context)
    starts = np.linspace(0, room, count).astype(int)
    windows = corpus.train[starts[:, None] + np.arange(width)].astype(np.int64)
    return np.array_split(windows, max(1, count * context // TOKENS_AT_ONCE))


__all__ = ["METHODS", "calibration_batches", "quantize"]
