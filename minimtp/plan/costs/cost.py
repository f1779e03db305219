"""Seconds of a forward pass, by the roofline (Williams et al. 2009).

A pass feeds R = B T + P rows: T for each of B requests, and P of prompts. It reads all weights
once, and each request's cache once, however many rows the request has. For each group of layers it
takes

    max(bytes / bandwidth, operations / peak)

seconds: whichever is slower hides the other. The groups and their operations are

    attention projections, MLP    2 x weights x R
    output matrix                 2 x weights x B T
    attention to the cache        4 x layers x width of the queries x context x B T
    attention of prompts          4 x layers x width of the queries x attended x P

with the tokens that a row of a prompt attends to on average, half of a whole prompt. (Many rows
share what they read of the cache, so it is not counted.)

The peak is that of products with weights of their precision. Attention multiplies no weights, but
floats, so its peak does not depend on the precision.

To this a pass adds layers x `layer_microseconds` for launching kernels. Where the first term of max
is larger the pass is *memory-bound*, and more rows are free; otherwise it is *compute-bound*, and a
pass over twice the rows takes twice the time. They are equal at

    R* = (bits / 16) x peak / bandwidth                                              rows

Several devices share each matrix (tensor parallelism). They multiply bandwidth and peak by
devices x `parallel_efficiency`, one stated factor for their communication.

A drafter of one layer runs once per draft, one after another, on B rows (on all B T new rows in
its first pass). A round that drafts also costs the host `round_milliseconds`, and
`request_microseconds` for each request: sampling, accepting, preparing the next inputs.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from minimtp.plan.costs.memory import Drafter, cache_bytes_per_token, weight_bytes
from minimtp.plan.costs.sizes import Hardware, ModelSize, Precision


class PassCost(Protocol):
    """Seconds of passes: of the roofline (below), or measured (measured.py)."""

    def pass_seconds(
        self,
        batch: int,
        rows: int,
        context: float,
        prompt_rows: int = 0,
        prompt_context: float | None = None,
    ) -> float:
        """Return the seconds of a pass over `rows` rows of each of `batch` requests, whose caches
        hold `context` tokens on average, and over `prompt_rows` rows of prompts, which attend to
        `prompt_context` tokens on average. None: they are one whole prompt, so it is half of it.
        """

    def draft_seconds(self, batch: int, drafts: int, context: float) -> float:
        """Return the seconds that a round spends outside its pass, to draft `drafts` tokens."""


@dataclass(frozen=True)
class Roofline:
    """The cost of passes of a model on hardware. cache_bits: bits of a number in the cache."""

    model: ModelSize
    precision: Precision
    hardware: Hardware
    drafter: Drafter
    devices: int = 1
    parallel_efficiency: float = 0.8
    cache_bits: float = 16.0

    @cached_property
    def bandwidth(self) -> float:
        """Bytes per second of all devices."""
        weights = weight_bytes(self.model, self.precision)
        return self.hardware.bytes_per_second(weights) * self._devices

    @cached_property
    def peak(self) -> float:
        """Operations per second of all devices."""
        return self.hardware.operations_per_second(self.precision) * self._devices

    @cached_property
    def float_peak(self) -> float:
        """Operations per second of all devices with numbers that are no codes, as in attention."""
        return self.hardware.float_operations_per_second * self._devices

    @property
    def balanced_rows(self) -> float:
        """R*, the rows at which the matrices of a layer change from memory- to compute-bound."""
        return self.precision.bits / 16 * self.peak / self.bandwidth

    def pass_seconds(
        self,
        batch: int,
        rows: int,
        context: float,
        prompt_rows: int = 0,
        prompt_context: float | None = None,
    ) -> float:
        decoded, model, bits = batch * rows, self.model, self.precision.bits
        layers = model.num_hidden_layers
        fed = decoded + prompt_rows
        seconds = self._matrix(layers * model.attention_weights, bits, fed)
        seconds += self._matrix(layers * model.mlp_weights, bits, fed)
        # Only the last row of a prompt needs an output.
        outputs = decoded + (1 if prompt_rows else 0)
        seconds += self._matrix(model.table_weights, self.precision.table_bits, outputs)
        seconds += self._attention(layers, batch, rows, context)
        if prompt_rows:
            attended = prompt_rows / 2 if prompt_context is None else prompt_context
            operations = 4 * layers * model.query_size * prompt_rows * attended
            seconds += operations / self.float_peak
        return seconds + layers * self.hardware.layer_microseconds * 1e-6

    def draft_seconds(self, batch: int, drafts: int, context: float) -> float:
        if not drafts:
            return 0.0
        first = self._draft(batch, 1 + drafts, context)
        others = (drafts - 1) * self._draft(batch, 1, context)
        host = self.hardware.round_milliseconds * 1e-3
        host += batch * self.hardware.request_microseconds * 1e-6
        return first + others + host

    @cached_property
    def _devices(self) -> float:
        return self.devices * self.parallel_efficiency if self.devices > 1 else 1.0

    def _matrix(self, weights: float, bits: float, rows: int) -> float:
        """Return the seconds to multiply `rows` rows, of all requests together, by a matrix of
        `weights` weights with `bits` bits each. 0 without rows.
        """
        memory = weights * bits / 8 / self.bandwidth
        return max(memory, 2 * weights * rows / self.peak) if rows else 0.0

    def _attention(self, layers: int, batch: int, rows: int, context: float) -> float:
        """Return the seconds of attention in `layers` layers, for `batch` requests with `rows` rows
        and `context` cached tokens each.
        """
        per_layer = (
            cache_bytes_per_token(self.model, self.cache_bits) / self.model.num_hidden_layers
        )
        memory = layers * per_layer * batch * context / self.bandwidth
        operations = 4 * layers * self.model.query_size * context * batch * rows
        return max(memory, operations / self.float_peak)

    def _draft(self, batch: int, rows: int, context: float) -> float:
        model, drafter = self.model, self.drafter
        seconds = self._matrix(drafter.weights(model), self.precision.bits, batch * rows)
        output = drafter.output_weights(model)
        seconds += self._matrix(output, self.precision.table_bits, batch)
        seconds += self._attention(drafter.layers, batch, rows, context)
        return seconds + drafter.layers * self.hardware.layer_microseconds * 1e-6
