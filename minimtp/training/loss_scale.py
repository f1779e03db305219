"""Loss scaling for float16, which has no number between 0 and 6e-8, where many gradients lie.

The loss is multiplied by a power of two, and so is every gradient. The optimizer divides by it, so
nothing else changes. The scale is found by trial (Micikevicius et al. 2018, arXiv 1710.03740,
section 3.2). If a gradient overflows, the step is computed again with half the scale. After many
steps without overflow, the scale is doubled.
"""

FIRST, MAX, MIN = 2.0**16, 2.0**24, 1.0
PATIENCE = 1000  # steps without an overflow before the scale is doubled


class LossScale:
    """The factor of the loss, `value`. It is 1 and never changes unless the precision is float16.

    stored: the state of a checkpoint, or None for a fresh run.
    """

    def __init__(self, precision: str, stored: list[float] | None = None) -> None:
        self._adapts = precision == "float16"
        self.value, self._steps = stored or (FIRST if self._adapts else 1.0, 0)

    def lower(self) -> bool:
        """Halve the scale after an overflow. Returns whether to compute the step again."""
        if not self._adapts or self.value <= MIN:
            return False
        self.value, self._steps = self.value / 2, 0
        return True

    def count_step(self) -> None:
        """Count a step without overflow, and double the scale when it is time."""
        self._steps += 1
        if self._adapts and self._steps == PATIENCE:
            self.value, self._steps = min(MAX, 2 * self.value), 0

    def state(self) -> dict[str, object]:
        """Return what a checkpoint stores: nothing if the scale never changes."""
        return {"loss_scale": [self.value, self._steps]} if self._adapts else {}
