"""The same training and decoding in PyTorch, to be measured beside ours: what a competent user of PyTorch would write.

Everything that can be equal is: the first weights, the batches, the schedule, clipping, and AdamW with decay on the matrices
only. Each operation is PyTorch's own fused one where it has one (rms_norm, scaled_dot_product_attention with grouped heads,
silu, cross_entropy, AdamW). Eagerly, the rotation is one complex product, the fastest of the three usual ways on a CPU; for
torch.compile, which makes no code of complex numbers, it is written in real ones and fused by the compiler.

The only file that imports PyTorch, and not before a peer is made.
"""

import os
from collections.abc import Callable
from types import ModuleType
from typing import NamedTuple

from minimtp.backend import BLAS_THREAD_VARIABLES
from minimtp.backend import numpy as np
from minimtp.model.transformer import Transformer
from minimtp.training import schedule
from minimtp.training.build import build_model
from minimtp.training.recipe import Recipe


class TorchPeer:
    """The recipe's standard model in training, on `threads` threads. Raises ImportError where PyTorch cannot be used."""

    name, how = "PyTorch", "eager, fused AdamW"

    def __init__(self, recipe: Recipe, threads: int) -> None:
        for variable in BLAS_THREAD_VARIABLES:  # set to 1 for NumPy's sake; PyTorch reads them when it is imported
            os.environ.pop(variable, None)
        import torch

        torch.set_num_threads(threads)
        self.torch, self.recipe, self.step = torch, recipe, 0
        self.about = {
            "title": f"{self.name} {torch.__version__}",
            "threads": torch.get_num_threads(),
            "how": self.how,
            "versions": {"torch": torch.__version__},
        }
        model = build_model(recipe, np.random.default_rng(recipe.seed))
        arrays = {name: parameter.data for name, parameter in model.named_parameters()}
        self.weights = {name: torch.tensor(array, requires_grad=True) for name, array in arrays.items()}
        position = np.arange(recipe.context)[:, None] * model.blocks[0].attention.rotary.frequencies  # (T, C/2)
        self.turn = torch.tensor(np.exp(1j * position).astype(np.complex64))[:, None]  # (T, 1, C/2)
        weights = self.weights.values()
        groups = [
            {"params": [w for w in weights if w.ndim >= 2], "weight_decay": recipe.weight_decay},
            {"params": [w for w in weights if w.ndim < 2], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, betas=(recipe.beta1, recipe.beta2), eps=1e-8, fused=True)

    def advance(self, tokens: np.ndarray) -> float:
        """One step on a batch (B, T + 1); the mean loss in nats, before the step."""
        tokens = self.torch.from_numpy(tokens)
        loss = self.loss(tokens[:, :-1], tokens[:, 1:])
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.recipe.clip:
            self.torch.nn.utils.clip_grad_norm_(self.weights.values(), self.recipe.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = schedule.learning_rate(self.recipe, self.step)
        self.optimizer.step()
        self.step += 1
        return loss.item()

    def loss(self, tokens, targets):
        """tokens (B, T), targets (B, T) -> the mean loss in nats."""
        return self.torch.nn.functional.cross_entropy(self._logits(tokens).flatten(0, 1), targets.flatten())

    def _logits(self, tokens):
        """tokens (B, T) -> (B, T, V)."""
        linear, weights = self.torch.nn.functional.linear, self.weights
        x = self.torch.nn.functional.embedding(tokens, weights["embedding.weight"])  # (B, T, D)
        for i in range(self.recipe.layers):
            block = f"blocks.{i}"
            qkv = linear(self._norm(x, f"{block}.attention_norm"), weights[f"{block}.attention.qkv.weight"])
            x = x + linear(self._attention(qkv), weights[f"{block}.attention.output.weight"])
            gate_up = linear(self._norm(x, f"{block}.feed_forward_norm"), weights[f"{block}.feed_forward.gate_up.weight"])
            gate, up = gate_up.chunk(2, dim=-1)
            x = x + linear(self.torch.nn.functional.silu(gate) * up, weights[f"{block}.feed_forward.down.weight"])
        output = weights["embedding.weight" if self.recipe.tied_embeddings else "output.weight"]
        return linear(self._norm(x, "final_norm"), output)

    def _norm(self, x, name: str):
        weight = self.weights[f"{name}.weight"]
        return self.torch.nn.functional.rms_norm(x, weight.shape, weight, self.recipe.norm_epsilon)

    def _attention(self, qkv):
        """(B, T, (H + 2G) C) -> (B, T, H C)."""
        torch, heads, groups = self.torch, self.recipe.attention_heads, self.recipe.key_value_heads
        joined = qkv.unflatten(-1, (heads + 2 * groups, -1))  # (B, T, H+2G, C)
        rotated = self._rotated(joined[:, :, : heads + groups].unflatten(-1, (-1, 2))).flatten(-2)  # (B, T, H+G, C)
        query, key = rotated.transpose(1, 2).split([heads, groups], dim=1)  # (B, H, T, C), (B, G, T, C)
        value = joined[:, :, heads + groups :].transpose(1, 2)
        attention = torch.nn.functional.scaled_dot_product_attention
        context = attention(query, key, value, is_causal=True, enable_gqa=groups < heads)
        return context.transpose(1, 2).flatten(2)

    def _rotated(self, pairs):
        """Channels in pairs (B, T, H, C/2, 2), turned by their position's angles."""
        return self.torch.view_as_real(self.torch.view_as_complex(pairs) * self.turn)


class CompiledTorchPeer(TorchPeer):
    """The same through torch.compile, forward and backward. Raises ImportError where PyTorch finds no C++ compiler."""

    name, how = "torch.compile", "inductor, fused AdamW"

    def __init__(self, recipe: Recipe, threads: int) -> None:
        os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # no pool of processes that would outlive this one
        super().__init__(recipe, threads)
        try:
            self.torch.compile(lambda x: x + 1)(self.torch.zeros(2))
        except Exception as error:  # PyTorch wraps a missing compiler in classes of its own, one for each way to miss it
            raise ImportError(f"torch.compile does not work here: {str(error).splitlines()[0]}") from None
        self.cosine, self.sine = self.torch.view_as_real(self.turn).unbind(-1)  # (T, 1, C/2) each
        self.loss = self.torch.compile(self.loss)

    def _rotated(self, pairs):
        first, second = pairs.unbind(-1)
        turned = first * self.cosine - second * self.sine, first * self.sine + second * self.cosine
        return self.torch.stack(turned, dim=-1)


class TorchDecoder:
    """A full-precision trunk decoding in PyTorch with a cache of keys and values: a `Target` of decode/loop.py.

    One thread, as minimtp decodes: so it may take its turns in the same process. Raises ImportError where PyTorch cannot be
    used.
    """

    def __init__(self, trunk: Transformer) -> None:
        import torch

        torch.set_num_threads(1)
        self.torch, self.shape, self.length = torch, trunk.shape, 0
        self.vocabulary_size, self.context_length = trunk.shape.vocabulary_size, trunk.shape.context
        self.weights = {name: torch.tensor(parameter.data) for name, parameter in trunk.named_parameters()}
        position = np.arange(self.context_length)[:, None] * trunk.blocks[0].attention.rotary.frequencies  # (S, C/2)
        self.turn = torch.tensor(np.exp(1j * position).astype(np.complex64))[:, None]  # (S, 1, C/2)
        rooms = (trunk.shape.layers, trunk.shape.key_value_heads, self.context_length, trunk.shape.channels)
        self.keys, self.values = torch.zeros(rooms), torch.zeros(rooms)  # (L, G, S, C)
        self.visible = torch.ones(self.context_length, self.context_length, dtype=torch.bool).tril()

    def truncate(self, length: int) -> None:
        """Forget the positions at and beyond `length`."""
        self.length = length

    def forward(self, tokens: np.ndarray) -> "Logits":
        """Feed (T,) integers behind the cached positions."""
        torch, functional, shape, weights = self.torch, self.torch.nn.functional, self.shape, self.weights
        start, stop = self.length, self.length + len(tokens)
        self.length = stop
        heads, groups, epsilon = shape.attention_heads, shape.key_value_heads, shape.norm_epsilon

        def norm(x, name: str):
            return functional.rms_norm(x, (shape.width,), weights[f"{name}.weight"], epsilon)

        with torch.inference_mode():
            x = functional.embedding(torch.from_numpy(np.asarray(tokens)), weights["embedding.weight"])  # (T, D)
            mask = self.visible[start:stop, :stop] if len(tokens) > 1 else None
            for i in range(shape.layers):
                block = f"blocks.{i}"
                qkv = functional.linear(norm(x, f"{block}.attention_norm"), weights[f"{block}.attention.qkv.weight"])
                joined = qkv.unflatten(-1, (heads + 2 * groups, -1))  # (T, H+2G, C)
                pairs = torch.view_as_complex(joined[:, : heads + groups].unflatten(-1, (-1, 2)))  # (T, H+G, C/2)
                rotated = torch.view_as_real(pairs * self.turn[start:stop]).flatten(-2).transpose(0, 1)  # (H+G, T, C)
                self.keys[i, :, start:stop] = rotated[heads:]
                self.values[i, :, start:stop] = joined[:, heads + groups :].transpose(0, 1)
                keys, values = self.keys[i, None, :, :stop], self.values[i, None, :, :stop]  # (1, G, S, C)
                context = functional.scaled_dot_product_attention(
                    rotated[None, :heads], keys, values, attn_mask=mask, enable_gqa=groups < heads
                )  # (1, H, T, C)
                context = context[0].transpose(0, 1).flatten(1)  # (T, H C)
                x = x + functional.linear(context, weights[f"{block}.attention.output.weight"])
                gate_up = weights[f"{block}.feed_forward.gate_up.weight"]
                gate_up = functional.linear(norm(x, f"{block}.feed_forward_norm"), gate_up)
                gate, up = gate_up.chunk(2, dim=-1)
                x = x + functional.linear(functional.silu(gate) * up, weights[f"{block}.feed_forward.down.weight"])
            hidden = norm(x, "final_norm")
            output = weights["embedding.weight" if shape.tied_embeddings else "output.weight"]
            return Logits(functional.linear(hidden, output).numpy())


class Logits(NamedTuple):
    """What a pass says: logits (T, V); no hidden states, since nothing drafts from them."""

    logits: np.ndarray
    hidden: None = None


def torch_with_cuda() -> ModuleType:
    """PyTorch, if it can use the GPU. Raises ImportError, saying why, where it cannot."""
    import torch

    if not torch.cuda.is_available():
        raise ImportError(f"PyTorch {torch.__version__} has no CUDA here")
    return torch


class TorchProduct:
    """float16 weights (N, K) on the GPU, times 1 to 16 rows, by PyTorch. Raises ImportError where it has no CUDA.

    copies: of the weights, used in turn, so that none is found in the cache.
    """

    def __init__(self, outputs: int, inputs: int, copies: int) -> None:
        self.torch = torch = torch_with_cuda()
        half = dict(device="cuda", dtype=torch.float16)
        self.weights = [torch.randn(outputs, inputs, **half) for _ in range(copies)]
        self.x = torch.randn(16, inputs, **half)

    def seconds(self, rows: int, as_graph: bool, calls: int, times: int) -> float:
        """Seconds of the device for one product, median of `times` runs of `calls`: launched anew, or as a CUDA graph."""
        torch = self.torch

        def run() -> None:
            for i in range(calls):
                torch.nn.functional.linear(self.x[:rows], self.weights[i % len(self.weights)])

        with torch.inference_mode():
            run()
            again = captured(torch, run) if as_graph else run
            found = []
            for _ in range(times):
                start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                start.record()
                again()
                end.record()
                end.synchronize()
                found.append(start.elapsed_time(end) / 1e3 / calls)
        return sorted(found)[len(found) // 2]


def captured(torch: ModuleType, run: Callable[[], object]) -> Callable[[], object]:
    """run() as a CUDA graph: what it launches, replayed. It runs three times beforehand, on another stream, as PyTorch asks."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay
