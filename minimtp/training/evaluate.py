"""How good a model is on text it has not seen.

* **Bits per byte**: the mean of -log2 p(next token | the tokens before it), over the bytes of text that those tokens stand
  for. It does not depend on the tokenizer, so models can be compared across vocabularies.
* **Accuracy at +k**: how often the most probable token is the right one, for the next token (+1) and for the heads' (+2, ...),
  each head reading the true tokens in between.
* **Acceptance at depth k**, teacher-forced: what greedy speculative decoding accepts of the k-th draft, given that it accepted
  the drafts before it. A draft stands when it is the model's own choice, and where the model is right that choice is the
  text. So, over the positions t where the model is right about the k tokens after the next one,

      acceptance(k) = (heads 1..k all right at t) / (heads 1..k-1 all right at t)

  These are the easier positions: decoding itself (`generate --show`, `compare`) accepts less.

The text is cut into windows of the model's context, spread evenly over the held-out part. The first tokens of a window are
predicted from little context, as everywhere a window is used; no token counts twice.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from math import log
from pathlib import Path

from minimtp.backend import array_module, available_cores, to_numpy
from minimtp.backend import numpy as np
from minimtp.errors import UserError
from minimtp.model.objective import evaluate_losses
from minimtp.training.build import Model
from minimtp.training.checkpoint import LoadedRun, load
from minimtp.training.corpus import Corpus, open_corpus

TOKENS_AT_ONCE = 2048  # a shard's rows: enough to keep products busy, few enough to keep logits small


@dataclass(frozen=True)
class Evaluation:
    """bits_per_byte; accuracy[k] at +(k+1); acceptance[k] at depth k+1 (None where the model was never right long enough);
    nats[k] per token at +(k+1); tokens and bytes that were predicted."""

    bits_per_byte: float
    accuracy: list[float]
    acceptance: list[float | None]
    nats: list[float]
    tokens: int
    bytes: int

    def to_dict(self) -> dict[str, object]:
        return asdict(self)

    def describe(self) -> str:
        """A line or three for people."""
        lines = [f"{self.bits_per_byte:.4f} bits per byte over {self.bytes:,} held-out bytes"]
        lines.append("accuracy   " + "  ".join(f"+{k} {share:.1%}" for k, share in enumerate(self.accuracy, start=1)))
        if self.acceptance:
            shares = ("?" if share is None else f"{share:.1%}" for share in self.acceptance)
            lines.append("acceptance " + "  ".join(f"{k}: {share}" for k, share in enumerate(shares, start=1)))
            lines.append("           (by depth of the draft, where the model itself is right)")
        return "\n".join(lines)


def evaluate(
    run: LoadedRun | str | Path,
    corpus: Corpus | Sequence[str | Path] | None = None,
    *,
    tokens: int | None = None,
    threads: int | None = None,
) -> Evaluation:
    """Evaluate a trained run, or the run in a folder, on the held-out part of a corpus.

    corpus: a Corpus, or what `open_corpus` takes; None for the one the run was trained on. tokens: how many to predict, at
    most (None: the recipe's evaluate_bytes). Raises UserError for a run, corpus or number that cannot be used.
    """
    for name, number in (("tokens", tokens), ("threads", threads)):
        if number is not None and number < 1:
            raise UserError(f"{name} must be at least 1, not {number}")
    if not isinstance(run, LoadedRun):
        run = load(run)
    if not isinstance(corpus, Corpus):
        corpus = open_corpus(run.corpus.get("sources", ()) if corpus is None else corpus, run.tokenizer)
    corpus.require(1, run.recipe.context, run.model.depth)
    return evaluate_model(run.model, corpus, run.recipe.context, tokens or run.recipe.evaluate_bytes or 131_072, threads)


def evaluate_model(model: Model, corpus: Corpus, context: int, tokens: int, threads: int | None = None) -> Evaluation:
    """The same for a model in memory, on at most `tokens` held-out tokens in windows of `context`."""
    windows = corpus.validation_windows(tokens, context=context, depth=model.depth)  # (W, T + 1 + K)
    xp = array_module(model.parameters()[0].data)
    rows = max(1, TOKENS_AT_ONCE // context)
    shards = [xp.asarray(windows[start : start + rows]) for start in range(0, len(windows), rows)]
    with ThreadPoolExecutor(threads or (available_cores() if xp is np else 1)) as pool:
        results = list(pool.map(lambda shard: [to_numpy(a) for a in evaluate_losses(model, shard)], shards))
    nats = np.concatenate([nats for nats, _ in results]).astype(np.float64)  # (W, T, 1 + K)
    correct = np.concatenate([correct for _, correct in results])  # (W, T, 1 + K)
    text_bytes = int(corpus.tokenizer.byte_counts()[windows[:, 1 : context + 1]].sum())
    return Evaluation(
        bits_per_byte=float(nats[:, :, 0].sum() / log(2) / max(1, text_bytes)),
        accuracy=correct.mean(axis=(0, 1)).tolist(),
        acceptance=teacher_forced_acceptance(correct),
        nats=nats.mean(axis=(0, 1)).tolist(),
        tokens=nats[:, :, 0].size,
        bytes=text_bytes,
    )


def teacher_forced_acceptance(correct: np.ndarray) -> list[float | None]:
    """Acceptance at depth 1..K from (W, T, 1 + K) booleans, whether each prediction was right; see the module's text."""
    context, depth = correct.shape[1], correct.shape[2] - 1
    shares: list[float | None] = []
    for k in range(1, depth + 1):
        if k >= context:
            shares.append(None)
            continue
        own = np.ones_like(correct[:, k:, 0])  # (W, T - k): the model is right at t+1, ..., t+k
        for later in range(1, k + 1):
            own &= correct[:, later : context - k + later, 0]
        reached = own & correct[:, : context - k, 1:k].all(axis=-1)  # the drafts before the k-th were accepted
        accepted = reached & correct[:, : context - k, k]
        shares.append(float(accepted.sum() / reached.sum()) if reached.any() else None)
    return shares
