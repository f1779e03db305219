"""Evaluation: how well a model predicts held-out text.

* **Bits per byte**: the mean of -log2 p(next token | the tokens before it), divided by the number
  of bytes of these tokens. It does not depend on the tokenizer, so it compares models with
  different vocabularies.
* **Accuracy at +k**: how often the most probable token is correct, for the next token (+1) and for
  the predictions of the heads (+2, ...). Each head is given the true tokens in between.
* **Acceptance at depth k**, teacher-forced: how often greedy speculative decoding would accept the
  k-th draft, if it accepted the drafts before it and the text continued as the held-out text does.
  A draft is accepted if it is the model's own choice at its place. Over all positions t,

      acceptance(k) =    #(t: the choices of heads 1..k at t are the model's at t+1..t+k)
                       / #(t: the same for heads 1..k-1)

  The model's own greedy output is more predictable than real text, so decoding it
  (`generate --show`, `compare`) accepts more drafts.

* **Perplexity**: e to the mean nats per token. It depends on the tokenizer.
* **Against a reference**: the mean divergence of its predictions, and how often both models have
  the same most likely token (model/divergence.py).

The text is cut into windows, spread evenly over the held-out part. No token counts twice. The first
tokens of a window are predicted from little context, as in training. A window is as long as the
model's context, but at most MAX_WINDOW tokens unless a length is requested, and never longer than
the text.

**Memory.** Windows are evaluated in slices of about TOKENS_AT_ONCE tokens, one slice per thread,
and the logits of a slice in smaller ones (model/loss.py). So an evaluation takes the memory of the
weights and of one slice per thread, whatever the context length of the model and the length of the
text. If a window is longer than TOKENS_AT_ONCE, the window is the slice.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from math import isfinite, log
from pathlib import Path

from minimtp.arguments import THREADS, checked_arguments, one_of, optional, whole
from minimtp.backend import array_module, to_numpy
from minimtp.backend import numpy as np
from minimtp.engine.module import replicate
from minimtp.errors import UserError
from minimtp.machine import available_cores
from minimtp.model.config import KV_CACHES
from minimtp.model.loaded import LOADED, LoadedModel
from minimtp.model.loss import evaluate_losses
from minimtp.model.tokenizer import same_tokens
from minimtp.model.transformer import LanguageModel
from minimtp.training.data.corpus import CORPUS, Corpus, open_corpus
from minimtp.training.data.recorded import recorded_corpus
from minimtp.training.evaluation import Evaluation
from minimtp.training.run.folder import LOADED_RUN, LoadedRun

DEFAULT_TOKENS = 131_072  # predicted if the recipe evaluates nothing
TOKENS_AT_ONCE = 2048  # per slice: enough for efficient matmuls
MAX_WINDOW = 2048  # tokens; longer windows are used on request


@checked_arguments(
    run=LOADED_RUN,
    corpus=optional(CORPUS),
    tokens=optional(whole(1)),
    threads=optional(THREADS),
    context_length=optional(whole(1)),
    against=optional(LOADED),
    kv_cache=one_of(*KV_CACHES),
)
def evaluate(
    run: LoadedRun,
    corpus: Corpus | Sequence[str | Path] | None = None,
    *,
    tokens: int | None = None,
    threads: int | None = None,
    context_length: int | None = None,
    against: LoadedModel | None = None,
    kv_cache: str = "float32",
) -> Evaluation:
    """Evaluate a loaded model on the held-out part of a corpus, on the device where it is.

    Returns an `Evaluation`: `bits_per_byte`; for the next token and then each head, the `accuracy`
    (a share) and the loss in `nats` per token; the `acceptance` of drafts by depth (shares); the
    number of `tokens` and `bytes`. With a reference, also the `divergence` from it in nats per
    token, and the `agreement` (the share of positions with the same most likely token).

    corpus: a Corpus, or the sources for `open_corpus`; None for the text that the model was trained
        on.
    tokens: the maximum number of tokens to predict (None: the recipe's evaluation_tokens).
    threads: how many slices are evaluated at the same time (None: one per core).
    context_length: the length of a window, at most the model's context (None: the model's context,
        but at most MAX_WINDOW).
    against: a reference with the same tokens, for the divergence and the agreement.
    kv_cache: round keys and values to "float16" or "int8", as `Decoder` does. The reference keeps
        its own.

    Raises UserError if the corpus, the reference or an option cannot be used.
    """
    window = window_for(run, context_length)
    if against is not None:
        _require_same_tokens(run, against)
        window = min(window, against.config.context_length)
    if not isinstance(corpus, Corpus):
        corpus = corpus_for(run, corpus)
    tokens = tokens or run.recipe.evaluation_tokens or DEFAULT_TOKENS
    reference = None if against is None else against.model
    model = run.model if kv_cache == "float32" else _with_kv_cache(run, kv_cache)
    evaluation = evaluate_model(model, corpus, window, tokens, threads, reference)
    if not isfinite(evaluation.bits_per_byte):
        raise UserError(
            f"{run.path} predicts {evaluation.bits_per_byte} bits per byte, so its weights are "
            "damaged or too large: use another model"
        )
    return evaluation


def _with_kv_cache(run: LoadedRun, kv_cache: str) -> LanguageModel:
    """Return the model with the keys and values of its trunk rounded as in this cache. The run does
    not change.
    """
    from minimtp.quant.qat.kv_cache import with_cache

    trained = run.model.trunk.blocks[0].attention.cache
    if trained not in ("float", kv_cache):
        raise UserError(
            f"{run.path} was trained with an {trained} cache and cannot be evaluated with one of "
            f"{kv_cache}: leave it out"
        )
    model = replicate(run.model)
    with_cache(model.trunk, kv_cache)
    return model


def window_for(
    loaded: LoadedModel, context_length: int | None = None, max_window: int = MAX_WINDOW
) -> int:
    """Return the length of the model's windows: `context_length`, or by default the model's
    context, but at most `max_window`.

    Raises UserError unless `context_length` fits the model.
    """
    longest = loaded.limited_context(context_length)
    return longest if context_length is not None else min(longest, max_window)


def corpus_for(
    run: LoadedRun, sources: Sequence[str | Path] | None = None, encoding: str | None = None
) -> Corpus:
    """Open a corpus with the tokenizer of the run.

    sources, encoding: see `open_corpus`; None for the text that the run was trained on.
    """
    if sources is None:
        return recorded_corpus(run.corpus, run.path, run.tokenizer, encoding)
    return open_corpus(sources, run.tokenizer, encoding)


def evaluate_model(
    model: LanguageModel,
    corpus: Corpus,
    sequence_length: int,
    tokens: int,
    threads: int | None = None,
    reference: LanguageModel | None = None,
) -> Evaluation:
    """Evaluate a model on at most `tokens` held-out tokens, in windows of `sequence_length` or, if
    there is less text, of all of it.

    reference: a model to compare predictions with. Raises UserError if the corpus holds out no
    tokens to predict.
    """
    longest = len(corpus.validation) - 1 - model.depth
    if longest < 1:
        raise UserError(
            f"{corpus.name} is too short: its held-out part has {len(corpus.validation):,} tokens, "
            f"and an evaluation needs {2 + model.depth}: {corpus.more}"
        )
    window = min(sequence_length, tokens, longest)
    windows = corpus.validation_windows(
        tokens, sequence_length=window, depth=model.depth
    )  # (W, T + 1 + K)
    xp = array_module(model.parameters()[0].data)
    rows = max(1, TOKENS_AT_ONCE // window)
    shards = [windows[start : start + rows] for start in range(0, len(windows), rows)]

    def evaluate_shard(shard: np.ndarray) -> list[np.ndarray]:
        if reference is None:
            results = evaluate_losses(model, xp.asarray(shard))
        else:
            from minimtp.model.divergence import evaluate_against

            results = evaluate_against(model, reference, xp.asarray(shard))
        return [to_numpy(array) for array in results]

    with ThreadPoolExecutor(threads or (available_cores() if xp is np else 1)) as pool:
        parts = zip(*pool.map(evaluate_shard, shards), strict=True)
        nats, predicted, *compared = map(np.concatenate, parts)  # (W, T, 1 + K)
    nats = nats.astype(np.float64)
    text_bytes = int(corpus.tokenizer.byte_counts()[windows[:, 1 : window + 1]].sum())
    divergence, agreement = [float(a.mean(dtype=np.float64)) for a in compared] or (None, None)
    return Evaluation(
        bits_per_byte=float(nats[:, :, 0].sum() / log(2) / max(1, text_bytes)),
        accuracy=(predicted == _targets(windows, predicted.shape)).mean(axis=(0, 1)).tolist(),
        acceptance=teacher_forced_acceptance(predicted),
        nats=_means(nats).tolist(),
        tokens=nats[:, :, 0].size,
        bytes=text_bytes,
        window=window,
        divergence=divergence,
        agreement=agreement,
    )


def teacher_forced_acceptance(predicted: np.ndarray) -> list[float | None]:
    """Return the acceptance at depth 1..K, None for a depth that no draft reached.

    predicted: the most probable tokens (W, T, 1 + K) of the model and then of each head.

    The draft of head j at t is accepted if predicted[w, t, j] equals predicted[w, t + j, 0], the
    model's own choice there. Acceptance at depth k is counted over the positions t < T - k where
    the drafts of heads 1..k-1 are accepted.
    """
    length, depth = predicted.shape[1], predicted.shape[2] - 1
    shares: list[float | None] = []
    for k in range(1, depth + 1):
        places = max(0, length - k)
        accepted = [
            predicted[:, :places, j] == predicted[:, j : places + j, 0] for j in range(1, k + 1)
        ]  # each (W, T - k)
        reached = np.logical_and.reduce(accepted[:-1]) if k > 1 else np.ones_like(accepted[0])
        share = (reached & accepted[-1]).sum() / reached.sum() if reached.any() else None
        shares.append(None if share is None else float(share))
    return shares


def _means(nats: np.ndarray) -> np.ndarray:
    """Return the means (1 + K,) of losses (W, T, 1 + K), without NaN: rows without a loss."""
    missing = np.isnan(nats)
    if not missing.any():
        return nats.mean(axis=(0, 1))
    return np.where(missing, 0.0, nats).sum(axis=(0, 1)) / np.maximum(1, (~missing).sum((0, 1)))


def _require_same_tokens(run: LoadedModel, reference: LoadedModel) -> None:
    """Raise UserError unless both models give the same meaning to every token."""
    if not same_tokens(run.tokenizer, reference.tokenizer):
        raise UserError(
            f"{reference.path} has other tokens than {run.path}, so their predictions cannot be "
            "compared: give a reference with the same tokenizer"
        )


def _targets(windows: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Return the tokens to predict at each position: (W, T + 1 + K) -> (W, T, 1 + K)."""
    return np.stack([windows[:, 1 + k : 1 + k + shape[1]] for k in range(shape[2])], axis=-1)
