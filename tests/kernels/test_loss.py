"""Cross-entropy and the gradient of embeddings handle ignored, huge and invalid inputs."""

import pytest

from minimtp.backend import numpy as np
from tests.helpers.tolerances import COMPARISONS, KERNELS, assert_close
from tests.kernels.both import each_kernel, normal


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


@each_kernel
def test_the_mixed_loss_leaves_the_gradient_of_text_and_guide_in_place_of_the_logits(kernel):
    rng = np.random.default_rng(4)
    logits, guide = normal(rng, 2, 5, 37, spread=3)
    targets = np.array([0, 36, -1, 5, 5])
    text, guided = normal(rng, 2, 5)
    plain_losses, log_sum_exp = kernel.cross_entropy(logits, targets)
    expected = kernel.cross_entropy_backward(logits, targets, log_sum_exp, text)
    alone = logits.copy()
    losses = kernel.mixed_cross_entropy(alone, targets, text, None, guided)
    assert losses.tobytes() == plain_losses.tobytes()
    assert alone.tobytes() == expected.tobytes()
    p, q = (np.exp(x) / np.exp(x).sum(axis=1, keepdims=True) for x in (logits, guide))
    expected += (p - q) * guided[:, None]
    both = logits.copy()
    losses = kernel.mixed_cross_entropy(both, targets, text, guide, guided)
    assert losses.tobytes() == plain_losses.tobytes()
    assert_close(both, expected, KERNELS["mixed_cross_entropy"], scale=3.0)


@each_kernel
def test_a_guide_with_the_same_logits_has_no_gradient(kernel):
    logits = normal(np.random.default_rng(4), 3, 37, spread=3)
    found, zero, one = logits.copy(), np.zeros(3, np.float32), np.ones(3, np.float32)
    kernel.mixed_cross_entropy(found, np.array([1, 2, 3]), zero, logits, one)
    assert np.abs(found).max() < 1e-7
