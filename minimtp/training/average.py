"""A running average of the weights: what the finished model is, where a recipe asks for it.

    a  <-  m a + (1 - m) w        after every step,  m = min(memory, step / (step + 10))

Late weights circle around a minimum, and their average lies nearer to it than any of them (Polyak & Juditsky 1992). Trained
through rounding, a weight between two levels also hops from one to the other, and the average settles the matter. It is the
full-precision masters that are averaged, then rounded once: the mean of rounded weights lies between levels. Early on the
memory is short, or the first weights would stay in it.
"""

from minimtp.backend import Array, array_module
from minimtp.engine.flat import FlatParameters

FIRST_STEPS = 10


class WeightAverage:
    """The average of flat parameters; of `stored`, a checkpoint's arrays, it takes over `average.NAME` where they are."""

    def __init__(self, flat: FlatParameters, memory: float, stored: dict[str, Array]) -> None:
        self.flat, self.memory = flat, memory
        self.values = flat.data.copy()  # (P,)
        for name, view in self.state().items():
            if name in stored:
                view[...] = array_module(view).asarray(stored[name])

    def follow(self, step: int) -> None:
        """Take in the weights after the step-th step."""
        new = 1.0 - min(self.memory, step / (step + FIRST_STEPS))
        self.values += self.values.dtype.type(new) * (self.flat.data - self.values)

    def start_anew(self, before: Array) -> None:
        """Begin again with what was set, not learned, since the weights were `before` (P,)."""
        self.values += self.flat.data - before

    def put_in_place(self) -> None:
        """Make the parameters the average."""
        self.flat.data[...] = self.values

    def state(self) -> dict[str, Array]:
        """`average.NAME` for every parameter: views, to be saved at once."""
        return {f"average.{name}": view for name, view in self.flat.by_name(self.values).items()}
