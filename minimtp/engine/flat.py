"""All parameters in one array.

An optimizer step, a gradient norm and a sum over shards each become one pass over one array,
instead of one small pass per parameter. The model's parameters become views of the array, so no
other code has to change.
"""

from minimtp.backend import Array, array_module
from minimtp.engine.module import Module


class FlatParameters:
    """Moves the trainable parameters of `model` into one array. Frozen parameters are not moved.

    data, gradients: (P,) arrays.
    places: dotted name -> (slice into the arrays, shape).
    groups: slices that cover the arrays. The gradient of each group is clipped by its own norm.
    Each module named in `apart` is a group, and all other parameters are one more.

    Raises ValueError if the parameters differ in dtype or device.
    """

    def __init__(self, model: Module, apart: tuple[str, ...] = ()) -> None:
        named = [
            (name, parameter)
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
        ]
        if len({(array_module(p.data), p.dtype) for _, p in named}) != 1:
            raise ValueError("the parameters must be on one device and of one dtype")
        named.sort(key=lambda item: _group(item[0], apart))  # stable: groups become contiguous
        xp, dtype = array_module(named[0][1].data), named[0][1].dtype
        self.places: dict[str, tuple[slice, tuple[int, ...]]] = {}
        start = 0
        for name, parameter in named:
            self.places[name] = slice(start, start + parameter.data.size), parameter.shape
            start += parameter.data.size
        ends = [place.stop for place, _ in self.places.values()]
        kinds = [_group(name, apart) for name in self.places]
        last = [
            end
            for end, kind, after in zip(ends, kinds, [*kinds[1:], None], strict=True)
            if kind != after
        ]
        self.groups = [slice(a, b) for a, b in zip([0, *last], last, strict=False)]
        self.data = xp.empty(start, dtype)
        for name, parameter in named:
            place, shape = self.places[name]
            self.data[place] = parameter.data.ravel()
            parameter.data = self.data[place].reshape(shape)
        self.gradients = self.new_gradients(model)

    def new_gradients(self, model: Module) -> Array:
        """Return a zeroed (P,) array that receives the gradients of `model` from now on.

        model: this model or a replica of it.
        """
        gradients = array_module(self.data).zeros_like(self.data)
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                place, shape = self.places[name]
                parameter.grad = gradients[place].reshape(shape)
        return gradients

    @property
    def decay_mask(self) -> Array:
        """1 for the numbers of matrices, which weight decay applies to, and 0 for those of vectors,
        (P,). Made anew on each use, because it would take as much memory as the parameters.
        """
        mask = array_module(self.data).zeros_like(self.data)
        for place, shape in self.places.values():
            mask[place] = decays(shape)
        return mask

    def by_name(self, array: Array) -> dict[str, Array]:
        """Return views of a (P,) array, one per parameter, in the parameters' shapes."""
        return {name: array[place].reshape(shape) for name, (place, shape) in self.places.items()}


def decays(shape: tuple[int, ...]) -> bool:
    """Return whether weight decay applies to a parameter of this shape."""
    return len(shape) >= 2


def _group(name: str, apart: tuple[str, ...]) -> int:
    """Return i for parameters below the i-th module of `apart`, counted from 1, and 0 for all
    others.
    """
    return next((i for i, module in enumerate(apart, start=1) if name.startswith(f"{module}.")), 0)


def parameter_count(model: Module) -> int:
    """Return the number of parameters, frozen ones included. A shared parameter counts once."""
    return sum(parameter.data.size for parameter in model.parameters())
