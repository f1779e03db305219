"""The EAGLE-3 head (Li et al. 2025, arXiv 2503.01840): one transformer block with its own cache,
which reads three layers of the trunk. llama.cpp, vLLM and SGLang draft with it.

At position i, with a, b, c the inputs of three layers of the trunk, and e the trunk's token table:

    g   = W_f [a; b; c]                                  once per token of the text
    z   = [norm_t(e(t_{i+1})); norm_s(g)]
    y_1 = block(g, z):   x = g + W_o attention(W_q z, W_k z, W_v z);   y = x + feed_forward(norm(x))
    logits of t_{i+2} = output(norm_o(y_1))

The second step takes y_1 in place of g, and the next token: y_2 = block(y_1, [norm_t(e(t_{i+2}));
norm_s(y_1)]) predicts t_{i+3}, and so on. So the block is a small language model that continues
from the trunk's states. Its keys and values of the text come from the trunk's states, those of a
draft from its own.

**Two options** occur in published files. With `norm_before_residual` the residual is norm_s(g)
instead of g. With `norm_before_fc` [a; b; c] is normalized before W_f. Without that norm, the large
states that models have at the first position, in SmolLM2 up to 25,000, reach the block.

**Training** unrolls the K steps at every position (unrolled_attention.py). Each step reads the
state that the head itself has computed, and the text's tokens. So the head learns to continue from
its own states, as in decoding.

**The start.** W_f starts as the identity on c, with the gains of the trunk's final norm. So the
first logits are nearly those of a model that leaves out its last layers. Each query attends most to
similar rows (W_k starts as W_q where the numbers of heads allow it). W_o starts small but not at
zero: the next token reaches the output through the attention's values only.
"""

from collections.abc import Iterator
from dataclasses import replace

from minimtp.backend import Array, array_module
from minimtp.backend import numpy as np
from minimtp.engine.module import Module
from minimtp.engine.ops import concatenate
from minimtp.engine.tensor import Tensor
from minimtp.model.config import ModelConfig
from minimtp.model.heads.draft_vocabulary import DraftVocabulary
from minimtp.model.heads.heads import ALL, Heads, at_positions
from minimtp.model.heads.unrolled_attention import Rotate, UnrolledAttention
from minimtp.model.layers import Linear, RMSNorm, Rng
from minimtp.model.rotary import Rotary
from minimtp.model.transformer import FeedForward, Transformer

START_DEVIATION = 0.02  # of the weights of W_f for a and b


class Eagle3Block(Module):
    """The block of the head. config: its sizes, which may differ from the trunk's, but for
    hidden_size.
    """

    def __init__(self, config: ModelConfig, rng: Rng, norm_before_residual: bool) -> None:
        self.config, self.norm_before_residual = config, norm_before_residual
        size, eps = config.hidden_size, config.norm_eps
        queries, kv_size = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        self.token_norm = RMSNorm(size, eps)
        self.state_norm = RMSNorm(size, eps)
        self.qkv = Linear(2 * size, queries + 2 * kv_size, rng)
        self.attention_output = Linear(queries, size, rng)
        self.feed_forward_norm = RMSNorm(size, eps)
        self.feed_forward = FeedForward(config, rng)
        self.rotary = Rotary(config.head_dim, config.rope_theta, config.rope_scaling)
        if rng is not None:
            rows = self.qkv.weight.data
            if kv_size == queries:
                rows[queries : 2 * queries] = rows[:queries]
            self.attention_output.weight.data *= np.float32(0.5)

    def inputs(self, state: Tensor, token: Tensor) -> tuple[Tensor, Tensor]:
        """states and tokens (..., D) -> the residual (..., D), and queries, keys and values
        (..., (H + 2G) C).
        """
        normed = self.state_norm(state)
        joined = concatenate(self.token_norm(token), normed)  # (..., 2D)
        return (normed if self.norm_before_residual else state), self.qkv(joined)

    def split(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(..., (H + 2G) C) -> queries (..., H C), keys and values (..., G C)."""
        queries = self.config.num_heads * self.config.head_dim
        keys = queries + self.config.num_kv_heads * self.config.head_dim
        return qkv[..., :queries], qkv[..., queries:keys], qkv[..., keys:]

    def finish(self, residual: Tensor, attended: Tensor) -> Tensor:
        """residual (..., D), attended (..., H C) -> the block's output y (..., D)."""
        x = residual + self.attention_output(attended)
        return x + self.feed_forward(self.feed_forward_norm(x))


class Eagle3Heads(Heads):
    """One head for all depths.

    config: the sizes of the block. layers: the trunk layers whose inputs it reads; None means
    `default_layers` of a trunk with config.num_layers.
    draft_vocabulary_size: the number of tokens that it may draft; None means all. own_output: an
    output matrix of its own, instead of the trunk's rows. start_scale: factor on the norm before
    the output. At full scale, a new head is too sure.
    """

    can_skip_positions = True

    def __init__(
        self,
        depth: int,
        config: ModelConfig,
        rng: Rng,
        layers: tuple[int, ...] | None = None,
        draft_vocabulary_size: int | None = None,
        own_output: bool = False,
        norm_before_residual: bool = False,
        norm_before_fc: bool = True,
        start_scale: float = 1.0,
    ) -> None:
        self.depth, self.layers = depth, layers or default_layers(config.num_layers)
        self.config = replace(config, num_layers=1)
        size, features = config.hidden_size, len(self.layers) * config.hidden_size
        self.fc_norm = RMSNorm(features, config.norm_eps) if norm_before_fc else None
        self.fc = Linear(features, size, rng)
        self.block = Eagle3Block(config, rng, norm_before_residual)
        self.norm = RMSNorm(size, config.norm_eps)
        if rng is not None:
            weight = self.fc.weight.data
            weight *= START_DEVIATION * np.float32(weight.shape[1] ** 0.5)
            weight[:, -size:] = np.eye(size, dtype=np.float32)
            self.norm.weight.data *= np.float32(start_scale)
        if draft_vocabulary_size is not None:
            self.draft_vocabulary = DraftVocabulary(draft_vocabulary_size, config.vocabulary_size)
        if own_output:
            self.output = Linear(size, draft_vocabulary_size or config.vocabulary_size, rng)

    def start_from(self, trunk: Transformer) -> None:
        """Let a new head start where a trained trunk ends: g is c, normalized as the trunk's last
        layer normalizes it, and an output of its own has the trunk's rows. The trunk is in full
        precision.
        """
        gain, size = trunk.final_norm.weight.data, self.config.hidden_size
        self.fc.weight.data[:, -size:] = np.diag(gain)
        self.norm.weight.data *= np.sqrt((gain * gain).mean())
        if self.output is not None:
            rows = np.arange(len(self.output.weight.data))
            if self.draft_vocabulary is not None:
                rows = self.draft_vocabulary.ids.data
            self.output.weight.data[...] = trunk.output_matrix.select(rows).weight.data

    def fuse(self, features: Tensor) -> Tensor:
        """features (..., F D), the inputs of the trunk's layers -> g (..., D)."""
        return self.fc(features if self.fc_norm is None else self.fc_norm(features))

    def states(self, hidden: Tensor, following: Array, trunk: Transformer) -> Iterator[Tensor]:
        yield from self.states_at(ALL, hidden, following, trunk)

    def states_at(
        self, positions: slice, hidden: Tensor, following: Array, trunk: Transformer
    ) -> Iterator[Tensor]:
        length, block = hidden.shape[1], self.block
        xp = array_module(hidden.data)
        anchors = xp.arange(length)[positions]  # (n,)
        cosine, sine = block.rotary.tables(length + self.depth, hidden.data)  # (T + K, C/2)
        state = self.fuse(hidden[..., self.config.hidden_size :])  # (B, T, D)
        residual, qkv = block.inputs(state, trunk.embedding(following[:, :, 0]))
        queries, keys, values = block.split(qkv)  # (B, T, ...)
        keys = Rotate(cosine[:length], sine[:length]).apply(keys)
        queries, residual = at_positions(queries, positions), at_positions(residual, positions)
        own: list[Tensor] = []
        for k in range(self.depth):
            at = anchors + k  # the rows of the chains
            if k:
                token = trunk.embedding(following[:, positions, k])  # (B, n, D)
                residual, qkv = block.inputs(state, token)
                queries, own_keys, own_values = block.split(qkv)
                own += [Rotate(cosine[at], sine[at]).apply(own_keys), own_values]
            queries = Rotate(cosine[at], sine[at]).apply(queries)
            attention = UnrolledAttention(self.config.num_heads, self.config.num_kv_heads, anchors)
            attended = attention.apply(queries, keys, values, *own)  # (B, n, H*C)
            state = block.finish(residual, attended)  # (B, n, D)
            yield self.norm(state)


def default_layers(num_layers: int) -> tuple[int, int, int]:
    """Return the layers that a head reads if none are chosen."""
    if num_layers >= 8:
        return published_layers(num_layers)
    return num_layers // 4, num_layers // 2, num_layers


def published_layers(num_layers: int) -> tuple[int, int, int]:
    """Return the layers that llama.cpp and vLLM assume if a file names none."""
    return 2, num_layers // 2, num_layers - 3
