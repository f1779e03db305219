"""Plain and compiled functions agree, and a row does not depend on the other rows of a call."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from minimtp.backend import numpy as np
from minimtp.kernels import plain
from minimtp.kernels.plain.cache import KEY_PANEL, key_panels
from tests.helpers.tolerances import KERNELS, assert_close
from tests.kernels.both import cpu, each_kernel, needs_numba, normal
from tests.kernels.samples import results, samples, terms


@each_kernel
@pytest.mark.parametrize("name", KERNELS)
@settings(max_examples=15)
@given(seed=st.integers(0, 2**32))
@example(seed=3093304)  # gated_update_backward: every gate is nearly open, so 1 - sigmoid cancels
@example(seed=262143)  # cross_entropy: two logits, so log_sum_exp - logit cancels
def test_float32_results_are_those_of_float64_up_to_rounding(kernel, name, seed):
    arguments = samples(np.random.default_rng(seed))[name]
    exact = results(getattr(plain, name), arguments, np.float64)
    found = results(getattr(kernel, name), arguments, np.float32)
    for true, result in zip(exact, found, strict=True):
        assert result.shape == true.shape
        if result.dtype.kind == "f":
            assert result.dtype == np.float32
            scale = max(np.abs(true).max(initial=1e-30), terms(name, arguments))
            assert_close(result, true, KERNELS[name], scale)


def test_every_function_has_a_compiled_counterpart_with_the_same_parameters():
    import inspect

    public = {
        name
        for name, f in vars(plain).items()
        if inspect.isfunction(f) and f.__module__.startswith(plain.__name__)
    }
    public -= {name for name in public if name.startswith(("_", "require"))}
    assert KERNELS.keys() < public
    if cpu is not None:
        assert public == {name for name in cpu.__all__}
        for name in public:
            theirs, ours = (
                inspect.signature(getattr(cpu, name)),
                inspect.signature(getattr(plain, name)),
            )
            assert [*theirs.parameters] == [*ours.parameters] or name.startswith("prepare"), name


@needs_numba
@given(
    seed=st.integers(0, 2**32),
    rows=st.integers(1, 12),
    start=st.integers(0, 30),
    row=st.integers(0, 11),
)
@settings(max_examples=40)
def test_a_row_of_every_other_decoding_kernel_has_the_same_bits_alone_and_with_other_rows(
    seed, rows, start, row
):
    rng, row = np.random.default_rng(seed), row % rows
    heads, groups, head_dim = [(4, 2, 8), (2, 2, 12), (3, 1, 32)][seed % 3]
    x, weight = normal(rng, rows, 50), normal(rng, 50)
    one = slice(row, row + 1)
    assert (
        cpu.rms_norm(x[one], weight, 1e-5)[0].tobytes()
        == cpu.rms_norm(x, weight, 1e-5)[0][one].tobytes()
    )
    gates = np.hstack([x, x])
    assert (
        cpu.gated_update(x[one], gates[one]).tobytes() == cpu.gated_update(x, gates)[one].tobytes()
    )
    assert cpu.swiglu(8 * x[one]).tobytes() == cpu.swiglu(8 * x)[one].tobytes()
    q, angles = normal(rng, rows, heads, head_dim), normal(rng, 2, rows, head_dim // 2)
    alone = cpu.rotate(q[None, one], angles[0, one], angles[1, one])
    assert alone.tobytes() == cpu.rotate(q[None], *angles)[:, one].tobytes()
    room = start + rows + int(rng.integers(0, 40))
    keys = normal(rng, groups, key_panels(room), head_dim, KEY_PANEL)
    values = normal(rng, room, groups, head_dim)
    alone = cpu.cached_attention(q[one], keys, values, start + row, 0.4)
    assert alone.tobytes() == cpu.cached_attention(q, keys, values, start, 0.4)[one].tobytes()


@needs_numba
@pytest.mark.parametrize("shape", [(0, 4), (2, 4), (4, 4), (3, 3), (3, 5)])
def test_rotation_refuses_tables_of_other_positions_or_channels(shape):
    x, table = np.zeros((1, 3, 2, 8), np.float32), np.zeros(shape, np.float32)
    with pytest.raises(ValueError, match="do not fit the positions"):
        cpu.rotate(x, table, table)
