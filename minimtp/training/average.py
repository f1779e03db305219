"""The exponential moving average of the weights, which can become the finished model.

    a  <-  m a + (1 - m) w        after every step,  m = min(ema_decay, step / (step + 10))

Late in training the weights circle around a minimum, and their average is closer to it than any of
them (Polyak & Juditsky 1992). In training with rounding, a weight between two levels also
oscillates between them. The average decides which level it gets.

The average is over the full-precision master weights, and is rounded once at the end, because the
mean of rounded weights lies between levels. In the first steps m is small, so that the average
forgets the initial weights.
"""

from minimtp.backend import Array, array_module
from minimtp.engine.flat import FlatParameters

FIRST_STEPS = 10  # the 10 in the formula above


class WeightAverage:
    """The moving average of flat parameters.

    decay: the recipe's ema_decay. stored: the optimizer arrays of a checkpoint. Those named
    `average.NAME` are loaded. Parameters without an average start at their current weights.
    """

    def __init__(self, flat: FlatParameters, decay: float, stored: dict[str, Array]) -> None:
        self.flat, self.decay = flat, decay
        self.values = flat.data.copy()  # (P,)
        for name, view in self.state().items():
            if name in stored:
                view[...] = array_module(view).asarray(stored[name])

    def update(self, step: int) -> None:
        """Include the weights after step number `step`, counted from 1."""
        new = 1.0 - min(self.decay, step / (step + FIRST_STEPS))
        self.values += self.values.dtype.type(new) * (self.flat.data - self.values)

    def shift(self, before: Array) -> None:
        """Move the average along with weights that were set, not learned.

        before: the weights (P,) before they were set.
        """
        self.values += self.flat.data - before

    def copy_to_weights(self) -> None:
        """Replace the weights by their average."""
        self.flat.data[...] = self.values

    def state(self) -> dict[str, Array]:
        """Return `average.NAME` for every parameter, as views that the next step changes."""
        return {f"average.{name}": view for name, view in self.flat.by_name(self.values).items()}
