"""The same training in PyTorch, to be measured beside ours: what a competent user of PyTorch would write, eagerly.

Everything that can be equal is: the first weights, the batches, the schedule, clipping, and AdamW with decay on the matrices
only. Each operation is PyTorch's own fused one where it has one (rms_norm, scaled_dot_product_attention with grouped heads,
silu, cross_entropy, AdamW); the rotation is one complex product, the fastest of the three usual ways on a CPU.

The only file that imports PyTorch, and not before a peer is made.
"""

import os

from minimtp.backend import BLAS_THREAD_VARIABLES
from minimtp.backend import numpy as np
from minimtp.training import schedule
from minimtp.training.build import build_model
from minimtp.training.recipe import Recipe


class TorchPeer:
    """The recipe's standard model in training, on `threads` threads. Raises ImportError where PyTorch cannot be used."""

    def __init__(self, recipe: Recipe, threads: int) -> None:
        for variable in BLAS_THREAD_VARIABLES:  # set to 1 for NumPy's sake; PyTorch reads them when it is imported
            os.environ.pop(variable, None)
        import torch

        torch.set_num_threads(threads)
        self.torch, self.recipe, self.step = torch, recipe, 0
        self.about = {
            "title": f"PyTorch {torch.__version__}",
            "threads": torch.get_num_threads(),
            "how": "eager, fused AdamW",
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
        logits = self._logits(tokens[:, :-1])
        loss = self.torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.recipe.clip:
            self.torch.nn.utils.clip_grad_norm_(self.weights.values(), self.recipe.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = schedule.learning_rate(self.recipe, self.step)
        self.optimizer.step()
        self.step += 1
        return loss.item()

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
        pairs = torch.view_as_complex(joined[:, :, : heads + groups].unflatten(-1, (-1, 2)))  # (B, T, H+G, C/2)
        rotated = torch.view_as_real(pairs * self.turn).flatten(-2)  # (B, T, H+G, C)
        query, key = rotated.transpose(1, 2).split([heads, groups], dim=1)  # (B, H, T, C), (B, G, T, C)
        value = joined[:, :, heads + groups :].transpose(1, 2)
        attention = torch.nn.functional.scaled_dot_product_attention
        context = attention(query, key, value, is_causal=True, enable_gqa=groups < heads)
        return context.transpose(1, 2).flatten(2)
