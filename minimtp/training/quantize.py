"""`quantize`: a trained run's weights packed into blocks of a few bits, as a run folder of its own.

A run trained with quantization is packed on the grids it was trained on: its outputs do not change. Any other run is rounded
after training by one of the methods of `minimtp.quant.ptq.methods`, which costs quality; that is what quantization-aware training is
measured against. The methods that look at text see windows spread evenly over the training part of the run's own corpus, or
of another one, never the held-out part that a model is judged by.

**Prediction heads.** How far a head's weights are from what they were says little about its drafts: heads rounded to 4 bits
are reported from unharmed to hardly ever accepted. So with the head grid "measured" acceptance is counted on that text, before
and after, and the heads get the cheapest grid that costs none of them more than a hundredth of its drafts.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from tqdm import tqdm

from minimtp.backend import Array, array_module, to_numpy
from minimtp.backend import numpy as np
from minimtp.errors import UserError
from minimtp.model.loss import evaluate_losses
from minimtp.quant.grids.registry import F16
from minimtp.quant.packed import stored_arrays
from minimtp.quant.ptq.methods import METHODS_WITH_TEXT, quantize_after_training
from minimtp.quant.qat.modules import QuantizationSpec, convert
from minimtp.training import checkpoint
from minimtp.training.build import Model, quantization_spec
from minimtp.training.checkpoint import Checkpoint, LoadedRun, load
from minimtp.training.data.corpus import Corpus, open_corpus
from minimtp.training.evaluate import dead_heads, teacher_forced_acceptance

CALIBRATION_TOKENS = 16_384
TOKENS_AT_ONCE = 2_048
MEASURED, FINEST = "measured", "q8_0"
MOST_LOST = 0.01  # of acceptance, at any depth


def quantize(
    run: LoadedRun | str | Path,
    out: str | Path,
    grid: str | None = None,
    *,
    method: str | None = None,
    head_grid: str | None = None,
    calibration: Corpus | Sequence[str | Path] = (),
    report: Callable[[str], None] = lambda line: None,
) -> LoadedRun:
    """Write the packed model to the folder `out` and return it loaded.

    grid: of all matrices but the token table and the output, which get q8_0 (f16 beside f16); by default q4_0.
    method: one of METHODS, by default rtn. head_grid: of the prediction heads, by default `grid`; "measured" tries that, then
    q8_0.
    A run trained with quantization has its own grids, and takes no other grid and no method.
    calibration: a Corpus, or what `open_corpus` takes, for what looks at text; left out, the run's own. report: receives lines
    for people: what was measured of the heads, and a warning for each whose drafts are hardly ever accepted.
    Raises UserError for a run that cannot be packed so, or an `out` that exists already.
    """
    if not isinstance(run, LoadedRun):
        run = load(run)
    if checkpoint.exists(out):
        raise UserError(f"{out} already holds a checkpoint: choose another --out")
    if run.packed is not None:
        raise UserError(f"{run.folder} is quantized already: give the run it was made from")
    looks_at_text = method in METHODS_WITH_TEXT or head_grid == MEASURED
    if calibration and not looks_at_text:
        raise UserError(
            f"method {method or 'rtn'} does not look at any text: leave the calibration out, or use gptq or awq"
        )
    if head_grid is not None and not run.model.depth:
        raise UserError(f"{run.folder} has no prediction heads: leave --head-grid out")
    trained = run.recipe.quantization == "qat"
    if trained:
        spec = quantization_spec(run.recipe)
    else:
        table = {"embedding": F16.name} if grid == F16.name else {}
        spec = QuantizationSpec(weights=grid or "q4_0", heads=grid or "q4_0", **table)
    if trained and grid not in (None, spec.weights):
        raise UserError(
            f"{run.folder} was trained for {spec.weights} weights: leave --grid out to keep them exactly"
        )
    if trained and head_grid not in (None, spec.heads):
        raise UserError(
            f"{run.folder} was trained for {spec.heads} heads: leave --head-grid out to keep them exactly"
        )
    state: dict[str, object] = {"made_from": str(run.folder)}
    if trained and run.fake_quantized:
        if method is not None:
            raise UserError(
                f"{run.folder} was trained through its rounding: leave --method out to keep its weights exactly"
            )
        model = convert(run.model)
    else:
        method = method or "rtn"
        batches: list[Array] = []
        if looks_at_text:
            if not isinstance(calibration, Corpus):
                calibration = open_corpus(
                    calibration or run.corpus.get("sources", ()), run.tokenizer
                )
            xp = array_module(run.model.parameters()[0].data)
            windows = calibration_batches(calibration, run.recipe.context_length, run.model.depth)
            batches = [xp.asarray(batch) for batch in windows]
            state["calibration"] = calibration.to_dict()
        state["method"] = method
        grids = [spec.heads, FINEST] if head_grid == MEASURED else [head_grid or spec.heads]
        before = acceptance(run.model, batches) if head_grid == MEASURED else []
        with tqdm(desc=method, unit="matrix", disable=None, file=sys.stderr) as bar:
            for choice in dict.fromkeys(grids):
                spec = replace(spec, heads=choice)
                model = quantize_after_training(
                    run.model, spec, method, batches, lambda name: bar.update()
                )
                after = acceptance(model, batches) if before else []
                if before:
                    report(
                        f"heads on {choice}: acceptance {_shares(after)} (before: {_shares(before)})"
                    )
                if all(
                    a is None or b is None or a >= b - MOST_LOST
                    for a, b in zip(after, before, strict=True)
                ):
                    break
        for warning in dead_heads(after):
            report(warning)
    checkpoint.write(out, Checkpoint(
        recipe=run.recipe, parameters=stored_arrays(model), step=run.step, tokens=run.tokens, corpus=run.corpus,
        tokenizer=run.tokenizer.to_dict(), packed=asdict(spec), state=state,
    ))  # fmt: skip
    return load(out)


def acceptance(model: Model, batches: Sequence[Array]) -> list[float | None]:
    """Teacher-forced acceptance by depth (see training/evaluate.py) on batches (B, T + 1 + K)."""
    predicted = [to_numpy(evaluate_losses(model, batch)[1]) for batch in batches]
    return teacher_forced_acceptance(np.concatenate(predicted))


def _shares(found: Sequence[float | None]) -> str:
    return " ".join("?" if share is None else f"{share:.1%}" for share in found)


def calibration_batches(
    corpus: Corpus, context_length: int, depth: int, tokens: int = CALIBRATION_TOKENS
) -> list[np.ndarray]:
    """About `tokens` training tokens as windows spread evenly over the text: a list of (B, context + 1 + depth) int64.

    Raises UserError for a text that is shorter than one window.
    """
    width = context_length + 1 + depth
    room = len(corpus.train) - width
    if room < 0:
        raise UserError(
            f"{corpus.name} is too short to calibrate with: a window needs {width:,} tokens, give more text"
        )
    count = max(1, min(tokens, len(corpus.train)) // context_length)
    starts = np.linspace(0, room, count).astype(int)
    windows = corpus.train[starts[:, None] + np.arange(width)].astype(np.int64)
    return np.array_split(windows, max(1, count * context_length // TOKENS_AT_ONCE))
