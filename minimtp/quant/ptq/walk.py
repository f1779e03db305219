"""Running calibration text through a model part by part.

Statistics of a layer that includes the rounding errors of the layers before it need the model to
run again after every rounding. Running all of it for each of L layers takes L passes: fifty minutes
for a model of 135 million parameters. Here the states of the text between two parts are kept in
memory, so every part runs a few times and never again:

    a block        two steps, attention and feed-forward, of two linear layers each. Statistics of
                   a layer need the step up to that layer only
    the output     if it is not the token table
    the heads      one step for each head, or for all if they need one another

For M tokens the states are M · D numbers. Everything else is needed for one batch at a time.
Batches run in parallel, and their statistics are added in order, so the result does not depend on
the number of threads.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

from minimtp.backend import Array, array_module
from minimtp.backend import numpy as np
from minimtp.engine.module import Module
from minimtp.engine.ops import concatenate
from minimtp.engine.tensor import Tensor, no_grad
from minimtp.machine import available_cores
from minimtp.model.loss import following_tokens
from minimtp.model.transformer import ROWS_AT_ONCE, LanguageModel, in_slices
from minimtp.quant.ptq.calibration import CalibratedLinear, Statistics, calibrated, statistics_of

Function = Callable[[Tensor, Array], Tensor | None]


class Step(NamedTuple):
    """layers: in the order of use. function: state (B, T, D), tokens (B, T + 1 + K) -> the next
    state, or None if the state stays. repeats: whether a layer is used more than once.
    """

    layers: list[CalibratedLinear]
    function: Function
    repeats: bool = False


class Part(NamedTuple):
    """A part of the model whose layers are rounded together, and its steps."""

    module: Module
    steps: list[Step]

    @property
    def layers(self) -> list[CalibratedLinear]:
        return [layer for step in self.steps for layer in step.layers]


class Walk:
    """The states of the text between two parts of the model.

    batches: each (B, T + 1 + K) tokens. model: prepared with `CalibratedLinear`.
    """

    def __init__(self, model: LanguageModel, batches: Sequence[Array]) -> None:
        self.model, self.batches = model, list(batches)
        self._inputs_of: dict[int, list[Tensor]] = {}  # of the layers that the heads read
        on_cpu = array_module(*self.batches) is np
        self.threads = available_cores() if on_cpu else 1
        with no_grad():
            table = model.trunk.embedding
            self.states = [table(self._inputs(batch)) for batch in self.batches]  # (B, T, D) each

    def parts(self) -> Iterator[Part]:
        """Yield the parts in the order of use. `advance` every step before the next part."""
        trunk = self.model.trunk
        for number, block in enumerate(trunk.blocks):
            self._keep_inputs(number)
            attention = Step(_layers(block.attention), _of_state(block.attention_residual))
            sliced = partial(in_slices, block.feed_forward_residual)
            feed_forward = Step(_layers(block.feed_forward), _of_state(sliced))
            yield Part(block, [attention, feed_forward])
        self._keep_inputs(len(trunk.blocks))
        with no_grad():
            self.states = [trunk.final_norm(state) for state in self.states]  # (B, T, D) each
            for layer in self.model.layers:
                kept = zip(self.states, self._inputs_of[layer], strict=True)
                self.states = [concatenate(state, inputs) for state, inputs in kept]  # (B, T, W)
        if isinstance(trunk.output, CalibratedLinear):
            yield Part(trunk.output, [Step([trunk.output], self._run_output, repeats=True)])
        if self.model.depth:
            heads = self.model.heads
            steps = [Step(_layers(heads), self._run_heads, repeats=True)]
            if heads.independent:
                steps = [Step(_layers(head), _without_result(head)) for head in heads.steps]
            yield Part(heads, steps)

    def collect(
        self,
        step: Step,
        layers: Sequence[CalibratedLinear],
        *,
        with_moment: bool = True,
        advance: bool = False,
    ) -> None:
        """Give each of the layers, which belong to the step, new statistics of its inputs.

        advance: also compute the states after the step.
        """
        rows = max(self._inputs(batch).size for batch in self.batches)
        whole = advance or step.repeats or rows > ROWS_AT_ONCE  # a sliced layer is used repeatedly
        last = None if whole else layers[-1]

        def run_batch(index: int) -> dict[int, Statistics]:
            def run() -> None:
                with no_grad():
                    after = step.function(self.states[index], self.batches[index])
                if advance and after is not None:
                    self.states[index] = after

            return statistics_of(layers, run, with_moment=with_moment, last=last)

        totals = {id(layer): Statistics(with_moment) for layer in layers}
        with ThreadPoolExecutor(self.threads) as pool:
            for found in pool.map(run_batch, range(len(self.batches))):
                for key, statistics in found.items():
                    totals[key].merge(statistics)
        for layer in layers:
            layer.statistics = totals[id(layer)]

    def advance(self, step: Step) -> None:
        """Compute the states after the step."""
        self.collect(step, [], advance=True)

    def _keep_inputs(self, layer: int) -> None:
        """Keep the inputs of a layer if the heads read them."""
        if layer in self.model.layers:
            self._inputs_of[layer] = list(self.states)

    def _inputs(self, batch: Array) -> Array:
        return batch[:, : batch.shape[1] - 1 - self.model.depth]

    def _run_output(self, state: Tensor, tokens: Array) -> None:
        self.model.trunk.output(state[..., : self.model.config.hidden_size])
        if self.model.depth and self.model.heads.output is None:
            for of_head in self._head_states(state, tokens):
                self.model.trunk.output(of_head)

    def _run_heads(self, state: Tensor, tokens: Array) -> None:
        output = self.model.heads.output
        for of_head in self._head_states(state, tokens):
            if output is not None:
                output(of_head)

    def _head_states(self, state: Tensor, tokens: Array) -> Iterator[Tensor]:
        if self.model.depth:
            following = following_tokens(tokens, self.model.depth)
            yield from self.model.heads.states(state, following, self.model.trunk)


def _layers(module: Module) -> list[CalibratedLinear]:
    return list(calibrated(module).values())


def _of_state(function: Callable[[Tensor], Tensor]) -> Function:
    return lambda state, tokens: function(state)


def _without_result(function: Callable[[Tensor], Tensor]) -> Function:
    def run(state: Tensor, tokens: Array) -> None:
        function(state)

    return run
