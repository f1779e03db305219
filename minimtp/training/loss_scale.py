"""float16 has no number between 0 and 6e-8, where many gradients are, so the loss, and with it every gradient, is scaled up.

The scale is a power of two, and the optimizer divides by it, so nothing else changes. It is found by trying (Micikevicius et
al. 2018, arXiv 1710.03740, section 3.2): where a gradient overflows, the step is computed again with half of it; after many
steps without that it is doubled.
"""

FIRST, LARGEST, SMALLEST = 2.0**16, 2.0**24, 1.0
PATIENCE = 1000  # steps without an overflow before the scale is doubled


class LossScale:
    """The factor of the loss, `value`: 1 and fixed unless the precision is float16. kept: what `state` gave of it before."""

    def __init__(self, precision: str, kept: object = None) -> None:
        self._moves = precision == "float16"
        self.value, self._steps = kept or (FIRST if self._moves else 1.0, 0)

    def lower(self) -> bool:
        """A gradient was not finite: whether the step is to be computed again, with a smaller scale."""
        if not self._moves or self.value <= SMALLEST:
            return False
        self.value, self._steps = self.value / 2, 0
        return True

    def stepped(self) -> None:
        """A step was taken."""
        self._steps += 1
        if self._moves and self._steps == PATIENCE:
            self.value, self._steps = min(LARGEST, 2 * self.value), 0

    def state(self) -> dict[str, object]:
        """What a checkpoint holds of it; nothing where it never changes."""
        return {"loss_scale": [self.value, self._steps]} if self._moves else {}
