"""The standard model in training in PyTorch: eager, through torch.compile, or whole steps as a CUDA
graph.

Everything that can be equal is: the first weights, the batches, the schedule, clipping, and AdamW
with decay on the matrices only. Each operation is PyTorch's own fused one where it has one
(rms_norm, scaled_dot_product_attention with grouped heads, silu, cross_entropy, AdamW). Eagerly,
the rotation is one complex product, the fastest of the three usual ways on a CPU; for
torch.compile, which makes no code of complex numbers, it is written in real ones and fused by the
compiler.

**Precision** is what a user of PyTorch sets for it: tf32 allows cuBLAS to use it; with 16 bits the
forward pass runs under autocast, weights stay float32, and in float16 a GradScaler scales the loss.
It starts where ours does (training/loss_scale.py), and a step that overflows is taken again with
half the scale, as ours is: so both sides take the same steps.

**On a GPU** a batch goes there from pinned memory, and nothing waits for it; losses stay there
until the round is over. Only in float16 the host asks after each step whether it was taken. Fused
attention takes grouped heads in 16 bits only, so with more bits keys and values are repeated for
it: without that PyTorch would keep every probability.
"""

import os
import warnings
from collections.abc import Callable, Sequence

from minimtp.backend import BLAS_THREAD_VARIABLES
from minimtp.backend import numpy as np
from minimtp.bench.baselines.pytorch.device import beside, elapsed, recorded, torch_on
from minimtp.engine.precision import SIXTEEN_BITS
from minimtp.training import schedule
from minimtp.training.build import build_model
from minimtp.training.loss_scale import FIRST, PATIENCE
from minimtp.training.recipe import Recipe


class TorchPeer:
    """The recipe's standard model in training, in the recipe's precision, on `threads` threads of
    the CPU or on a GPU.

    Raises ImportError where PyTorch cannot be used.
    """

    name, how = "PyTorch", "eager, fused AdamW"
    recordable = False  # whether a step can be recorded: then what changes from step to step lies on the device

    def __init__(self, recipe: Recipe, threads: int, device: str = "cpu") -> None:
        for variable in (
            BLAS_THREAD_VARIABLES
        ):  # set to 1 for NumPy's sake; PyTorch reads them when it is imported
            os.environ.pop(variable, None)
        self.torch = torch = torch_on(device)
        self.recipe, self.device, self.taken = recipe, device, 0
        torch.set_num_threads(threads)
        if device == "cuda":
            torch.set_float32_matmul_precision(
                "highest" if recipe.precision == "float32" else "high"
            )
        self.about = {
            "title": f"{self.name} {torch.__version__}",
            "threads": torch.get_num_threads(),
            "how": self.how,
            "versions": {
                "torch": str(torch.__version__)
            },  # as it is, who unpickles it loads PyTorch
        }
        model = build_model(recipe, np.random.default_rng(recipe.seed))
        arrays = {name: parameter.data for name, parameter in model.named_parameters()}
        self.weights = {
            name: torch.tensor(array, device=device, requires_grad=True)
            for name, array in arrays.items()
        }
        position = (
            np.arange(recipe.context_length)[:, None] * model.blocks[0].attention.rotary.frequencies
        )  # (T, C/2)
        self.turn = torch.tensor(np.exp(1j * position).astype(np.complex64), device=device)[
            :, None
        ]  # (T, 1, C/2)
        weights = self.weights.values()
        groups = [
            {"params": [w for w in weights if w.ndim >= 2], "weight_decay": recipe.weight_decay},
            {"params": [w for w in weights if w.ndim < 2], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(
            groups, lr=torch.zeros((), device=device) if self.recordable else 0.0, betas=(recipe.beta1, recipe.beta2), eps=1e-8,
            fused=True, capturable=self.recordable,
        )  # fmt: skip
        self.scaler = torch.amp.GradScaler(
            device,
            init_scale=FIRST,
            growth_interval=PATIENCE,
            enabled=recipe.precision == "float16",
        )
        self.scale = self.scaler.get_scale()

    def run(self, batches: Sequence[np.ndarray]) -> list[float]:
        """A step on each of the batches (B, T + 1); their mean losses in nats, each before its
        step."""
        return self.torch.stack([self.step(self.moved(tokens)) for tokens in batches]).tolist()

    def elapsed(self, run: Callable[[], object]) -> float | None:
        """Run it: the GPU's own seconds, None on the CPU."""
        if self.device == "cuda":
            return elapsed(self.torch, run)
        run()
        return None

    def release(self) -> None:
        """Give back the GPU memory that only a step needs."""
        self.optimizer.zero_grad(set_to_none=True)
        self.torch.cuda.empty_cache()

    def moved(self, tokens: np.ndarray):
        """The batch on the device."""
        return self.pinned(tokens).to(self.device, non_blocking=True)

    def pinned(self, tokens: np.ndarray):
        """The batch on the host, where the device fetches it while the host goes on."""
        tokens = self.torch.from_numpy(tokens)
        return tokens.pin_memory() if self.device == "cuda" else tokens

    def step(self, tokens):
        """One step on a batch (B, T + 1) on the device; the mean loss, (), before it."""
        self.set_rate(schedule.learning_rate(self.recipe, self.taken))
        while True:
            loss = self.attempt(tokens)
            before, self.scale = self.scale, self.scaler.get_scale()
            if self.scale >= before:
                break
        self.taken += 1
        return loss

    def set_rate(self, rate: float) -> None:
        """Of the next steps."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def attempt(self, tokens):
        """The step, unless its gradients overflow: then the scale is halved and nothing else has
        changed."""
        torch, precision = self.torch, self.recipe.precision
        self.optimizer.zero_grad(set_to_none=True)
        short = (
            {"dtype": getattr(torch, precision)}
            if precision in SIXTEEN_BITS
            else {"enabled": False}
        )
        with torch.autocast(
            self.device, cache_enabled=False, **short
        ):  # no weight is multiplied twice
            loss = self.loss(tokens[:, :-1], tokens[:, 1:])
        self.scaler.scale(loss).backward()
        if self.recipe.max_gradient_norm:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.weights.values(), self.recipe.max_gradient_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss.detach()

    def loss(self, tokens, targets):
        """tokens (B, T), targets (B, T) -> the mean loss in nats."""
        logits = self._logits(tokens).flatten(0, 1).float()
        return self.torch.nn.functional.cross_entropy(logits, targets.flatten())

    def _logits(self, tokens):
        """tokens (B, T) -> (B, T, V)."""
        linear, weights = self.torch.nn.functional.linear, self.weights
        x = self.torch.nn.functional.embedding(tokens, weights["embedding.weight"])  # (B, T, D)
        for i in range(self.recipe.num_layers):
            block = f"blocks.{i}"
            qkv = linear(
                self._norm(x, f"{block}.attention_norm"), weights[f"{block}.attention.qkv.weight"]
            )
            x = x + linear(self._attention(qkv), weights[f"{block}.attention.output.weight"])
            gate_up = linear(
                self._norm(x, f"{block}.feed_forward_norm"),
                weights[f"{block}.feed_forward.gate_up.weight"],
            )
            gate, up = gate_up.chunk(2, dim=-1)
            x = x + linear(
                self.torch.nn.functional.silu(gate) * up,
                weights[f"{block}.feed_forward.down.weight"],
            )
        output = weights["embedding.weight" if self.recipe.tied_embeddings else "output.weight"]
        return linear(self._norm(x, "final_norm"), output)

    def _norm(self, x, name: str):
        weight = self.weights[f"{name}.weight"]
        return self.torch.nn.functional.rms_norm(x, weight.shape, weight, self.recipe.norm_eps)

    def _attention(self, qkv):
        """(B, T, (H + 2G) C) -> (B, T, H C)."""
        torch, heads, groups = self.torch, self.recipe.num_heads, self.recipe.num_kv_heads
        joined = qkv.unflatten(-1, (heads + 2 * groups, -1))  # (B, T, H+2G, C)
        rotated = self._rotated(joined[:, :, : heads + groups].unflatten(-1, (-1, 2))).flatten(
            -2
        )  # (B, T, H+G, C)
        query, key = rotated.transpose(1, 2).split(
            [heads, groups], dim=1
        )  # (B, H, T, C), (B, G, T, C)
        value = joined[:, :, heads + groups :].transpose(1, 2)
        if self.device == "cuda" and groups < heads and self.recipe.precision not in SIXTEEN_BITS:
            key, value = (
                x.unsqueeze(2).expand(-1, -1, heads // groups, -1, -1).flatten(1, 2)
                for x in (key, value)
            )
            groups = heads
        attention = torch.nn.functional.scaled_dot_product_attention
        context_length = attention(query, key, value, is_causal=True, enable_gqa=groups < heads)
        return context_length.transpose(1, 2).flatten(2)

    def _rotated(self, pairs):
        """Channels in pairs (B, T, H, C/2, 2), turned by their position's angles, in float32."""
        return self.torch.view_as_real(
            self.torch.view_as_complex(pairs.float()) * self.turn
        ).type_as(pairs)


class CompiledTorchPeer(TorchPeer):
    """The same on the CPU through torch.compile, forward and backward. Raises ImportError where it
    finds no C++ compiler."""

    name, how = "torch.compile", "inductor, fused AdamW"

    def __init__(self, recipe: Recipe, threads: int, device: str = "cpu") -> None:
        os.environ.setdefault(
            "TORCHINDUCTOR_COMPILE_THREADS", "1"
        )  # no pool of processes that would outlive this one
        super().__init__(recipe, threads, device)
        try:
            self.torch.compile(lambda x: x + 1)(self.torch.zeros(2))
        except Exception as error:  # PyTorch wraps a missing compiler in classes of its own, one for each way to miss it
            raise ImportError(
                f"torch.compile does not work here: {str(error).splitlines()[0]}"
            ) from None
        self.cosine, self.sine = self.torch.view_as_real(self.turn).unbind(-1)  # (T, 1, C/2) each
        self.loss = self.torch.compile(self.loss)

    def _rotated(self, pairs):
        first, second = pairs.unbind(-1)
        turned = first * self.cosine - second * self.sine, first * self.sine + second * self.cosine
        return self.torch.stack(turned, dim=-1)


class GraphedTorchPeer(TorchPeer):
    """The same, whole steps recorded as a CUDA graph: forward, backward, clipping and AdamW are one
    launch.

    What PyTorch asks for is kept: the first steps run on a stream beside, to set up what a
    recording may not; batch and learning rate lie at fixed places; gradients have none when the
    recording begins, so that they get theirs in its memory. Those first steps are steps of the
    training like any other.
    """

    name, how = "PyTorch, CUDA graph", "whole steps recorded, fused AdamW"
    recordable = True
    BESIDE = 3  # steps

    def __init__(self, recipe: Recipe, threads: int, device: str = "cuda") -> None:
        super().__init__(recipe, threads, device)
        self.tokens = self.torch.zeros(
            (recipe.batch_size, recipe.context_length + 1), dtype=self.torch.int64, device=device
        )
        self.stream, self.attempts = self.torch.cuda.Stream(), 0
        self.replay = self.found = None  # the recording, and where it puts the loss

    def release(self) -> None:
        self.replay = self.found = None  # recorded again in the next step
        super().release()

    def moved(self, tokens: np.ndarray):
        self.tokens.copy_(self.pinned(tokens), non_blocking=True)
        return self.tokens

    def set_rate(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"].fill_(rate)

    def attempt(self, tokens):
        self.attempts += 1
        if self.attempts <= self.BESIDE:
            with warnings.catch_warnings(
                action="ignore", category=UserWarning
            ):  # AdamW would be faster if never recorded
                return beside(
                    self.torch, self.stream, lambda: super(GraphedTorchPeer, self).attempt(tokens)
                )
        if self.replay is None:
            self.optimizer.zero_grad(
                set_to_none=True
            )  # here already: what a recording lets go of, it cannot use
            self.replay = recorded(self.torch, self._attempt_to_be_found)
        self.replay()
        return self.found.clone()

    def _attempt_to_be_found(self) -> None:
        self.found = super().attempt(self.tokens)
