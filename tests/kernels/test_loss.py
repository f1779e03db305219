"""Cross-entropy and the gradient of embeddings handle ignored, huge and invalid inputs."""

import pytest

from minimtp.backend import numpy as np
from tests.kernels.both import each_kernel, normal
from tests.tolerances import COMPARISONS, assert_close


@each_kernel
def test_an_ignored_target_has_zero_loss_and_zero_gradient(kernel):
    logits, targets = normal(np.random.default_rng(2), 4, 9), np.array([-1, 3, -1, 8])
    losses, log_sum_exp = kernel.cross_entropy(logits, targets)
    gradient = kernel.cross_entropy_backward(logits, targets, log_sum_exp, np.ones(4, np.float32))
    assert losses[[0, 2]].tolist() == [0, 0] and (losses[[1, 3]] > 0).all()
    assert not gradient[[0, 2]].any() and gradient[[1, 3]].all()


@each_kernel
def test_huge_logits_give_finite_losses(kernel):
    logits = np.array([[1e30, -1e30, 0], [-300, -300, -300], [300, -300, 299]], np.float32)
    losses, _ = kernel.cross_entropy(logits, np.array([0, 1, 2]))
    assert_close(losses, [0, np.log(3), np.log1p(np.exp(1.0))], COMPARISONS["huge logits"])


@each_kernel
def test_a_target_or_token_beyond_the_vocabulary_is_an_error(kernel):
    with pytest.raises(IndexError):
        kernel.cross_entropy(np.zeros((1, 3), np.float32), np.array([3]))
    with pytest.raises(IndexError):
        kernel.embedding_backward(
            np.zeros((1, 3), np.float32), np.array([5]), np.zeros((5, 3), np.float32)
        )
