"""The worked examples of lesson 8: a staircase, one weight in training, and LSQ's derivative."""

import pytest

from minimtp.backend import numpy as np
from minimtp.model.loss import accumulate_gradients
from minimtp.quant.grids import Q4_0, grid_named
from minimtp.quant.qat.fake_quantize import FakeQuantize
from minimtp.quant.qat.learned import FakeQuantizeLearned, encode_learned
from minimtp.quant.qat.prepare import prepare_qat
from minimtp.quant.qat.spec import QuantizationSpec
from tests.lessons.worked.reading import by_hand, row, second_evening
from tests.quant.qat.cases import build

W, A, RATE = 0.8, 0.3, 0.1


def test_the_slopes_of_a_staircase_and_of_its_surrogate():
    section = by_hand(8)
    distances = row(section, "h")
    moved = [round(W + h) for h in distances]
    assert row(section, "Q(w + h)") == moved and len(moved) == 5
    slopes = [(q - round(W)) / h for q, h in zip(moved, distances, strict=True)]
    assert row(section, "staircase") == pytest.approx(slopes, abs=0.005)
    group = np.zeros((1, 32), np.float32)
    group[0, :2] = -8, W  # the extreme makes the scale 1
    operation = FakeQuantize(Q4_0)
    assert operation.forward(group)[0, 1] == round(W)
    gradient = operation.backward(np.ones_like(group))[0, 1]
    assert row(section, "surrogate")[:5] == [gradient] * 5


def test_a_master_weight_crosses_the_midpoint_and_a_weight_rounded_each_step_never_moves():
    master, each_step = 0.81, float(np.rint(0.81))
    columns = []
    for _ in range(11):
        columns.append([round(master, 2), np.rint(master), np.rint(master) - A, each_step])
        master -= RATE * (np.rint(master) - A)
        each_step = float(np.rint(each_step - RATE * (each_step - A)))
    section = by_hand(8)
    labels = ("master weight", "its Q(w)", "gradient", "rounded each step")
    for label, numbers in zip(labels, zip(*columns, strict=True), strict=True):
        assert row(section, label) == pytest.approx(numbers)


def test_only_norms_have_a_gradient_if_that_of_rounding_is_zero(monkeypatch):
    monkeypatch.setattr("minimtp.kernels._choice", "plain")
    monkeypatch.setattr(FakeQuantize, "backward", lambda self, gradient: 0 * gradient)
    spec = QuantizationSpec(weights="int2-ggml-signed-g32", activations="none")  # of the lesson
    model = prepare_qat(build(), spec)
    accumulate_gradients(model, np.arange(10)[None])
    learning = {name: p.grad is not None and p.grad.any() for name, p in model.named_parameters()}
    assert learning == {name: "norm" in name for name in learning}
    assert "(exercise 1)? Only the norms." in second_evening(8)


def test_two_weights_and_the_derivative_for_their_scale():
    grid, scale = grid_named("int2-full-mid-channel"), 0.5
    section = second_evening(8)
    w = np.array([row(section, "w")])
    log_step = np.log(scale / grid.encode(w)[1]).reshape(1)
    operation = FakeQuantizeLearned(grid)
    values = operation.forward(w, log_step)
    slopes = [operation.backward(one[None])[1].item() / scale for one in np.eye(2)]
    assert (grid.min_code, grid.max_code) == (-2, 1)
    assert row(section, "v") == pytest.approx(w[0] / scale)
    assert row(section, "code")[:2] == encode_learned(grid, w, log_step)[0][0].tolist()
    assert row(section, "q = s code") == pytest.approx(values[0])
    assert row(section, "LSQ dq/ds")[:2] == pytest.approx(slopes)
    h = 1e-6
    rises = [
        scale_now * np.clip(np.rint(w[0] / scale_now), -2, 1) for scale_now in (0.5 - h, 0.5 + h)
    ]
    assert row(section, "staircase dq/ds") == pytest.approx((rises[1] - rises[0]) / (2 * h))
