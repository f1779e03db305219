"""The memory layout of a weight matrix for the compiled products: panels of 32 outputs. Array code
creates this layout once per model.

A file stores weights row by row: all inputs of an output, then the next output. With this layout, a
processor that multiplies 8 or 16 numbers at once would have to add up the lanes of a register at
the end of each group. In a *panel*, neighbours in memory are neighbouring outputs. Every lane has
its own total, and the panel is read from its first byte to its last.

    f32     for each k: 32 floats, 128 bytes
    q4_0    for each group of 32 k: 32 float16 scales, then 4 steps of 8 k, 64 + 512 bytes
            a step has a dword for each output, whose byte b holds k = 8 step + b (low four bits)
            and k = 8 step + 4 + b (high four bits)
    q4_1    as q4_0, with 32 float16 minima after the scales, 128 + 512 bytes
    q5_0    as q4_0, and after the steps the fifth bits, 64 + 512 + 128 bytes
            a step has 16 bytes for its first four k, then 16 for its last four; bit 4 j + b of them
            belongs to byte b of output j
    q5_1    as q5_0, with 32 float16 minima after the scales, 128 + 512 + 128 bytes
    q8_0    for each group of 32 k: 32 float16 scales, then 8 steps of 4 k, 64 + 1024 bytes
            a step has a dword for each output, whose byte b holds k = 4 step + b

The unit is a dword because the instructions that multiply bytes add four neighbouring products into
one 32-bit lane. They need one unsigned operand, so codes are stored with an offset: 0..15 for
q4_0, 0..31 for q5_0.
"""

from minimtp.backend import aligned_zeros
from minimtp.backend import numpy as np

PANEL = 32  # output columns of a panel
GROUP = 32  # values that share a scale
SCALE_BYTES = 2 * PANEL


def by_panel(matrix):
    """(N, K) -> (ceil(N / 32), 32, K), padded with rows of zeros."""
    rows, columns = matrix.shape
    zeros = np.zeros((-rows % PANEL, columns), matrix.dtype)
    return np.concatenate([matrix, zeros]).reshape(-1, PANEL, columns)


def q4_0_steps(codes):
    """Codes int8 (N, K) in -8..7 -> uint8 (panels, 32, K/32, 4 steps, 4 bytes). Each byte holds
    two codes, each with 8 added.
    """
    return four_bit_steps(codes + np.int8(8))


def four_bit_steps(codes):
    """Codes int8 (N, K) in 0..15 -> uint8 (panels, 32, K/32, 4 steps, 4 bytes)."""
    steps = _in_steps(codes)
    return steps[..., 0, :] | steps[..., 1, :] << np.uint8(4)


def fifth_bits(codes):
    """Codes int8 (N, K) in 0..31 -> their fifth bits, uint8 (panels, K/32, 128 bytes)."""
    top = _in_steps(codes >> 4).transpose(0, 2, 3, 4, 1, 5)  # (panels, K/32, 4, 2, 32, 4)
    bits = np.packbits(np.ascontiguousarray(top).reshape(-1), bitorder="little")
    return bits.reshape(*top.shape[:2], GROUP * PANEL // 8)


def _in_steps(codes):
    """Codes (N, K) -> uint8 (panels, 32, K/32, 4 steps, 2 halves, 4 bytes)."""
    return by_panel(codes).view(np.uint8).reshape(-1, PANEL, codes.shape[1] // GROUP, 4, 2, 4)


def quantized_panels(scales, packed):
    """Scales (N, K/32) and packed (panels, 32, K/32, steps, 4) uint8 -> (panels, K/32 * group
    bytes).

    Each group is its scales, then its steps.
    """
    return panels_of_groups([float16_bytes(scales), step_bytes(packed)])


def float16_bytes(numbers):
    """One number per group (N, K/32) -> as float16 bytes, uint8 (panels, K/32, 64)."""
    by_group = by_panel(numbers).swapaxes(1, 2)  # (panels, K/32, 32)
    return np.ascontiguousarray(by_group.astype(np.float16)).view(np.uint8)


def step_bytes(packed):
    """(panels, 32, K/32, steps, 4) uint8 -> (panels, K/32, steps * 128)."""
    count, _, groups, _, _ = packed.shape
    return packed.transpose(0, 2, 3, 1, 4).reshape(count, groups, -1)


def panels_of_groups(parts):
    """Join the parts of every group, each uint8 (panels, K/32, bytes) -> (panels, K/32 * bytes)."""
    count, groups, _ = parts[0].shape
    panels = aligned_zeros((count, groups * sum(part.shape[2] for part in parts)))
    np.concatenate(parts, axis=2, out=panels.reshape(count, groups, -1))
    return panels
