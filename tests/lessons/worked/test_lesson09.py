"""The worked examples of lesson 9: a panel byte by byte, and the sum of a group."""

import re

from minimtp.backend import numpy as np
from minimtp.kernels.cpu.matrices.panels import q4_0_steps
from minimtp.kernels.ggml import blocks
from tests.lessons.worked.reading import by_hand, row, second_evening


def codes_of_the_example():
    """Return the codes (2 outputs, 8 inputs) of the text, without the 8 that is added to them."""
    section = by_hand(9)
    assert row(section, "input") == list(range(8))
    return np.array([row(section, f"output {output}") for output in range(2)], np.int8) - np.int8(8)


def test_a_panel_of_2_outputs_and_8_inputs_is_the_transpose_of_the_file():
    section, codes = by_hand(9), np.zeros((2, 32), np.int8)
    codes[:, :4], codes[:, 16:20] = np.split(codes_of_the_example(), 2, axis=1)
    file = blocks.pack_q4_0(codes, np.ones((2, 1), np.float32))[:, 2:6]  # without the scales
    for name, lines in (("file", file), ("panel", file.T)):
        shown = re.search(rf"^    {name} +(.*)$", section, re.MULTILINE)
        assert shown[1] == "   ".join(line.tobytes().hex(" ") for line in lines)
    assert f"`0 + 16 · 4 = 0x{file[0, 0]:02x}`" in section
    low, last = (file[:, 0] & 15).tolist()
    assert f"which are {low} and {last}" in " ".join(section.split())
    high, last = (file[:, 0] >> 4).tolist()
    assert f"which are {high} and {last}" in " ".join(section.split())


def test_the_first_step_of_a_panel_of_the_library():
    codes = np.zeros((32, 32), np.int8)
    codes[:2, :8] = codes_of_the_example()
    packed = q4_0_steps(codes)[0, :2, 0, 0]  # (2 outputs, 4 bytes): the first step
    for output, dword in enumerate(packed):
        shown = re.search(rf"^    dword {output} +(.*)$", second_evening(9), re.MULTILINE)[1]
        assert shown == dword.tobytes().hex(" ")


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
