"""Looking into a trained transformer: what each place gains from the text before it, and where its heads look."""

import math

from minimtp.backend import Array, array_module, to_numpy
from minimtp.backend import numpy as np
from minimtp.engine.fused import CausalAttention
from minimtp.engine.tensor import no_grad
from minimtp.model.loss import evaluate_losses
from minimtp.model.transformer import Transformer
from minimtp.training.checkpoint import LoadedRun


def bits_by_position(model: Transformer, windows: Array) -> np.ndarray:
    """Mean bits of the byte after each position of (W, T + 1) tokens: (T,)."""
    parts = [
        to_numpy(evaluate_losses(model, windows[i : i + 16])[0])[:, :, 0]
        for i in range(0, len(windows), 16)
    ]
    return np.concatenate(parts).mean(axis=0) / math.log(2)


def largest_change_before(model: Transformer, tokens: Array, place: int) -> float:
    """How much the logits before `place` change when the token there does; it should be nothing at all."""
    changed = tokens.copy()
    changed[:, place] = (changed[:, place] + 1) % model.config.vocabulary_size
    with no_grad():
        before, after = (model.logits(model.hidden(t)).data for t in (tokens, changed))
    return float(abs(before - after)[:, :place].max())


def attention(run: LoadedRun, text: str) -> np.ndarray:
    """(layers, heads, T, T): how much of its attention each place of a short text (at most 64 bytes) gives to each before."""
    model = run.model
    table = model.embedding.weight.data
    tokens = array_module(table).asarray([run.tokenizer.encode(text).tolist()])  # (1, T)
    maps = []
    with no_grad():
        x = model.embedding(tokens)
        for block in model.blocks:
            part = block.attention
            operation = CausalAttention(
                part.heads, part.num_kv_heads, *part.rotary.tables(tokens.shape[1], table)
            )
            operation.forward(part.qkv(block.attention_norm(x)).data)
            maps.append(
                to_numpy(operation.probabilities[0]).reshape(
                    part.heads, tokens.shape[1], tokens.shape[1]
                )
            )
            x = block(x)
    return np.array(maps)
