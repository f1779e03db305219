"""Solutions of lesson 8: straight-through gradients, LSQ's derivative without and with offsets."""

from tests.exercise_mutants import Solutions, changed

EXERCISES = {}

STRAIGHT = """
class FakeQuantize:
    def forward(self, weight):
        self.inside = self.grid.straight_through_mask(weight, self.mask)
        return self.grid.fake_quantize(weight, self.name)

    def backward(self, gradient):
        return gradient if self.inside is None else gradient * self.inside
"""

EXERCISES[1] = Solutions(
    right={
        "the mask is stored": STRAIGHT,
        "encode, decode, and a choice": """
class FakeQuantize:
    def forward(self, weight):
        self.weight = weight.copy()
        return self.grid.decode(*self.grid.encode(weight, self.name)).astype(weight.dtype)

    def backward(self, gradient):
        inside = self.grid.straight_through_mask(self.weight, self.mask)
        if inside is None:
            return gradient
        return array_module(gradient).where(inside, gradient, 0)
""",
    },
    wrong={
        "the true derivative": changed(
            STRAIGHT,
            ("return gradient if self.inside is None else gradient", "return 0 * gradient #"),
        ),
        "no mask": changed(STRAIGHT, ("else gradient * self.inside", "else gradient")),
        "the mask of the other weights": changed(STRAIGHT, ("* self.inside", "* ~self.inside")),
        "always the mask clip-round": changed(STRAIGHT, ("self.mask)", '"clip-round")')),
        "the mask of the rounded weights": changed(
            STRAIGHT,
            (
                "straight_through_mask(weight,",
                "straight_through_mask(self.grid.fake_quantize(weight),",
            ),
        ),
        "the gradient in place": changed(
            STRAIGHT,
            (
                "return gradient if self.inside is None else gradient * self.inside",
                "gradient *= True if self.inside is None else self.inside\n        return gradient",
            ),
        ),
        "a mask is always multiplied": changed(
            STRAIGHT, ("gradient if self.inside is None else gradient", "gradient")
        ),
        "the gradient is rounded, too": changed(
            STRAIGHT,
            (
                "return gradient if",
                "gradient = self.grid.fake_quantize(gradient)\n        return gradient if",
            ),
        ),
        "no rounding": changed(STRAIGHT, ("self.grid.fake_quantize(weight, self.name)", "weight")),
        "always float32": changed(
            STRAIGHT,
            (
                "self.grid.fake_quantize(weight, self.name)",
                "self.grid.decode(*self.grid.encode(weight, self.name))",
            ),
        ),
        "errors do not name the weights": changed(STRAIGHT, (", self.name)", ")")),
        "the master weights are rounded": changed(
            STRAIGHT,
            (
                "return self.grid.fake_quantize(weight, self.name)",
                "weight[...] = self.grid.fake_quantize(weight, self.name)\n        return weight",
            ),
        ),
    },
)

LSQ = """
class FakeQuantizeLearned:
    def weight_and_step_gradients(self, gradient, value):
        xp = array_module(value)
        levels = self.grid.outermost_levels(self.scales)
        first, last = (per_weight(self.grid, level, value.shape[1]) for level in levels)
        inside = (self.weight >= xp.minimum(first, last)) & (self.weight <= xp.maximum(first, last))
        within = 0 * value if self.bound else value - self.weight
        slope = xp.where(inside, within, value)
        return gradient * inside, self.total_per_group(gradient * slope)
"""

EXERCISES[2] = Solutions(
    right={
        "a choice between two slopes": LSQ,
        "two sums": """
class FakeQuantizeLearned:
    def weight_and_step_gradients(self, gradient, value):
        xp = array_module(value)
        levels = self.grid.outermost_levels(self.scales)
        levels = [per_weight(self.grid, level, value.shape[1]) for level in levels]
        low, high = np.sort(levels, axis=0)
        passed = xp.where((self.weight < low) | (self.weight > high), 0, gradient)
        fixed = value if self.bound else self.weight
        clipped = self.total_per_group((gradient - passed) * value)
        return passed, clipped + self.total_per_group(passed * (value - fixed))
""",
    },
    wrong={
        "the derivative of the staircase": changed(
            LSQ, ("inside, within, value", "inside, value, value")
        ),
        "the sign of the error": changed(LSQ, ("value - self.weight", "self.weight - value")),
        "clipped weights do not count": changed(
            LSQ, ("inside, within, value", "inside, within, 0 * value")
        ),
        "clipped weights count with their error": changed(
            LSQ, ("inside, within, value", "inside, within, value - self.weight")
        ),
        "clipped weights pass their gradient": changed(LSQ, ("gradient * inside", "gradient")),
        "only clipped weights pass their gradient": changed(
            LSQ, ("gradient * inside", "gradient * ~inside")
        ),
        "weights on the outermost levels are clipped": changed(LSQ, (">=", ">"), ("<=", "<")),
        "the first level is always the lower one": changed(
            LSQ, ("xp.minimum(first, last)", "first"), ("xp.maximum(first, last)", "last")
        ),
        "the bound is ignored": changed(LSQ, ("0 * value if self.bound else value", "value")),
        "the mean of a group": changed(LSQ, ("(gradient * slope)", "(gradient * slope) / 32")),
        "the factor of the LSQ paper": changed(
            LSQ, ("(gradient * slope)", "(gradient * slope) / (32 * self.grid.max_code) ** 0.5")
        ),
        "the derivative with respect to the scale": changed(
            LSQ, ("gradient * slope", "gradient * slope / abs(value).max()")
        ),
        "the sum of the whole matrix": changed(
            LSQ, ("(gradient * slope)", "(gradient * slope) * 0 + (gradient * slope).sum()")
        ),
        "the gradient is left out": changed(LSQ, ("gradient * slope", "slope")),
        "the rounded weights in place": changed(
            LSQ,
            ("slope = xp.where(inside, within, value)", "value -= inside * (value - within)"),
            ("gradient * slope", "gradient * value"),
        ),
    },
)

OFFSETS = """
class FakeQuantizeLearned:
    def weight_and_step_gradients(self, gradient, value):
        xp, columns = array_module(value), value.shape[1]
        levels = self.grid.outermost_levels(self.scales)
        first, last = (per_weight(self.grid, level, columns) for level in levels)
        inside = (self.weight >= xp.minimum(first, last)) & (self.weight <= xp.maximum(first, last))
        lowest = 0 * value
        if self.has_offsets:
            lowest = per_weight(self.grid, self.scales.minimum, columns)
        within = 0 * value if self.bound else value - self.weight
        slope = xp.where(inside, within, value - lowest)
        return gradient * inside, self.total_per_group(gradient * slope)
"""

EXERCISES[3] = Solutions(
    right={
        "the minimum is subtracted": OFFSETS,
        "the codes times the steps": changed(
            OFFSETS,
            ("lowest = 0 * value", "outside = value"),
            (
                "lowest = per_weight(self.grid, self.scales.minimum, columns)",
                "codes = self.grid.nearest(self.weight, self.scales)\n"
                "            outside = codes * per_weight(self.grid, self.scales.step, columns)",
            ),
            ("xp.where(inside, within, value - lowest)", "within * inside + outside * ~inside"),
        ),
    },
    wrong={
        "the minimum is not subtracted": changed(OFFSETS, ("value - lowest", "value")),
        "the minimum is added": changed(OFFSETS, ("value - lowest", "value + lowest")),
        "the minimum is also subtracted inside": changed(
            OFFSETS, ("else value - self.weight", "else value - self.weight - lowest")
        ),
        "the minimum before it was moved": changed(
            OFFSETS, ("self.scales.minimum", "self.grid.encode(self.weight)[1].minimum")
        ),
        "the smallest value of the matrix": changed(
            OFFSETS, ("per_weight(self.grid, self.scales.minimum, columns)", "value.min()")
        ),
        "clipped weights do not count": changed(OFFSETS, ("value - lowest)", "0 * value)")),
        "only weights below the lowest level count": changed(
            OFFSETS, ("value - lowest)", "(value - lowest) * (self.weight < lowest))")
        ),
    },
)
