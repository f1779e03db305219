"""The AdamW kernel."""

import pytest

from minimtp.backend import numpy as np
from tests.helpers.tolerances import COMPARISONS, assert_close
from tests.kernels.both import each_kernel, normal


@each_kernel
@pytest.mark.parametrize("decay_mask", [1.0, "per parameter"])
def test_adamw_computes_the_published_update(kernel, decay_mask):
    rng = np.random.default_rng(5)
    p, m, v = rng.standard_normal(5000), np.zeros(5000), np.zeros(5000)
    mask = 1.0 if decay_mask == 1.0 else (rng.random(5000) < 0.5).astype(np.float32)
    kept = [p.astype(np.float32), np.zeros(5000, np.float32), np.zeros(5000, np.float32)]
    for step in range(1, 6):
        gradient = normal(rng, 5000)
        kernel.adamw(
            kept[0], gradient, kept[1], kept[2], mask, 1e-2, 0.9, 0.95, 1e-8, 0.1, step, 0.5
        )
        g = 0.5 * gradient.astype(np.float64)
        m, v = 0.9 * m + 0.1 * g, 0.95 * v + 0.05 * g**2
        p = p - 1e-2 * (
            m / (1 - 0.9**step) / (np.sqrt(v / (1 - 0.95**step)) + 1e-8) + 0.1 * mask * p
        )
    assert_close(kept[0], p, COMPARISONS["five steps of adamw"])
