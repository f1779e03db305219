"""The result of an evaluation, which checkpoints, logs and comparisons store."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated

from msgspec import Meta

from minimtp.backend import numpy as np
from minimtp.records import Count, Positive

MAX_NATS = 700.0  # so that the perplexity stays finite
DEAD = 0.05  # a head with less acceptance is reported


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation.

    accuracy: at +1, +2, ... acceptance: at depth 1, 2, ..., None if no draft reached that depth.
    nats: per token, at +1, +2, ... tokens, bytes: how much text was predicted. window: tokens per
    window. divergence, agreement: nats per token and a share, None without a reference.
    """

    bits_per_byte: float
    accuracy: Annotated[list[float], Meta(min_length=1)]
    acceptance: list[float | None]
    nats: Annotated[list[float], Meta(min_length=1)]
    tokens: Count
    bytes: Count
    window: Positive | None = None  # unknown in files of earlier versions
    divergence: float | None = None
    agreement: float | None = None

    @property
    def perplexity(self) -> float:
        """e to the nats per token."""
        return float(np.exp(min(self.nats[0], MAX_NATS)))

    def to_dict(self) -> dict[str, object]:
        return asdict(self)

    def describe(self) -> str:
        """Return the result as a few lines for people."""
        accuracy = [f"+{k} {share:.1%}" for k, share in enumerate(self.accuracy, start=1)]
        lines = [
            f"{self.bits_per_byte:.4f} bits per byte over {self.bytes:,} held-out bytes",
            f"perplexity {self.perplexity:.4g} per token"
            + (f", in windows of {self.window:,} tokens" if self.window else ""),
            f"accuracy   {'  '.join(accuracy)}",
        ]
        if self.acceptance:
            shares = ["?" if share is None else f"{share:.1%}" for share in self.acceptance]
            by_depth = [f"{k}: {share}" for k, share in enumerate(shares, start=1)]
            lines.append(f"acceptance {'  '.join(by_depth)}")
            lines.append("           (by draft depth: how often a draft is the model's own choice)")
        if self.divergence is not None:
            lines.append(
                f"reference  divergence {self.divergence:.4f} nats per token, same most likely "
                f"token {self.agreement:.1%}"
            )
        return "\n".join(lines + dead_heads(self.acceptance))


def dead_heads(acceptance: Sequence[float | None]) -> list[str]:
    """Return a warning for each head whose drafts are hardly ever accepted.

    There is no other sign of such a head: the output stays correct and only gets slower. A head
    that was rounded too coarsely, or loaded from the wrong place, shows this symptom.
    """
    return [
        f"warning: head {k} is dead: {share:.1%} of its drafts are accepted, under {DEAD:.0%}; "
        f"train it longer, give it a finer grid, or draft at most {k - 1}"
        for k, share in enumerate(acceptance, start=1)
        if share is not None and share < DEAD
    ]
