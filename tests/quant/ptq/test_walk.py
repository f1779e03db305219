"""Calibration text that is run through a model part by part gives what running all of it for every
layer gives, with the memory of one batch and one part.
"""

import tracemalloc

import pytest

from minimtp import kernels
from minimtp.backend import numpy as np
from minimtp.engine.module import replicate
from minimtp.model import transformer
from minimtp.model.matrix import weight_bytes
from minimtp.quant.grids.scale_search import search_scales
from minimtp.quant.packed_matrix import stored_arrays
from minimtp.quant.ptq import methods, walk
from minimtp.quant.ptq.calibration import CalibratedLinear, calibrated, collect
from minimtp.quant.ptq.gptq import gptq
from minimtp.quant.ptq.methods import METHODS_WITH_TEXT, quantize_after_training
from minimtp.quant.ptq.walk import Walk
from minimtp.quant.qat.convert import convert
from minimtp.quant.qat.prepare import prepare_qat
from minimtp.quant.qat.spec import QuantizationSpec
from tests.quant.ptq.cases import build, each_kind, text


@pytest.fixture(autouse=True)
def plain_kernels():
    kernels.use("plain")
    yield
    kernels.use("auto")


def stored(model):
    return {name: array.tobytes() for name, array in stored_arrays(model).items()}


def gptq_with_the_whole_model_for_every_layer(model, batches):
    copy = prepare_qat(replicate(model), QuantizationSpec(), linear=CalibratedLinear)
    for layer in calibrated(copy).values():
        collect(copy, [layer], batches)
        weight, statistics = layer.weight.data, layer.statistics
        beforehand = search_scales(layer.grid, weight, statistics.importance)
        moment = statistics.second_moment
        layer.settle(*gptq(layer.grid, weight, moment, beforehand=beforehand, largest_first=True))
    return convert(copy)


@each_kind
@pytest.mark.parametrize("tied", [True, False])
def test_gptq_part_by_part_equals_gptq_with_the_whole_model_for_every_layer(kind, tied):
    """Bit for bit: the same numbers are added in the same order."""
    model = build(kind, np.float32, tied_embeddings=tied)
    batches = text(model, count=3)
    found = quantize_after_training(model, QuantizationSpec(), "gptq", batches)
    assert stored(found) == stored(gptq_with_the_whole_model_for_every_layer(model, batches))


@each_kind
@pytest.mark.parametrize("method", METHODS_WITH_TEXT)
def test_the_number_of_threads_does_not_change_a_bit(kind, method, monkeypatch):
    model = build(kind, np.float32, intermediate_size=160)
    batches, results = text(model, count=5), []
    for threads in (1, 2, 4):
        for module in (walk, methods):
            monkeypatch.setattr(module, "available_cores", lambda threads=threads: threads)
        results.append(stored(quantize_after_training(model, QuantizationSpec(), method, batches)))
    assert results[0] == results[1] == results[2]


@each_kind
def test_a_window_that_is_longer_than_a_slice_gives_all_of_its_statistics(kind, monkeypatch):
    """The pass that collects must not end after the first slice."""

    def moments():
        model = prepare_qat(build(kind), QuantizationSpec(), linear=CalibratedLinear)
        steps, found = Walk(model, text(model)), {}
        for part in steps.parts():
            for step in part.steps:
                for layer in step.layers:
                    steps.collect(step, [layer])
                    found[layer.name] = layer.statistics.rows, layer.statistics.second_moment
                steps.advance(step)
        assert set(found) == set(calibrated(model))
        return found

    expected = moments()
    monkeypatch.setattr(walk, "ROWS_AT_ONCE", 4)
    monkeypatch.setattr(transformer, "ROWS_AT_ONCE", 4)
    for name, (rows, moment) in moments().items():
        assert rows == expected[name][0]
        np.testing.assert_allclose(moment, expected[name][1], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", METHODS_WITH_TEXT)
def test_the_memory_of_quantizing_is_that_of_the_packed_model_one_part_and_one_batch(
    method, monkeypatch
):
    """Twice as many blocks and four times as much text hardly need more memory."""
    monkeypatch.setattr(walk, "available_cores", lambda: 1)
    monkeypatch.setattr(methods, "available_cores", lambda: 1)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "context_length": 256}

    def peak(num_layers: int, count: int) -> tuple[int, int, int]:
        model = build("none", np.float32, num_layers=num_layers, **sizes)
        rng = np.random.default_rng(0)
        batches = [rng.integers(0, 11, (1, 257)) for _ in range(count)]
        tracemalloc.start()
        packed = quantize_after_training(model, QuantizationSpec(), method, batches)
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        states = 2 * count * 256 * 64 * 4  # before and after a part
        states *= 2 if method == "awq" else 1  # before scaling, and after it
        return highest, weight_bytes(packed), states

    (small, packed_small, states_small), (large, packed_large, states_large) = (
        peak(2, 2),
        peak(6, 6),
    )
    slice_bytes = small - packed_small - states_small
    assert large <= 1.2 * (packed_large + states_large + slice_bytes)
    assert packed_large > 2 * packed_small
