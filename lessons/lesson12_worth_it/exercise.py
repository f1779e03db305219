r"""Exercises of lesson 12. Fill in the bodies, then run:

pytest --mine tests/plan/test_cost.py tests/plan/test_speculation.py tests/plan/test_serving.py
"""

import math  # noqa: F401  (for your answers)
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from minimtp.backend import numpy as np  # noqa: F401
from minimtp.plan.costs.cost import PassCost
from minimtp.plan.costs.memory import Drafter, cache_bytes_per_token, weight_bytes  # noqa: F401
from minimtp.plan.costs.sizes import Hardware, ModelSize, Precision
from minimtp.plan.costs.speculation import MAX_DRAFTS, Acceptance, best_round  # noqa: F401


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
        raise NotImplementedError(
            "lesson 12: for how many rows does multiplying take as long as reading the weights?"
        )

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
        raise NotImplementedError(
            "lesson 12: the slower of reading the weights once and multiplying each with every row"
        )

    def _attention(self, layers: int, batch: int, rows: int, context: float) -> float:
        """Return the seconds of attention in `layers` layers, for `batch` requests with `rows` rows
        and `context` cached tokens each.
        """
        raise NotImplementedError(
            "lesson 12: the slower of reading the caches of all requests and of the operations"
        )

    def _draft(self, batch: int, rows: int, context: float) -> float:
        model, drafter = self.model, self.drafter
        seconds = self._matrix(drafter.weights(model), self.precision.bits, batch * rows)
        output = drafter.output_weights(model)
        seconds += self._matrix(output, self.precision.table_bits, batch)
        seconds += self._attention(drafter.layers, batch, rows, context)
        return seconds + drafter.layers * self.hardware.layer_microseconds * 1e-6


def break_even_acceptance(
    cost: PassCost, batch: int, context: float, max_drafts: int = MAX_DRAFTS
) -> float | None:
    """Return the least constant acceptance at which drafting is as fast as not drafting; None if
    even perfect drafts are slower.
    """
    raise NotImplementedError(
        "lesson 12: the speed rises with the acceptance, so halve the range again and again"
    )


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least `share` of the values do not exceed.

    NaN does not count. Without any other value, the result is NaN.
    """
    raise NotImplementedError("lesson 12: sort what is a number, and count from below")
