"""Decode a full-precision trunk in PyTorch: eagerly, or with the forward pass of one token as a
CUDA graph.

Weights and cache have one dtype, float32 or float16. Angles and logits are float32. The query heads
of a group are rows of one product with the group's keys. So no key is repeated, and every attention
kernel of PyTorch accepts them.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from minimtp.backend import numpy as np
from minimtp.backend import to_numpy
from minimtp.bench.baselines.pytorch.device import captured, median_elapsed, torch_on
from minimtp.decode.target import ForwardOutput
from minimtp.model.transformer import Transformer

if TYPE_CHECKING:
    import torch


class TorchDecoder:
    """A trunk with a cache of keys and values: a `Target` (decode/target.py).

    Uses one CPU thread, as minimtp does, or a GPU. dtype: "float32" or "float16".
    Raises ImportError if PyTorch cannot be used.
    """

    def __init__(self, trunk: Transformer, device: str = "cpu", dtype: str = "float32") -> None:
        self.torch = torch = torch_on(device)
        torch.set_num_threads(1)
        config = trunk.config
        self.device, self.config, self.length = device, config, 0
        self.vocabulary_size, self.context_length = config.vocabulary_size, config.context_length
        self.max_rows = self.context_length
        options = {"device": device, "dtype": getattr(torch, dtype)}
        self.weights = {
            name: torch.tensor(to_numpy(parameter.data), **options)
            for name, parameter in trunk.named_parameters()
        }
        frequencies = trunk.blocks[0].attention.rotary.frequencies
        angles = np.arange(self.context_length)[:, None] * frequencies  # (S, C/2)
        turns = np.exp(1j * angles).astype(np.complex64)
        self.turns = torch.tensor(turns, device=device)[:, None]  # (S, 1, C/2)
        self.positions = torch.arange(self.context_length, device=device)  # (S,)
        shape = (config.num_layers, config.num_kv_heads, self.context_length, config.head_dim)
        self.keys = torch.zeros(shape, **options)  # (L, G, S, C)
        self.values = torch.zeros(shape, **options)  # (L, G, S, C)

    def truncate(self, length: int) -> None:
        """Drop the positions from `length` on."""
        self.length = length

    def forward(self, tokens: np.ndarray) -> ForwardOutput:
        """Feed (T,) integers after the cached positions."""
        with self.torch.inference_mode():
            logits = self.launch(self.torch.from_numpy(np.asarray(tokens)).to(self.device))
            self.length += len(tokens)
            host = logits.float().cpu().numpy()
            return ForwardOutput(host, host[:, :0])  # no drafter reads hidden states

    def seconds_per_pass(self, calls: int, times: int) -> float:
        """Return the GPU seconds of a forward pass over one token after the cached tokens: the
        median of `times` runs of `calls` passes.
        """
        with self.torch.inference_mode():
            token = self.positions[:1]

            def run() -> None:
                for _ in range(calls):
                    self.launch(token)

            return median_elapsed(self.torch, run, times) / calls

    def launch(self, tokens: "torch.Tensor") -> "torch.Tensor":
        """Return the logits (T, V) of (T,) tokens on the device. Does not synchronize, and does not
        change the length.
        """
        stop = self.length + len(tokens)
        return self._pass(tokens, self.positions[self.length : stop], stop, masked=len(tokens) > 1)

    def _pass(
        self, tokens: "torch.Tensor", positions: "torch.Tensor", stop: int, masked: bool
    ) -> "torch.Tensor":
        """Run the forward pass of tokens (T,) at `positions` (T,), which attend to the cached
        positions before `stop`.

        masked: each token attends only to positions up to its own.
        """
        torch, config, weights = self.torch, self.config, self.weights
        functional = torch.nn.functional
        x = functional.embedding(tokens, weights["embedding.weight"])  # (T, D)
        turns = self.turns.index_select(0, positions)  # (T, 1, C/2)
        mask = self._mask(positions, stop, x.dtype) if masked else None  # (H/G T, S)
        for layer in range(config.num_layers):
            block = f"blocks.{layer}"
            normed = self._norm(x, f"{block}.attention_norm")
            qkv = functional.linear(normed, weights[f"{block}.attention.qkv.weight"])
            attended = self._attend(layer, qkv, positions, turns, stop, mask)  # (T, H C)
            x = x + functional.linear(attended, weights[f"{block}.attention.output.weight"])
            normed = self._norm(x, f"{block}.feed_forward_norm")
            gate_up = functional.linear(normed, weights[f"{block}.feed_forward.gate_up.weight"])
            gate, up = gate_up.chunk(2, dim=-1)
            down = weights[f"{block}.feed_forward.down.weight"]
            x = x + functional.linear(functional.silu(gate) * up, down)
        output = weights["embedding.weight" if config.tied_embeddings else "output.weight"]
        return functional.linear(self._norm(x, "final_norm"), output)

    def _norm(self, x: "torch.Tensor", name: str) -> "torch.Tensor":
        config, weight = self.config, self.weights[f"{name}.weight"]
        return self.torch.nn.functional.rms_norm(x, (config.hidden_size,), weight, config.norm_eps)

    def _mask(self, positions: "torch.Tensor", stop: int, dtype: "torch.dtype") -> "torch.Tensor":
        hidden = self.positions[:stop] > positions[:, None]  # (T, S)
        mask = self.torch.zeros(hidden.shape, dtype=dtype, device=self.device)
        mask.masked_fill_(hidden, float("-inf"))
        return mask.repeat(self.config.num_heads // self.config.num_kv_heads, 1)  # (H/G T, S)

    def _attend(
        self,
        layer: int,
        qkv: "torch.Tensor",
        positions: "torch.Tensor",
        turns: "torch.Tensor",
        stop: int,
        mask: "torch.Tensor | None",
    ) -> "torch.Tensor":
        """Store keys and values (T rows) in the cache and attend: (T, (H+2G) C) -> (T, H C)."""
        torch, config = self.torch, self.config
        heads, kv_heads = config.num_heads, config.num_kv_heads
        joined = qkv.unflatten(-1, (heads + 2 * kv_heads, -1))  # (T, H+2G, C)
        queries_and_keys = joined[:, : heads + kv_heads].float().unflatten(-1, (-1, 2))
        pairs = torch.view_as_complex(queries_and_keys)  # (T, H+G, C/2)
        rotated = torch.view_as_real(pairs * turns).flatten(-2)
        rotated = rotated.type_as(qkv).transpose(0, 1)  # (H+G, T, C)
        self.keys[layer].index_copy_(1, positions, rotated[heads:])
        self.values[layer].index_copy_(1, positions, joined[:, heads + kv_heads :].transpose(0, 1))
        queries = rotated[:heads].reshape(1, kv_heads, -1, config.head_dim)  # (1, G, H/G T, C)
        keys = self.keys[layer, None, :, :stop]  # (1, G, S, C)
        values = self.values[layer, None, :, :stop]  # (1, G, S, C)
        attention = torch.nn.functional.scaled_dot_product_attention
        attended = attention(queries, keys, values, attn_mask=mask)
        return attended.reshape(heads, len(qkv), -1).transpose(0, 1).flatten(1)  # (T, H C)


class GraphedTorchDecoder(TorchDecoder):
    """The same decoder. It records the forward pass over one token once and replays it.

    The recorded pass reads the whole cache with a mask, because a length cannot be recorded.
    """

    def __init__(self, trunk: Transformer, device: str = "cuda", dtype: str = "float32") -> None:
        super().__init__(trunk, device, dtype)
        self.token = self.torch.zeros(1, dtype=self.torch.int64, device=self.device)
        self.position = self.torch.zeros(1, dtype=self.torch.int64, device=self.device)
        self.replay: Callable[[], object] | None = None
        self.logits: torch.Tensor | None = None

    def launch(self, tokens: "torch.Tensor") -> "torch.Tensor":
        if len(tokens) > 1:
            return super().launch(tokens)
        self.token.copy_(tokens)
        self.position.fill_(self.length)
        if self.replay is None:
            self.replay = captured(self.torch, self._one)
        self.replay()
        return self.logits

    def _one(self) -> None:
        self.logits = self._pass(self.token, self.position, self.context_length, masked=True)
