"""Solutions of lesson 1: division, SiLU, and the gradient of a broadcast input."""

from tests.exercise_mutants import Solutions, changed

DIVIDE = """
class Divide:
    def forward(self, a, b):
        self.a, self.b = a, b
        return a / b

    def backward(self, gradient):
        return gradient / self.b, -gradient * self.a / self.b**2
"""

EXERCISES = {}

EXERCISES[1] = Solutions(
    right={
        "as the quotient rule": DIVIDE,
        "stores the result and the reciprocal": """
class Divide:
    def forward(self, a, b):
        self.reciprocal = 1 / b
        self.result = a / b
        return self.result

    def backward(self, gradient):
        da = gradient * self.reciprocal
        return da, -da * self.result
""",
    },
    wrong={
        "the sign of the second gradient": changed(DIVIDE, ("-gradient", "gradient")),
        "the divisor is not squared": changed(DIVIDE, ("self.b**2", "self.b")),
        "the quotient rule without a": changed(DIVIDE, (" * self.a / self.b", " / self.b")),
        "the incoming gradient is ignored": changed(
            DIVIDE, ("return gradient /", "return 1 + 0 * gradient /")
        ),
        "the first gradient is that of a product": changed(
            DIVIDE, ("gradient / self.b,", "gradient * self.b,")
        ),
        "the gradients are exchanged": changed(
            DIVIDE,
            (
                "gradient / self.b, -gradient * self.a / self.b**2",
                "-gradient * self.a / self.b**2, gradient / self.b",
            ),
        ),
        "the absolute divisor": changed(DIVIDE, ("self.b**2", "(self.b * abs(self.b))")),
        "the forward pass multiplies": changed(DIVIDE, ("return a / b", "return a * b")),
        "stores the inputs on the class": DIVIDE.replace("self.a", "Divide.a").replace(
            "self.b", "Divide.b"
        ),
        "changes the incoming gradient": """
class Divide:
    def forward(self, a, b):
        self.b, self.result = b, a / b
        return self.result

    def backward(self, gradient):
        gradient /= self.b
        return gradient, -gradient * self.result
""",
    },
)

SILU = """
class SiLU:
    def forward(self, a):
        self.a = a
        self.sigmoid = (1 + array_module(a).tanh(a / 2)) / 2
        return a * self.sigmoid

    def backward(self, gradient):
        s = self.sigmoid
        return gradient * (s + self.a * s * (1 - s))
"""

EXERCISES[2] = Solutions(
    right={
        "sigmoid by tanh": SILU,
        "two forms of the sigmoid by the sign": """
import numpy as np

class SiLU:
    def forward(self, a):
        self.a = a
        small = np.exp(-abs(a))
        self.s = np.where(a >= 0, 1 / (1 + small), small / (1 + small))
        return a * self.s

    def backward(self, gradient):
        silu = self.a * self.s
        return gradient * (silu + self.s * (1 - silu))
""",
        "a sigmoid of x limited to 100": """
import numpy as np

class SiLU:
    def forward(self, a):
        self.a, self.s = a, 1 / (1 + np.exp(-np.clip(a, -100, 100)))
        return a * self.s

    def backward(self, gradient):
        return gradient * self.s * (1 + self.a * (1 - self.s))
""",
    },
    wrong={
        "no product rule": changed(SILU, (" + self.a * s * (1 - s)", "")),
        "only the derivative of the sigmoid": changed(SILU, ("(s + self.a", "(self.a")),
        "the sigmoid overflows": changed(
            SILU, ("(1 + array_module(a).tanh(a / 2)) / 2", "1 / (1 + array_module(a).exp(-a))")
        ),
        "the argument of tanh is not halved": changed(SILU, ("tanh(a / 2)", "tanh(a)")),
        "the derivative of tanh": changed(SILU, ("s * (1 - s)", "(1 - s * s)")),
        "x times tanh": changed(
            SILU, ("(1 + array_module(a).tanh(a / 2)) / 2", "array_module(a).tanh(a / 2)")
        ),
        "the argument is clipped": changed(
            SILU, ("        self.a = a\n", "        self.a = a = a.clip(-700, 700)\n")
        ),
        "the incoming gradient is ignored": changed(SILU, ("return gradient * (s", "return (s")),
        "stores the sigmoid on the class": SILU.replace("self.sigmoid", "SiLU.sigmoid"),
        "a sigmoid of x limited to 30": changed(SILU, ("tanh(a / 2)", "tanh(a.clip(-30, 30) / 2)")),
    },
)

UNDO = """
def undo_broadcasting(gradient, shape):
    while gradient.ndim > len(shape):
        gradient = gradient.sum(axis=0)
    for axis, size in enumerate(shape):
        if size == 1:
            gradient = gradient.sum(axis=axis, keepdims=True)
    return gradient
"""

EXERCISES[3] = Solutions(
    right={
        "axis by axis": UNDO,
        "all axes at once": """
def undo_broadcasting(gradient, shape):
    padded = (1,) * (gradient.ndim - len(shape)) + tuple(shape)
    repeated = [axis for axis, size in enumerate(padded) if size != gradient.shape[axis]]
    return gradient.sum(axis=tuple(repeated), keepdims=True).reshape(shape)
""",
        "by an einsum": """
import numpy as np

def undo_broadcasting(gradient, shape):
    axes = list(range(gradient.ndim))
    padded = [1] * (gradient.ndim - len(shape)) + list(shape)
    kept = [axis for axis in axes if padded[axis] == gradient.shape[axis]]
    return np.einsum(gradient, axes, kept).reshape(shape)
""",
    },
    wrong={
        "axes of size 1 are not summed": changed(UNDO, ("if size == 1", "if size == 0")),
        "added axes are not summed": changed(UNDO, (".ndim > len(shape)", ".ndim < 0")),
        "shapes are aligned at the front": changed(UNDO, ("sum(axis=0)", "sum(axis=-1)")),
        "the mean instead of the sum": changed(
            UNDO, ("gradient.sum(axis=axis", "gradient.mean(axis=axis")
        ),
        "summed axes are dropped": changed(UNDO, (", keepdims=True", "")),
        "only one axis of size 1": changed(
            UNDO, ("keepdims=True)\n", "keepdims=True)\n            break\n")
        ),
        "the first element instead of the sum": changed(
            UNDO, ("gradient = gradient.sum(axis=0)", "gradient = gradient[0]")
        ),
    },
)
