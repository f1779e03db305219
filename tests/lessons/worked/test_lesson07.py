"""The worked examples of lesson 7, computed by the library."""

import re

import pytest

from minimtp.backend import numpy as np
from minimtp.kernels.ggml import blocks
from minimtp.quant.bit_packing import pack_bits
from minimtp.quant.grids import Q4_0, grid_named
from minimtp.quant.ptq.gptq import _inverse_factor, gptq, output_error
from tests.lessons.helpers import text
from tests.lessons.worked.reading import by_hand, row, second_evening

FIVE = [0.3, -2, 0.66, 1.9, -0.1]


def test_five_numbers_through_q4_0():
    group = np.zeros((1, 32), np.float32)
    group[0, :5] = FIVE
    codes, scales = Q4_0.encode(group)
    step = scales.item()
    values = Q4_0.decode(codes, scales)[0, :5]
    packed = blocks.pack_q4_0(codes, scales)[0]
    text = by_hand(7)
    assert f"`-2 / -8 = {step}`" in text
    assert row(text, "weight x") == FIVE
    assert row(text, "x / d") == pytest.approx([x / step for x in FIVE])
    assert row(text, "code q")[:5] == codes[0, :5].tolist()
    assert row(text, "value q d") == values.tolist()
    errors = [(value - x) / step for value, x in zip(values, FIVE, strict=True)]
    assert row(text, "error / d")[:5] == pytest.approx(errors, abs=1e-6)
    assert row(text, "code + 8") == (codes[0, :5] + 8).tolist()
    assert "byte " + " ".join(f"0x{byte:02x}" for byte in packed[2:7]) in " ".join(text.split())
    assert "the bytes " + " ".join(f"0x{byte:02x}" for byte in packed[:2]) in text


def test_three_codes_of_three_bits():
    codes, written = re.search(
        r"the 3-bit codes ([\d, ]+) become the bytes (.+?)[.,]", text(7)
    ).groups()
    packed = pack_bits(np.array([int(code) for code in codes.split(",")], np.uint8), 3)
    assert written == " and ".join(f"0x{byte:02x}" for byte in packed)


def test_two_weights_through_gptq(monkeypatch):
    monkeypatch.setattr("minimtp.quant.ptq.gptq.DAMPING", 0.0)
    moment, weights = np.array([[1, 0.5], [0.5, 1]]), np.array([[0.4, 0.4]], np.float32)
    grid, ones = grid_named("int4-restricted-channel"), np.ones((1, 1), np.float32)
    nearest = grid.nearest(weights, ones)
    found, _ = gptq(grid, weights, moment, beforehand=(nearest, ones))
    text = " ".join(second_evening(7).split())
    for name, codes in (("rtn", nearest), ("gptq", found)):
        difference = codes - weights.astype(np.float64)
        a, b = difference[0]
        parts = f"{a * a:.2f} + {b * b:.2f} {'-' if a * b < 0 else '+'} {abs(a * b):.2f}"
        error = output_error(difference, moment)
        assert f"{name}, codes {tuple(codes[0].tolist())} {parts} = {error:.2f}" in text
    inverse = np.linalg.inv(moment)
    assert np.allclose(inverse, 4 / 3 * np.array([[1, -0.5], [-0.5, 1]]))
    moved = 0.4 - 0.4 * inverse[1, 0] / inverse[0, 0]
    assert f"0.4 - 0.4 · (-0.5) = {moved:.1f}" in text


def test_elimination_and_cholesky_of_two_weights(monkeypatch):
    monkeypatch.setattr("minimtp.quant.ptq.gptq.DAMPING", 0.0)
    moment = np.array([[1, 0.5], [0.5, 1]])
    inverse, factor = np.linalg.inv(moment), _inverse_factor(moment, "the example")
    left = inverse - np.outer(inverse[0], inverse[0]) / inverse[0, 0]
    assert np.allclose(left, [[0, 0], [0, 1]]) and "`4/3 - (2/3)² / (4/3) = 1`" in second_evening(7)
    assert np.allclose(factor[0], 2 / np.sqrt(3) * np.array([1, -0.5]))
    assert f"`U_12 / U_11 = {factor[0, 1] / factor[0, 0]:.1f}`" in second_evening(7)
