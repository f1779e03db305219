"""The SwiGLU kernel."""

from minimtp.backend import numpy as np
from tests.helpers.tolerances import COMPARISONS, assert_close
from tests.kernels.both import each_kernel


@each_kernel
def test_swiglu_of_a_large_gate_is_gate_times_up_or_zero(kernel):
    result = kernel.swiglu(np.array([[1e4, -1e4, 200, -200, 0, 1, 2, 3, 4, 5]], np.float32))
    assert_close(result, [[1e4, 0, 600, 0, 0]], COMPARISONS["large gates"])
