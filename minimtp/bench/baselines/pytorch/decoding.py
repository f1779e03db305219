"""A full-precision trunk decoding in PyTorch: eagerly, or a token's pass as a CUDA graph.

Weights and cache are of one type, float32 or float16; angles and logits are float32. The query
heads of a group are rows of one product with the group's keys, so that no key is repeated and every
kernel of PyTorch's attention takes them.
"""

from minimtp.backend import numpy as np
from minimtp.backend import to_numpy
from minimtp.bench.baselines.pytorch.device import captured, median_elapsed, torch_on
from minimtp.decode.target import ForwardOutput
from minimtp.model.transformer import Transformer


class TorchDecoder:
    """A trunk with a cache of keys and values: a `Target` of decode/generation.py.

    One thread of the CPU, as minimtp decodes, or a GPU: so it may take its turns in the same
    process. dtype: "float32" or "float16". Raises ImportError where PyTorch cannot be used.
    """

    def __init__(self, trunk: Transformer, device: str = "cpu", dtype: str = "float32") -> None:
        self.torch = torch = torch_on(device)
        torch.set_num_threads(1)
        self.device, self.shape, self.length = device, trunk.config, 0
        self.vocabulary_size, self.context_length = (
            trunk.config.vocabulary_size,
            trunk.config.context_length,
        )
        self.max_rows = self.context_length
        there = {"device": device, "dtype": getattr(torch, dtype)}
        self.weights = {
            name: torch.tensor(to_numpy(p.data), **there) for name, p in trunk.named_parameters()
        }
        position = (
            np.arange(self.context_length)[:, None] * trunk.blocks[0].attention.rotary.frequencies
        )  # (S, C/2)
        self.turn = torch.tensor(np.exp(1j * position).astype(np.complex64), device=device)[
            :, None
        ]  # (S, 1, C/2)
        self.positions = torch.arange(self.context_length, device=device)  # (S,)
        rooms = (
            trunk.config.num_layers,
            trunk.config.num_kv_heads,
            self.context_length,
            trunk.config.head_dim,
        )
        self.keys, self.values = (
            torch.zeros(rooms, **there),
            torch.zeros(rooms, **there),
        )  # (L, G, S, C)

    def truncate(self, length: int) -> None:
        """Forget the positions at and beyond `length`."""
        self.length = length

    def forward(self, tokens: np.ndarray) -> ForwardOutput:
        """Feed (T,) integers behind the cached positions."""
        with self.torch.inference_mode():
            logits = self.launch(self.torch.from_numpy(np.asarray(tokens)).to(self.device))
            self.length += len(tokens)
            host = logits.float().cpu().numpy()
            return ForwardOutput(host, host[:, :0])  # nothing drafts from hidden states

    def seconds_per_pass(self, calls: int, times: int) -> float:
        """Seconds of the GPU for a pass over one token behind the cached ones, median of `times`
        runs of `calls`."""
        with self.torch.inference_mode():
            token = self.positions[:1]

            def run() -> None:
                for _ in range(calls):
                    self.launch(token)

            return median_elapsed(self.torch, run, times) / calls

    def launch(self, tokens):
        """What computes the logits (T, V) of (T,) tokens on the device; it waits for nothing, and
        the length stays."""
        stop = self.length + len(tokens)
        return self._pass(tokens, self.positions[self.length : stop], stop, masked=len(tokens) > 1)

    def _pass(self, tokens, positions, stop: int, masked: bool):
        """Tokens (T,) at these positions, which see the cached ones before `stop` up to their own;
        masked: if not all."""
        torch, functional, config, weights = (
            self.torch,
            self.torch.nn.functional,
            self.shape,
            self.weights,
        )
        heads, groups, epsilon = config.num_heads, config.num_kv_heads, config.norm_eps

        def norm(x, name: str):
            return functional.rms_norm(x, (config.hidden_size,), weights[f"{name}.weight"], epsilon)

        x = functional.embedding(tokens, weights["embedding.weight"])  # (T, D)
        turn, mask = self.turn.index_select(0, positions), None  # (T, 1, C/2)
        if masked:
            hidden = self.positions[:stop] > positions[:, None]  # (T, S)
            mask = torch.zeros(hidden.shape, dtype=x.dtype, device=self.device).masked_fill_(
                hidden, float("-inf")
            )
            mask = mask.repeat(heads // groups, 1)  # (H/G T, S)
        for i in range(config.num_layers):
            block = f"blocks.{i}"
            qkv = functional.linear(
                norm(x, f"{block}.attention_norm"), weights[f"{block}.attention.qkv.weight"]
            )
            joined = qkv.unflatten(-1, (heads + 2 * groups, -1))  # (T, H+2G, C)
            pairs = torch.view_as_complex(
                joined[:, : heads + groups].float().unflatten(-1, (-1, 2))
            )  # (T, H+G, C/2)
            rotated = (
                torch.view_as_real(pairs * turn).flatten(-2).type_as(x).transpose(0, 1)
            )  # (H+G, T, C)
            self.keys[i].index_copy_(1, positions, rotated[heads:])
            self.values[i].index_copy_(1, positions, joined[:, heads + groups :].transpose(0, 1))
            keys, values = (
                self.keys[i, None, :, :stop],
                self.values[i, None, :, :stop],
            )  # (1, G, S, C)
            queries = rotated[:heads].reshape(1, groups, -1, config.head_dim)  # (1, G, H/G T, C)
            context_length = functional.scaled_dot_product_attention(
                queries, keys, values, attn_mask=mask
            )
            context_length = (
                context_length.reshape(heads, len(tokens), -1).transpose(0, 1).flatten(1)
            )  # (T, H C)
            x = x + functional.linear(context_length, weights[f"{block}.attention.output.weight"])
            gate_up = weights[f"{block}.feed_forward.gate_up.weight"]
            gate_up = functional.linear(norm(x, f"{block}.feed_forward_norm"), gate_up)
            gate, up = gate_up.chunk(2, dim=-1)
            x = x + functional.linear(
                functional.silu(gate) * up, weights[f"{block}.feed_forward.down.weight"]
            )
        output = weights["embedding.weight" if config.tied_embeddings else "output.weight"]
        return functional.linear(norm(x, "final_norm"), output)


class GraphedTorchDecoder(TorchDecoder):
    """The same, with a pass over one token recorded as a CUDA graph once and replayed. It reads the
    whole cache, behind a mask: its length cannot be recorded."""

    def __init__(self, trunk: Transformer, device: str = "cuda", dtype: str = "float32") -> None:
        super().__init__(trunk, device, dtype)
        self.token, self.position = (
            self.torch.zeros(1, dtype=self.torch.int64, device=self.device) for _ in range(2)
        )
        self.replay = self.logits = None

    def launch(self, tokens):
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
