"""Analysis of a trained transformer: loss by position, a test of the mask, attention weights."""

import math

from minimtp.backend import Array, array_module, to_numpy
from minimtp.backend import numpy as np
from minimtp.engine.fused import CausalAttention
from minimtp.engine.tensor import no_grad
from minimtp.kernels import plain
from minimtp.model.loss import evaluate_losses
from minimtp.model.transformer import Transformer
from minimtp.training.run.folder import LoadedRun


def bits_by_position(model: Transformer, windows: Array) -> np.ndarray:
    """Return the mean loss in bits at each position of (W, T + 1) tokens, as an array (T,)."""
    parts = [
        to_numpy(evaluate_losses(model, windows[i : i + 16])[0])[:, :, 0]
        for i in range(0, len(windows), 16)
    ]
    return np.concatenate(parts).mean(axis=0) / math.log(2)


def bits_from_last(model: Transformer, windows: Array, seen: int) -> float:
    """Return the mean loss in bits if each prediction depends only on the `seen` bytes before it.

    windows: (W, T + 1) tokens. Tokens with fewer than `seen` bytes before them are not predicted.
    """
    xp, count = array_module(windows), windows.shape[1] - seen
    positions = xp.arange(count)[:, None] + xp.arange(seen + 1)  # (T + 1 - seen, seen + 1)
    nats = [to_numpy(evaluate_losses(model, window[positions])[0])[:, -1, 0] for window in windows]
    return float(np.concatenate(nats).mean()) / math.log(2)


def next_logits(model: Transformer, tokens: Array) -> Array:
    """tokens (1, T) -> the logits (V,) of the token after them."""
    return model.logits(model.hidden(tokens)[:, -1:]).data[0, 0]


def max_change_before(model: Transformer, tokens: Array, position: int) -> float:
    """Change the token at `position`. Return the largest change of any logit before it.

    The causal mask is correct if the result is 0.
    """
    changed = tokens.copy()
    changed[:, position] = (changed[:, position] + 1) % model.config.vocabulary_size
    with no_grad():
        before, after = (model.logits(model.hidden(t)).data for t in (tokens, changed))
    return float(abs(before - after)[:, :position].max())


def attention_written_out(model: Transformer, tokens: Array) -> float:
    """Compute the attention of the first block with `rotate` and `cached_attention`.

    tokens (1, T). Returns the largest difference from the output of the block's own operation.
    """
    block, length = model.blocks[0], tokens.shape[1]
    layer = block.attention
    heads, kv_heads = layer.num_heads, layer.num_kv_heads
    with no_grad():
        qkv = layer.project(block.attention_norm(model.embedding(tokens))).data[0]  # (T, (H+2G) C)
    cosine, sine = layer.rotary.tables(length, qkv)
    expected = layer.operation(cosine, sine).forward(qkv[None])[0]  # (T, H C)

    joined = qkv.reshape(length, heads + 2 * kv_heads, -1)  # (T, H+2G, C)
    rotated = plain.rotate(joined[None, :, : heads + kv_heads], cosine, sine)[0]  # (T, H+G, C)
    keys = rotated[:, heads:].transpose(1, 2, 0)[:, None]  # (G, 1, C, T): one panel
    values = joined[:, heads + kv_heads :]  # (T, G, C)
    scale = joined.shape[-1] ** -0.5
    found = plain.cached_attention(rotated[:, :heads], keys, values, 0, scale)  # (T, H, C)
    return float(abs(found.reshape(length, -1) - expected).max())


def attention(run: LoadedRun, text: str) -> np.ndarray:
    """Return the attention weights for a text of at most 64 bytes, as an array (layers, heads, T,
    T).
    """
    model = run.model
    table = model.embedding.weight.data
    tokens = array_module(table).asarray([run.tokenizer.encode(text).tolist()])  # (1, T)
    length = tokens.shape[1]
    maps = []
    x = model.embedding(tokens)  # (1, T, D)
    for block in model.blocks:
        layer = block.attention
        tables = layer.rotary.tables(length, table)
        operation = CausalAttention(layer.num_heads, layer.num_kv_heads, *tables)
        operation.forward(layer.qkv(block.attention_norm(x)).data)  # keeps what its backward needs
        weights = to_numpy(operation.probabilities[0])
        maps.append(weights.reshape(layer.num_heads, length, length))
        x = block(x)
    return np.array(maps)
