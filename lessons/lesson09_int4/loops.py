"""Three int4 products with one row, compiled by Numba: a naive loop and two it can vectorize."""

from minimtp.backend import numpy as np
from minimtp.kernels.cpu.compiling import compiled


@compiled
def weight_by_weight(x, nibbles, scales, y):
    """Compute y (N,) = W x, one weight after the other.

    x (K,); nibbles uint8 (N, K/2) in ggml's order; scales (N, K/32).
    """
    for n in range(y.shape[0]):
        total = np.float32(0)
        for g in range(scales.shape[1]):
            part = np.float32(0)
            for j in range(16):
                byte = nibbles[n, 16 * g + j]
                part += np.float32((byte & 15) - 8) * x[32 * g + j]
                part += np.float32((byte >> 4) - 8) * x[32 * g + 16 + j]
            total += part * scales[n, g]
        y[n] = total


@compiled
def panels_with_floats(x, nibbles, scales, y):
    """Compute the same for W outputs at once. Adjacent outputs are adjacent in memory.

    x (K,); nibbles uint8 (P, K/2, W); scales (P, K/32, W); y (P, W).
    """
    width = y.shape[1]
    part = np.empty(width, np.float32)
    for p in range(y.shape[0]):
        y[p, :] = np.float32(0)
        for g in range(scales.shape[1]):
            part[:] = np.float32(0)
            for j in range(16):
                first, second = x[32 * g + j], x[32 * g + 16 + j]
                line = nibbles[p, 16 * g + j]
                for i in range(width):
                    part[i] += np.float32(np.int32(line[i] & 15) - 8) * first
                    part[i] += np.float32(np.int32(line[i] >> 4) - 8) * second
            for i in range(width):
                y[p, i] += part[i] * scales[p, g, i]


@compiled
def panels_with_integers(codes, x_scales, nibbles, scales, y):
    """Compute the same with quantized inputs: codes int8 (K,) and x_scales (K/32,).

    A sum of 16 products of 0..15 and int8 fits in 16 bits.
    """
    width = y.shape[1]
    low, high = np.empty(width, np.int16), np.empty(width, np.int16)
    for p in range(y.shape[0]):
        y[p, :] = np.float32(0)
        for g in range(scales.shape[1]):
            low[:], high[:] = 0, 0
            offset = np.int32(0)
            for j in range(16):
                first, second = np.int16(codes[32 * g + j]), np.int16(codes[32 * g + 16 + j])
                offset += 8 * (first + second)
                line = nibbles[p, 16 * g + j]
                for i in range(width):
                    low[i] += np.int16(line[i] & 15) * first
                    high[i] += np.int16(line[i] >> 4) * second
            for i in range(width):
                total = np.int32(low[i]) + np.int32(high[i]) - np.int32(offset)
                y[p, i] += np.float32(total) * (scales[p, g, i] * x_scales[g])
