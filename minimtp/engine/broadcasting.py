"""The backward pass of NumPy's broadcasting, for all operations in one place.

An input that was repeated is used several times, so it receives several gradients. Its gradient is
their sum.
"""

from minimtp.backend import Array


def undo_broadcasting(gradient: Array, shape: tuple[int, ...]) -> Array:
    """Sum the gradient over the axes along which an input of `shape` was repeated."""
    if gradient.shape == shape:
        return gradient
    added = gradient.ndim - len(shape)
    stretched = tuple(
        added + axis
        for axis, size in enumerate(shape)
        if size == 1 and gradient.shape[added + axis] != 1
    )
    axes = tuple(range(added)) + stretched
    return gradient.sum(axis=axes, keepdims=True).reshape(shape)
