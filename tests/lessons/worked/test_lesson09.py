"""The worked examples of lesson 9: a panel byte by byte, and the sum of a group."""

import re

from minimtp.backend import numpy as np
from minimtp.kernels.cpu.matrices.panels import q4_0_steps
from tests.lessons.worked.reading import by_hand, row


def test_a_panel_of_4_outputs_and_8_inputs_byte_by_byte():
    section = by_hand(9)
    assert row(section, "input") == list(range(8))
    codes = np.zeros((32, 32), np.int8)
    for output in range(4):
        stored = row(section, f"output {output}")
        codes[output, :8] = np.array(stored) - 8
    packed = q4_0_steps(codes)[0, :4, 0, 0]  # (4 outputs, 4 bytes): the first step
    for output, dword in enumerate(packed):
        text = re.search(rf"^    dword {output} +(.*)$", section, re.MULTILINE)[1]
        assert text == dword.tobytes().hex(" ")
    assert f"`0 + 16 · 4 = 0x{packed[0, 0]:02x}`" in section


def test_the_sum_of_a_group_with_and_without_the_offset():
    section = by_hand(9)
    codes, inputs = (np.array(row(section, label), int) for label in ("c", "q"))
    assert row(section, "c - 8") == (codes - 8).tolist()
    total = int(((codes - 8) * inputs).sum())
    terms = " + ".join(str(term) for term in (codes - 8) * inputs)
    assert f"= {terms} = {total}" in section
    with_offset = int((codes * inputs).sum())
    assert f"= {with_offset} - 8 · {inputs.sum()} = {with_offset - 8 * inputs.sum()}" in section
    assert with_offset - 8 * inputs.sum() == total
