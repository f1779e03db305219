"""`minimtp quantize`: pack the weights of a trained model into blocks of a few bits.

The result is a new run folder. A model that was trained with quantization is packed on the grids of
its training, and its outputs do not change. Any other model is rounded after training by one of the
methods in quant/ptq/methods.py. That lowers the quality. It is the baseline for quantization-aware
training. Some methods need text. They get windows spread evenly over the training part of a corpus,
never the held-out part that the model is evaluated on. A window is as long as the model's context,
but at most MAX_WINDOW tokens unless a length is requested, because many short pieces of text say
more about a model's inputs than a few long ones. The windows are read in batches of about
TOKENS_AT_ONCE tokens, so the memory does not grow with the context length.

**Prediction heads.** The rounding error of a head's weights does not predict the quality of its
drafts: reports on 4-bit heads range from no loss to almost no accepted drafts. The head grid
"measured" therefore counts acceptance on the same text, before and after, and chooses the cheapest
grid on which no depth loses more than one percentage point.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from tqdm import tqdm

from minimtp.arguments import CALLABLE, PATH, WORD, checked_arguments, one_of, optional, whole
from minimtp.backend import Array, array_module, to_numpy
from minimtp.backend import numpy as np
from minimtp.errors import UserError
from minimtp.files import OneWriter
from minimtp.model.loss import evaluate_losses
from minimtp.model.transformer import LanguageModel
from minimtp.quant.grids import F16
from minimtp.quant.grids.mixture import first_grid
from minimtp.quant.packed_matrix import stored_arrays
from minimtp.quant.ptq.methods import METHODS, METHODS_WITH_TEXT, quantize_after_training
from minimtp.quant.qat.convert import convert
from minimtp.quant.qat.spec import QuantizationSpec
from minimtp.training.build import quantization_spec
from minimtp.training.data.corpus import CORPUS, Corpus, open_corpus
from minimtp.training.data.recorded import record_in, recorded_corpus
from minimtp.training.evaluate import teacher_forced_acceptance, window_for
from minimtp.training.evaluation import dead_heads
from minimtp.training.run import checkpoint
from minimtp.training.run.checkpoint import Checkpoint
from minimtp.training.run.folder import LOADED_RUN, LoadedRun, load_run

CALIBRATION_TOKENS = 16_384
TOKENS_AT_ONCE = 1_024  # per batch
MAX_WINDOW = 512  # tokens; longer windows are used on request
MIN_WINDOW = 64  # tokens; with fewer, statistics of inputs mean little
MEASURED, FINEST = "measured", "q8_0"
TABLE = "q8_0"  # the default grid of the token table
MAX_LOST_ACCEPTANCE = 0.01  # at any depth

Report = Callable[[str], None]


@checked_arguments(
    run=LOADED_RUN,
    out=PATH,
    grid=optional(WORD),
    method=optional(one_of(*METHODS)),
    head_grid=optional(WORD),
    embedding_grid=optional(WORD),
    calibration=CORPUS,
    context_length=optional(whole(1)),
    report=CALLABLE,
    encoding=optional(WORD),
)
def quantize(
    run: LoadedRun,
    out: str | Path,
    grid: str | None = None,
    *,
    method: str | None = None,
    head_grid: str | None = None,
    embedding_grid: str | None = None,
    calibration: Corpus | Sequence[str | Path] = (),
    context_length: int | None = None,
    report: Report = lambda line: None,
    encoding: str | None = None,
) -> LoadedRun:
    """Write the packed model to the run folder `out`, and return it loaded.

    grid: the grid of all matrices except the token table and the output, or a mixture for the
    matrices of a block, such as "q4_0,qkv=q5_0". Default: q4_0.
    method: one of METHODS. Default: rtn, round to nearest.
    head_grid: the grid of the prediction heads. "measured" tries `grid` first, then q8_0. Default:
    `grid`, or the first grid of a mixture.
    embedding_grid: the grid of the token table and the output. Default: q8_0, or f16 if the grid is
    f16.
    calibration: a Corpus, or the sources for `open_corpus`, for methods that need text. Default:
    the text that the model was trained on.
    context_length: the length of the calibration windows, at most the model's context. Default: the
    model's context, but at most MAX_WINDOW.
    report: receives lines for people: the calibration text, the measured acceptance, and a warning
    for each dead head.
    encoding: of the calibration files that are not UTF-8 (data/encoding.py).

    A model that was trained with quantization is packed as it was trained, so it takes neither
    another grid nor a method.

    Raises UserError if the model cannot be packed this way, or if `out` already holds a checkpoint.
    """
    with OneWriter(out):  # another command may be writing there
        _require_free(out)
    if run.packed is not None:
        raise UserError(f"{run.path} is quantized already: give the run it was made from")
    needs_text = method in METHODS_WITH_TEXT or head_grid == MEASURED
    if calibration and not needs_text:
        raise UserError(
            f"method {method or 'rtn'} does not look at any text: "
            "leave out the calibration text, or use gptq or awq"
        )
    if head_grid is not None and not run.model.depth:
        raise UserError(f"{run.path} has no prediction heads: leave out --head-grid")
    window = window_for(run, context_length, MAX_WINDOW)
    spec = _spec(run, grid, head_grid, embedding_grid)
    state: dict[str, object] = {"made_from": str(run.path)}
    if run.fake_quantized:
        if method is not None:
            raise UserError(
                f"{run.path} was trained with quantization: "
                "leave out --method to keep its weights exactly"
            )
        model = convert(run.model)
    else:
        batches: list[Array] = []
        if needs_text:
            corpus = _calibration_corpus(run, calibration, encoding)
            batches = _calibration_batches_of(run, corpus, window)
            report(f"corpus    {corpus.describe()}")
            state["calibration"] = corpus.to_dict()
        state["method"] = method = method or "rtn"
        head_grids = [spec.heads, FINEST] if head_grid == MEASURED else [head_grid or spec.heads]
        model, spec = _round(run.model, spec, method, batches, head_grids, report)
    _write(out, run, model, spec, state)
    return load_run(out)


def acceptance(model: LanguageModel, batches: Sequence[Array]) -> list[float | None]:
    """Return the teacher-forced acceptance by depth (evaluate.py) on batches (B, T + 1 + K)."""
    predicted = [to_numpy(evaluate_losses(model, batch)[1]) for batch in batches]
    return teacher_forced_acceptance(np.concatenate(predicted))


def calibration_batches(
    corpus: Corpus, sequence_length: int, depth: int, tokens: int = CALIBRATION_TOKENS
) -> list[np.ndarray]:
    """Return at most `tokens` training tokens, as windows spread evenly over the text.

    Each batch is (B, sequence_length + 1 + depth) int64, with at most TOKENS_AT_ONCE inputs unless
    one window has more. A text that is shorter than a window is one window.

    Raises UserError if the text is shorter than a window and than MIN_WINDOW tokens.
    """
    longest = len(corpus.train) - 1 - depth
    needed = min(sequence_length, MIN_WINDOW)
    if longest < needed:
        raise UserError(
            f"{corpus.name} is too short to calibrate with: it has {len(corpus.train):,} tokens to "
            f"train on, and a window needs {needed + 1 + depth}: give more text with --calibration"
        )
    length = min(sequence_length, tokens, longest)
    count = max(1, min(tokens, len(corpus.train)) // length)
    starts = np.linspace(0, longest - length, count).astype(int)
    windows = corpus.train[starts[:, None] + np.arange(length + 1 + depth)].astype(np.int64)
    rows = max(1, TOKENS_AT_ONCE // length)  # per batch
    return np.array_split(windows, -(-count // rows))


def _spec(
    run: LoadedRun, grid: str | None, head_grid: str | None, embedding_grid: str | None
) -> QuantizationSpec:
    """Return the grids to round to: those of quantization-aware training if it has begun,
    otherwise the requested ones.
    """
    if not run.fake_quantized:
        grid = grid or "q4_0"
        table = embedding_grid or (F16.name if grid == F16.name else TABLE)
        return QuantizationSpec(weights=grid, embedding=table, heads=first_grid(grid))
    spec = quantization_spec(run.recipe)
    if grid not in (None, spec.weights):
        raise UserError(
            f"{run.path} was trained for {spec.weights} weights: "
            "leave out --grid to keep them exactly"
        )
    if head_grid not in (None, spec.heads):
        raise UserError(
            f"{run.path} was trained for {spec.heads} heads: "
            "leave out --head-grid to keep them exactly"
        )
    if embedding_grid not in (None, spec.embedding):
        raise UserError(
            f"{run.path} was trained for a token table on {spec.embedding}: "
            "leave out --embedding-grid to keep it exactly"
        )
    return spec


def _calibration_corpus(
    run: LoadedRun, calibration: Corpus | Sequence[str | Path], encoding: str | None
) -> Corpus:
    if isinstance(calibration, Corpus):
        return calibration
    option = "--calibration"
    if calibration:
        return open_corpus(calibration, run.tokenizer, encoding, option=option)
    return recorded_corpus(run.corpus, run.path, run.tokenizer, option=option)


def _calibration_batches_of(run: LoadedRun, corpus: Corpus, window: int) -> list[Array]:
    """Return the calibration batches on the device of the model."""
    xp = array_module(run.model.parameters()[0].data)
    windows = calibration_batches(corpus, window, run.model.depth)
    return [xp.asarray(batch) for batch in windows]


def _round(
    model: LanguageModel,
    spec: QuantizationSpec,
    method: str,
    batches: list[Array],
    head_grids: list[str],
    report: Report,
) -> tuple[LanguageModel, QuantizationSpec]:
    """Round a model after training.

    head_grids: one grid, or several to try in this order until no depth loses too much acceptance.
    Returns the packed model and the grids it was rounded to.
    """
    measured = len(head_grids) > 1
    before = acceptance(model, batches) if measured else []
    after: list[float | None] = []
    with tqdm(desc=method, unit="matrix", disable=None, file=sys.stderr) as bar:
        for choice in dict.fromkeys(head_grids):
            spec = replace(spec, heads=choice)
            packed = quantize_after_training(
                model, spec, method, batches, lambda name: bar.update()
            )
            if not measured:
                break
            after = acceptance(packed, batches)
            report(f"heads on {choice}: acceptance {_shares(after)} (before: {_shares(before)})")
            if not _loses_too_much(before, after):
                break
    for warning in dead_heads(after):
        report(warning)
    return packed, spec


def _loses_too_much(before: list[float | None], after: list[float | None]) -> bool:
    """Return whether acceptance fell by more than MAX_LOST_ACCEPTANCE at any depth."""
    return any(
        a is not None and b is not None and a < b - MAX_LOST_ACCEPTANCE
        for a, b in zip(after, before, strict=True)
    )


def _shares(acceptance: Sequence[float | None]) -> str:
    return " ".join("?" if share is None else f"{share:.1%}" for share in acceptance)


def _write(
    out: str | Path,
    run: LoadedRun,
    model: LanguageModel,
    spec: QuantizationSpec,
    state: dict[str, object],
) -> None:
    """Write the packed model with the training record of the run it was made from."""
    packed = Checkpoint(
        recipe=run.recipe,
        parameters=stored_arrays(model),
        step=run.step,
        tokens=run.tokens,
        corpus=record_in(out, run.corpus, run.path),
        tokenizer=run.tokenizer.to_dict(),
        packed=asdict(spec),
        state=state,
    )
    with OneWriter(out) as writer:
        writer.begin()
        _require_free(out)
        checkpoint.write(out, packed)


def _require_free(out: str | Path) -> None:
    """Raise UserError if `out` holds a checkpoint, or none can be written there."""
    if checkpoint.exists(out):
        raise UserError(f"{out} already holds a checkpoint: choose another --out")
    checkpoint.check_place(out)
