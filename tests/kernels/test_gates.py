"""The SwiGLU kernel."""

from minimtp.backend import numpy as np
from tests.helpers.tolerances import COMPARISONS, assert_close
from tests.kernels.both import each_kernel


@each_kernel
def test_swiglu_of_a_large_gate_is_gate_times_up_or_zero(kernel):
    result = kernel.swiglu(np.array([[1e4, -1e4, 200, -200, 0, 1, 2, 3, 4, 5]], np.float32))
    assert_close(result, [[1e4, 0, 600, 0, 0]], COMPARISONS["large gates"])


@each_kernel
def test_a_closed_gate_lets_nothing_through_however_large_the_other_factor_is(kernel):
    gates = np.array([-110, -1e10, -1e37], np.float32)
    gate_up = np.array([[g, 3e37] for g in gates], np.float32)
    ones = np.ones((3, 1), np.float32)
    assert not kernel.swiglu(gate_up).any()
    assert not kernel.swiglu_backward(ones, gate_up).any()
    assert np.array_equal(kernel.gated_update(ones, gate_up), ones)
    dstate, dgate_candidate = kernel.gated_update_backward(ones, ones, gate_up)
    assert np.array_equal(dstate, ones) and not dgate_candidate.any()
