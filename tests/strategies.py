"""What the properties are tried on: every hypothesis strategy of the tests, in one place."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from minimtp.backend import numpy as np

# An example that takes long is no failure: the first one may compile a kernel, and machines are shared.
settings.register_profile("without deadlines", deadline=None)
settings.load_profile("without deadlines")


@st.composite
def weight_matrices(draw, largest=1e4):
    """float32 (1..3 rows, 32..96 columns), at most `largest` in magnitude: bell-shaped, or on a lattice full of ties and of
    weights on the very bounds of a grid, or anything at all; some groups are zero or constant."""
    shape = draw(st.integers(1, 3)), draw(st.integers(1, 3)), 32
    kind = draw(st.sampled_from(["bell", "lattice", "anything"]))
    if kind == "bell":
        spread = 10.0 ** draw(st.floats(-6, 2))
        matrix = spread * np.random.default_rng(draw(st.integers(0, 2**32))).standard_normal(shape)
    elif kind == "lattice":
        matrix = draw(arrays.arrays(np.int8, shape, elements=st.integers(-32, 32))) * 2.0 ** draw(st.integers(-20, 5))
    else:
        limit = float(np.float32(largest))
        matrix = draw(arrays.arrays(np.float32, shape, elements=st.floats(-limit, limit, width=32)))
    for group in range(shape[1]):
        special = draw(st.sampled_from(["", "", "", "zero", "constant"]))
        if special:
            matrix[:, group] = 0.0 if special == "zero" else matrix[:, group, :1]
    return matrix.reshape(shape[0], -1).astype(np.float32).clip(-largest, largest)


@st.composite
def codes_and_scales(draw, smallest, largest):
    """Any codes int8 (N, K) from `smallest` to `largest`, and any finite float16 scales as float32 (N, K/32)."""
    rows, groups = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    codes = draw(arrays.arrays(np.int8, (rows, 32 * groups), elements=st.integers(smallest, largest)))
    scales = draw(arrays.arrays(np.float16, (rows, groups), elements=st.floats(-65504, 65504, width=16)))
    return codes, scales.astype(np.float32)
