"""Train the standard model in PyTorch: eagerly, compiled, or with whole steps as a CUDA graph.

Everything that can be equal is equal: initial weights, batches, schedule, gradient clipping, and
AdamW with weight decay on matrices only. Each operation is PyTorch's own fused one, if there is
one: rms_norm, scaled_dot_product_attention with grouped heads, silu, cross_entropy, AdamW. Eagerly,
the rotation is one complex product, the fastest of the three usual ways on a CPU. torch.compile
generates no code for complex numbers. For it the rotation is written in real numbers, and the
compiler fuses it.

**Precision** is set as a PyTorch user sets it. tf32 allows cuBLAS to use it. With 16 bits the
forward pass runs under autocast and the weights stay float32. In float16 a GradScaler scales the
loss. It starts where ours does (training/loss_scale.py), and a step that overflows is repeated with
half the scale, like ours. So both implementations take the same steps.

**On a GPU** a batch is copied from pinned memory, and the host does not wait for the copy. Losses
stay on the GPU until the round is over. Only in float16, the host waits after each step to learn
whether it overflowed. Fused attention accepts grouped heads in 16 bits only, so with more bits keys
and values are repeated. Otherwise PyTorch would store every attention probability.
"""

import os
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from minimtp.backend import BLAS_THREAD_VARIABLES
from minimtp.backend import numpy as np
from minimtp.bench.baselines.pytorch.device import elapsed, on_stream, recorded, torch_on
from minimtp.engine.precision import SIXTEEN_BITS
from minimtp.extras import first_cause
from minimtp.training import schedule
from minimtp.training.build import build_model
from minimtp.training.loss_scale import FIRST, PATIENCE
from minimtp.training.recipe import Recipe

if TYPE_CHECKING:
    import torch


class TorchTrainer:
    """The recipe's standard model in training, in the recipe's precision.

    Uses `threads` CPU threads or a GPU. Raises ImportError if PyTorch cannot be used.
    """

    name, how = "PyTorch", "eager, fused AdamW"
    recordable = False  # for recorded steps: values that change between steps stay on the device

    def __init__(self, recipe: Recipe, threads: int, device: str = "cpu") -> None:
        # minimtp sets these to 1 for NumPy's BLAS. PyTorch reads them when it is imported.
        for variable in BLAS_THREAD_VARIABLES:
            os.environ.pop(variable, None)
        self.torch = torch = torch_on(device)
        self.recipe, self.device, self.steps_taken = recipe, device, 0
        torch.set_num_threads(threads)
        if device == "cuda":
            exact = recipe.precision == "float32"
            torch.set_float32_matmul_precision("highest" if exact else "high")
        self.about = {
            "title": f"{self.name} {torch.__version__}",
            "threads": torch.get_num_threads(),
            "how": self.how,
            "versions": {"torch": str(torch.__version__)},  # unpickling its own type loads PyTorch
        }
        model = build_model(recipe, np.random.default_rng(recipe.seed))
        self.weights = {
            name: torch.tensor(parameter.data, device=device, requires_grad=True)
            for name, parameter in model.named_parameters()
        }
        frequencies = model.blocks[0].attention.rotary.frequencies
        angles = np.arange(recipe.context_length)[:, None] * frequencies  # (T, C/2)
        turns = np.exp(1j * angles).astype(np.complex64)
        self.turns = torch.tensor(turns, device=device)[:, None]  # (T, 1, C/2)
        self.optimizer = self._new_optimizer()
        self.scaler = torch.amp.GradScaler(
            device,
            init_scale=FIRST,
            growth_interval=PATIENCE,
            enabled=recipe.precision == "float16",
        )
        self.scale = self.scaler.get_scale()

    def _new_optimizer(self) -> "torch.optim.AdamW":
        torch, recipe, weights = self.torch, self.recipe, self.weights.values()
        matrices = [weight for weight in weights if weight.ndim >= 2]
        vectors = [weight for weight in weights if weight.ndim < 2]
        return torch.optim.AdamW(
            [
                {"params": matrices, "weight_decay": recipe.weight_decay},
                {"params": vectors, "weight_decay": 0.0},
            ],
            lr=torch.zeros((), device=self.device) if self.recordable else 0.0,
            betas=(recipe.beta1, recipe.beta2),
            eps=1e-8,
            fused=True,
            capturable=self.recordable,
        )

    def run(self, batches: Sequence[np.ndarray]) -> list[float]:
        """Take a step on each batch (B, T + 1); return the mean losses in nats before each step."""
        return self.torch.stack([self.step(self.to_device(tokens)) for tokens in batches]).tolist()

    def elapsed(self, run: Callable[[], object]) -> float | None:
        """Call run(); return the GPU's own seconds, or None on the CPU."""
        if self.device == "cuda":
            return elapsed(self.torch, run)
        run()
        return None

    def release(self) -> None:
        """Give back the GPU memory that only a step needs."""
        self.optimizer.zero_grad(set_to_none=True)
        self.torch.cuda.empty_cache()

    def to_device(self, tokens: np.ndarray) -> "torch.Tensor":
        """Return the batch on the device."""
        return self.pinned(tokens).to(self.device, non_blocking=True)

    def pinned(self, tokens: np.ndarray) -> "torch.Tensor":
        """Return the batch in host memory that the device can copy while the host continues."""
        tensor = self.torch.from_numpy(tokens)
        return tensor.pin_memory() if self.device == "cuda" else tensor

    def step(self, tokens: "torch.Tensor") -> "torch.Tensor":
        """Take one step on a batch (B, T + 1) on the device; return the mean loss () before it."""
        self.set_learning_rate(schedule.learning_rate(self.recipe, self.steps_taken))
        while True:
            loss = self.attempt(tokens)
            before, self.scale = self.scale, self.scaler.get_scale()
            if self.scale >= before:
                break
        self.steps_taken += 1
        return loss

    def set_learning_rate(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def attempt(self, tokens: "torch.Tensor") -> "torch.Tensor":
        """Take the step, unless its gradients overflow. Then only the loss scale is halved."""
        torch, precision = self.torch, self.recipe.precision
        self.optimizer.zero_grad(set_to_none=True)
        options = {"enabled": False}
        if precision in SIXTEEN_BITS:
            options = {"dtype": getattr(torch, precision)}
        # No weight is used twice, so caching its 16-bit copy would only waste memory.
        with torch.autocast(self.device, cache_enabled=False, **options):
            loss = self.loss(tokens[:, :-1], tokens[:, 1:])
        self.scaler.scale(loss).backward()
        if self.recipe.max_gradient_norm:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.weights.values(), self.recipe.max_gradient_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss.detach()

    def loss(self, tokens: "torch.Tensor", targets: "torch.Tensor") -> "torch.Tensor":
        """tokens (B, T), targets (B, T) -> the mean loss in nats."""
        logits = self._logits(tokens).flatten(0, 1).float()
        return self.torch.nn.functional.cross_entropy(logits, targets.flatten())

    def _logits(self, tokens: "torch.Tensor") -> "torch.Tensor":
        """tokens (B, T) -> (B, T, V)."""
        functional, weights = self.torch.nn.functional, self.weights
        linear = functional.linear
        x = functional.embedding(tokens, weights["embedding.weight"])  # (B, T, D)
        for layer in range(self.recipe.num_layers):
            block = f"blocks.{layer}"
            normed = self._norm(x, f"{block}.attention_norm")
            qkv = linear(normed, weights[f"{block}.attention.qkv.weight"])
            x = x + linear(self._attention(qkv), weights[f"{block}.attention.output.weight"])
            normed = self._norm(x, f"{block}.feed_forward_norm")
            gate_up = linear(normed, weights[f"{block}.feed_forward.gate_up.weight"])
            gate, up = gate_up.chunk(2, dim=-1)
            down = weights[f"{block}.feed_forward.down.weight"]
            x = x + linear(functional.silu(gate) * up, down)
        output = weights["embedding.weight" if self.recipe.tied_embeddings else "output.weight"]
        return linear(self._norm(x, "final_norm"), output)

    def _norm(self, x: "torch.Tensor", name: str) -> "torch.Tensor":
        weight = self.weights[f"{name}.weight"]
        return self.torch.nn.functional.rms_norm(x, weight.shape, weight, self.recipe.norm_eps)

    def _attention(self, qkv: "torch.Tensor") -> "torch.Tensor":
        """(B, T, (H + 2G) C) -> (B, T, H C)."""
        heads, kv_heads = self.recipe.num_heads, self.recipe.num_kv_heads
        joined = qkv.unflatten(-1, (heads + 2 * kv_heads, -1))  # (B, T, H+2G, C)
        pairs = joined[:, :, : heads + kv_heads].unflatten(-1, (-1, 2))  # (B, T, H+G, C/2, 2)
        rotated = self._rotate(pairs).flatten(-2).transpose(1, 2)  # (B, H+G, T, C)
        query, key = rotated.split([heads, kv_heads], dim=1)  # (B, H, T, C), (B, G, T, C)
        value = joined[:, :, heads + kv_heads :].transpose(1, 2)  # (B, G, T, C)
        sixteen_bits = self.recipe.precision in SIXTEEN_BITS
        if self.device == "cuda" and kv_heads < heads and not sixteen_bits:
            key, value = self._repeat(key), self._repeat(value)  # (B, H, T, C) each
            kv_heads = heads
        attention = self.torch.nn.functional.scaled_dot_product_attention
        attended = attention(query, key, value, is_causal=True, enable_gqa=kv_heads < heads)
        return attended.transpose(1, 2).flatten(2)

    def _repeat(self, x: "torch.Tensor") -> "torch.Tensor":
        """Return keys or values (B, G, T, C) repeated for every query head: (B, H, T, C)."""
        times = self.recipe.num_heads // self.recipe.num_kv_heads
        return x.unsqueeze(2).expand(-1, -1, times, -1, -1).flatten(1, 2)

    def _rotate(self, pairs: "torch.Tensor") -> "torch.Tensor":
        """Turn pairs (B, T, H, C/2, 2) by their position's angles, in float32."""
        turned = self.torch.view_as_complex(pairs.float()) * self.turns
        return self.torch.view_as_real(turned).type_as(pairs)


class CompiledTorchTrainer(TorchTrainer):
    """The same on the CPU through torch.compile, forward and backward.

    Raises ImportError if PyTorch finds no C++ compiler.
    """

    name, how = "torch.compile", "inductor, fused AdamW"

    def __init__(self, recipe: Recipe, threads: int, device: str = "cpu") -> None:
        # A pool of compile processes would outlive this one.
        os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
        super().__init__(recipe, threads, device)
        try:
            self.torch.compile(lambda x: x + 1)(self.torch.zeros(2))
        # PyTorch raises a different class for each way in which a compiler can be missing.
        except Exception as error:
            cause = first_cause(error)
            raise ImportError(f"torch.compile does not work here: {cause}") from None
        self.cosine, self.sine = self.torch.view_as_real(self.turns).unbind(-1)  # (T, 1, C/2) each
        self.loss = self.torch.compile(self.loss)

    def _rotate(self, pairs: "torch.Tensor") -> "torch.Tensor":
        first, second = pairs.unbind(-1)
        turned_first = first * self.cosine - second * self.sine
        turned_second = first * self.sine + second * self.cosine
        return self.torch.stack((turned_first, turned_second), dim=-1)


class GraphedTorchTrainer(TorchTrainer):
    """The same with whole steps recorded as a CUDA graph: forward, backward, clipping and AdamW are
    one launch.

    It follows PyTorch's rules for recording. The first steps run on another stream, to do the setup
    that is not allowed in a recording. Batch and learning rate have fixed addresses. Gradients are
    unset when the recording begins, so they are allocated in its memory. The first steps are part
    of the training.
    """

    name, how = "PyTorch, CUDA graph", "whole steps recorded, fused AdamW"
    recordable = True
    WARM_UP_STEPS = 3

    def __init__(self, recipe: Recipe, threads: int, device: str = "cuda") -> None:
        super().__init__(recipe, threads, device)
        shape = (recipe.batch_size, recipe.context_length + 1)
        self.tokens = self.torch.zeros(shape, dtype=self.torch.int64, device=device)
        self.stream = self.torch.cuda.Stream()
        self.attempts = 0
        self.replay: Callable[[], object] | None = None
        self.recorded_loss: torch.Tensor | None = None  # where the recording writes the loss

    def release(self) -> None:
        self.replay = self.recorded_loss = None  # recorded again in the next step
        super().release()

    def to_device(self, tokens: np.ndarray) -> "torch.Tensor":
        self.tokens.copy_(self.pinned(tokens), non_blocking=True)
        return self.tokens

    def set_learning_rate(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"].fill_(rate)

    def attempt(self, tokens: "torch.Tensor") -> "torch.Tensor":
        self.attempts += 1
        if self.attempts <= self.WARM_UP_STEPS:
            attempt = super().attempt
            # AdamW warns that it would be faster if it were never recorded.
            with warnings.catch_warnings(action="ignore", category=UserWarning):
                return on_stream(self.torch, self.stream, lambda: attempt(tokens))
        if self.replay is None:
            # Unset them before the recording: it cannot use memory that it frees itself.
            self.optimizer.zero_grad(set_to_none=True)
            self.replay = recorded(self.torch, self._attempt_and_keep_loss)
        self.replay()
        return self.recorded_loss.clone()

    def _attempt_and_keep_loss(self) -> None:
        self.recorded_loss = super().attempt(self.tokens)
