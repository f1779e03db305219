"""Random arrays and a small module for the tests of the engine."""

from minimtp.backend import numpy as np
from minimtp.engine.module import Module
from minimtp.engine.tensor import Parameter
from minimtp.model.layers import Linear

rng = np.random.default_rng(7)


def normal(*shape):
    return rng.standard_normal(shape)


class Pair(Module):
    def __init__(self):
        self.first = Linear(3, 4, np.random.default_rng(0))
        self.others = [Linear(4, 2, np.random.default_rng(1)), self.first]
        self.bias = Parameter(np.zeros(2, np.float32))

    def __call__(self, x):
        return self.others[0](self.first(x)) + self.bias
