"""How good a model is on text it has not seen.

* **Bits per byte**: the mean of -log2 p(next token | the tokens before it), over the bytes of text that those tokens stand
  for. It does not depend on the tokenizer, so models can be compared across vocabularies.
* **Accuracy at +k**: how often the most probable token is the right one, for the next token (+1) and for the heads' (+2, ...),
  each head reading the true tokens in between.
* **Acceptance at depth k**, teacher-forced: what greedy speculative decoding would accept of the k-th draft, given that it
  accepted the drafts before it, if the text went on as the held-out text does. A draft stands when it is the model's own
  choice at its place. So, over all positions t,

      acceptance(k) = (the choices of heads 1..k at t are the model's at t+1..t+k) / (the same for heads 1..k-1)

  The model's own greedy text is more predictable than real text: decoding it (`generate --show`, `compare`) accepts more.

The text is cut into windows of the model's context, spread evenly over the held-out part. The first tokens of a window are
predicted from little context, as everywhere a window is used; no token counts twice.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from math import log
from pathlib import Path

from minimtp.backend import array_module, to_numpy
from minimtp.backend import numpy as np
from minimtp.errors import UserError
from minimtp.machine import available_cores
from minimtp.model.loss import evaluate_losses
from minimtp.training.build import Model
from minimtp.training.checkpoint import LoadedRun, load
from minimtp.training.data.corpus import Corpus, open_corpus

DEAD = 0.05  # acceptance below which a head is reported
TOKENS_AT_ONCE = (
    2048  # a shard's rows: enough to keep products busy, few enough to keep logits small
)


@dataclass(frozen=True)
class Evaluation:
    """bits_per_byte; accuracy[k] at +(k+1); acceptance[k] at depth k+1 (None where no draft got there);
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
        lines.append(
            "accuracy   "
            + "  ".join(f"+{k} {share:.1%}" for k, share in enumerate(self.accuracy, start=1))
        )
        if self.acceptance:
            shares = ("?" if share is None else f"{share:.1%}" for share in self.acceptance)
            lines.append(
                "acceptance "
                + "  ".join(f"{k}: {share}" for k, share in enumerate(shares, start=1))
            )
            lines.append(
                "           (by depth of the draft: how often it is the model's own choice)"
            )
        lines += dead_heads(self.acceptance)
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
    most (None: the recipe's evaluation_tokens). Raises UserError for a run, corpus or number that cannot be used.
    """
    for name, number in (("tokens", tokens), ("threads", threads)):
        if number is not None and number < 1:
            raise UserError(f"{name} must be at least 1, not {number}")
    if not isinstance(run, LoadedRun):
        run = load(run)
    if not isinstance(corpus, Corpus):
        corpus = corpus_for(run, corpus)
    corpus.require(1, run.recipe.context_length, run.model.depth)
    return evaluate_model(
        run.model,
        corpus,
        run.recipe.context_length,
        tokens or run.recipe.evaluation_tokens or 131_072,
        threads,
    )


def corpus_for(run: LoadedRun, sources: Sequence[str | Path] | None = None) -> Corpus:
    """The corpus that `sources` name, by default the run's own, in the run's tokens. Raises what `open_corpus` raises."""
    return open_corpus(run.corpus.get("sources", ()) if sources is None else sources, run.tokenizer)


def evaluate_model(
    model: Model, corpus: Corpus, context_length: int, tokens: int, threads: int | None = None
) -> Evaluation:
    """The same for a model in memory, on at most `tokens` held-out tokens in windows of `context`."""
    windows = corpus.validation_windows(
        tokens, context_length=context_length, depth=model.depth
    )  # (W, T + 1 + K)
    xp = array_module(model.parameters()[0].data)
    rows = max(1, TOKENS_AT_ONCE // context_length)
    shards = [xp.asarray(windows[start : start + rows]) for start in range(0, len(windows), rows)]
    with ThreadPoolExecutor(threads or (available_cores() if xp is np else 1)) as pool:
        results = list(
            pool.map(lambda shard: [to_numpy(a) for a in evaluate_losses(model, shard)], shards)
        )
    nats = np.concatenate([nats for nats, _ in results]).astype(np.float64)  # (W, T, 1 + K)
    predicted = np.concatenate([predicted for _, predicted in results])  # (W, T, 1 + K)
    text_bytes = int(corpus.tokenizer.byte_counts()[windows[:, 1 : context_length + 1]].sum())
    return Evaluation(
        bits_per_byte=float(nats[:, :, 0].sum() / log(2) / max(1, text_bytes)),
        accuracy=(predicted == _targets(windows, predicted.shape)).mean(axis=(0, 1)).tolist(),
        acceptance=teacher_forced_acceptance(predicted),
        nats=nats.mean(axis=(0, 1)).tolist(),
        tokens=nats[:, :, 0].size,
        bytes=text_bytes,
    )


def dead_heads(acceptance: Sequence[float | None]) -> list[str]:
    """A sentence for each head whose drafts would hardly ever be accepted.

    Such a head makes no text wrong, it only costs time, so nothing else would tell of it: a head that was rounded too
    coarsely, or loaded from the wrong place, looks just like this.
    """
    return [
        f"warning: head {k} is dead: {share:.1%} of its drafts are accepted, under {DEAD:.0%}; train it longer, give it a "
        f"finer grid, or draft at most {k - 1}"
        for k, share in enumerate(acceptance, start=1)
        if share is not None and share < DEAD
    ]


def _targets(windows: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """(W, T + 1 + K) tokens -> (W, T, 1 + K): what is to be predicted at each position."""
    return np.stack([windows[:, 1 + k : 1 + k + shape[1]] for k in range(shape[2])], axis=-1)


def teacher_forced_acceptance(predicted: np.ndarray) -> list[float | None]:
    """Acceptance at depth 1..K from the most probable tokens (W, T, 1 + K), those of the model and then those of each head.

    Head j's draft at t stands if predicted[w, t, j] is predicted[w, t + j, 0], the model's own choice there. Depth k: of the
    places t < T - k where heads 1..k-1 stand, the share where head k does too; None if there is no such place.
    """
    context_length, depth = predicted.shape[1], predicted.shape[2] - 1
    shares: list[float | None] = []
    for k in range(1, depth + 1):
        places = max(0, context_length - k)
        stands = [
            predicted[:, :places, j] == predicted[:, j : places + j, 0] for j in range(1, k + 1)
        ]  # each (W, T - k)
        reached = np.logical_and.reduce(stands[:-1]) if k > 1 else np.ones_like(stands[0])
        shares.append(
            float((reached & stands[-1]).sum() / reached.sum()) if reached.any() else None
        )
    return shares
