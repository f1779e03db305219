"""Weights for the comparison with ggml.

They are computed from integers of a raw bit generator, so they are the same on every machine.
"""

from minimtp.backend import numpy as np

# bytes per block
FORMATS = {"q4_0": 18, "q4_1": 20, "q5_0": 22, "q5_1": 24, "q8_0": 34, "q4_k": 144, "q6_k": 210}
MILLION = 1 << 20


def bell(seed, shape):
    """Return sums of four uniform numbers: mean 0, standard deviation about 1, exact in float32."""
    parts = np.random.PCG64(seed).random_raw(int(np.prod(shape))).view(np.uint16).reshape(*shape, 4)
    return (parts.sum(axis=-1, dtype=np.int64) - 2 * 65535).astype(np.float32) / np.float32(37837)


def uniform(seed, shape):
    """Return 16-bit uniform numbers in [0, 1), as float32."""
    return (np.random.PCG64(seed).random_raw(int(np.prod(shape))) >> 48).astype(np.float32).reshape(
        shape
    ) / np.float32(65536)


def small_cases():
    """Return weights that take different branches: {name: float32 (2, 512)}.

    They contain no negative zeros. For a group of negative zeros, the scales of ggml's C code and
    of its Python package have opposite signs.
    """
    shape = 2, 512
    x, u = bell(1, shape), uniform(2, shape)
    groups = np.repeat(bell(3, (2, 32)), 16, axis=1)
    cases = {
        "bell": x * np.float32(0.02),
        "spread": x
        * np.float32(2) ** np.floor(20 * np.repeat(uniform(4, (2, 32)), 16, axis=1) - 15),
        "lattice": np.rint(x * 9) * np.float32(2.0**-7),
        "sparse": x * (u < 0.05),
        "positive": np.abs(x),
        "negative": -np.abs(x) - np.float32(2),
        "constant": groups,
        "nearly constant": groups * (1 + x * np.float32(2.0**-22)),
        "zero": np.zeros(shape, np.float32),
        "zero groups": x * np.repeat(uniform(5, (2, 32)) < 0.5, 16, axis=1),
        "tiny": x * np.float32(2.0**-30),
        "subnormal": x * np.float32(2.0**-130),
        "large": x * np.float32(2.0**14),
        "bfloat16": (x.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32),
    }
    return {name: case.astype(np.float32) + np.float32(0) for name, case in cases.items()}


def large_cases():
    """Return a million weights with equal and with different scales per group.

    {name: float32 (2048, 512)}.
    """
    x = bell(6, (2048, MILLION // 2048))
    sizes = np.float32(2) ** np.floor(16 * np.repeat(uniform(7, (2048, 16)), 32, axis=1) - 12)
    return {"bell": x * np.float32(0.02), "spread": x * sizes}


def importance():
    """Return an importance for each column, some of them zero: float32 (512,)."""
    u = uniform(8, (512,))
    return np.where(u < 0.1, np.float32(0), u * u)
