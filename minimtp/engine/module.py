"""Models as trees of modules. To change a model, swap a module instead of adding a flag."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from minimtp.backend import Array
from minimtp.backend import numpy as np
from minimtp.engine.tensor import Parameter


class Indices:
    """Increasing integers from 0 to limit - 1, which are stored with a model and never trained.

    data: int32 (N,), always on the host.
    """

    def __init__(self, data: Array, limit: int) -> None:
        self.data, self.limit = data, limit

    def are_valid(self) -> bool:
        """Return whether the numbers are increasing and in their range."""
        edges = np.concatenate(([-1], self.data.astype(np.int64), [self.limit]))
        return bool((np.diff(edges) > 0).all())


class Module:
    """A part of a model. Its attributes that are Parameters, Indices, Modules or lists of Modules
    belong to the tree.
    """

    def children(self) -> Iterator[tuple[str, "Module"]]:
        """Yield (name, module) of the direct children. Members of a list are named `list.0`,
        `list.1`, ...
        """
        for name, value in vars(self).items():
            if isinstance(value, Module):
                yield name, value
            elif isinstance(value, list):
                for position, member in enumerate(value):
                    if isinstance(member, Module):
                        yield f"{name}.{position}", member

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, "Module"]]:
        """Yield (dotted name, module) of this module, named `prefix`, and all modules below,
        parents first.
        """
        yield prefix, self
        for name, child in self.children():
            yield from child.named_modules(f"{prefix}.{name}" if prefix else name)

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Yield (dotted name, parameter) of every parameter in the tree. A shared parameter appears
        once, under its first name.
        """
        seen: set[int] = set()
        for path, module in self.named_modules():
            for name, value in vars(module).items():
                if isinstance(value, Parameter) and id(value) not in seen:
                    seen.add(id(value))
                    yield (f"{path}.{name}" if path else name), value

    def named_indices(self) -> Iterator[tuple[str, Indices]]:
        """Yield (dotted name, indices) of all Indices in the tree."""
        for path, module in self.named_modules():
            for name, value in vars(module).items():
                if isinstance(value, Indices):
                    yield (f"{path}.{name}" if path else name), value

    def parameters(self) -> list[Parameter]:
        return [parameter for _, parameter in self.named_parameters()]


def map_parameters(module: Module, function: Callable[[Array], Array]) -> None:
    """Replace every parameter's array by function(array), for example to change its dtype or
    device.
    """
    for parameter in module.parameters():
        parameter.data = function(parameter.data)


def named_arrays(module: Module) -> dict[str, Array]:
    """Return the arrays of all parameters and Indices in the tree, by dotted name."""
    parameters = {name: parameter.data for name, parameter in module.named_parameters()}
    return parameters | {name: indices.data for name, indices in module.named_indices()}


def freeze(module: Module) -> None:
    """Exclude these parameters from training from now on."""
    for parameter in module.parameters():
        parameter.requires_grad = False


@contextmanager
def frozen(module: Module) -> Iterator[None]:
    """Treat these parameters as constants inside the block."""
    learning = [parameter for parameter in module.parameters() if parameter.requires_grad]
    freeze(module)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad = True


Visit = Callable[[str, Module], Module | None]


def replace_modules(root: Module, visit: Visit) -> Module:
    """Replace every module for which `visit(dotted name, module)` returns another one.

    Returns the root or its replacement.

    A replacement is not visited. A module that is used in two places is visited once and replaced
    in both.
    """
    return _replaced("", root, visit, {})


def replicate(module: Module) -> Module:
    """Return a second tree over the same parameter arrays with separate gradients. Shared modules
    stay shared.
    """
    return _replica(module, {})


# Functions rather than closures: a closure that calls itself is a reference cycle, and would keep
# the replaced modules, the whole full-precision model, in memory until the garbage collector
# happens to run.


def _replaced(
    name: str, module: Module, visit: Visit, decided: dict[int, tuple[Module, Module]]
) -> Module:
    """decided: maps the id of each module to the original and its replacement. The original is kept
    so that no new object gets its id.
    """
    if id(module) in decided:
        return decided[id(module)][1]
    replacement = visit(name, module)
    decided[id(module)] = (module, module if replacement is None else replacement)
    if replacement is not None:
        return replacement
    for attribute, value in list(vars(module).items()):
        path = f"{name}.{attribute}" if name else attribute
        if isinstance(value, Module):
            setattr(module, attribute, _replaced(path, value, visit, decided))
        elif isinstance(value, list):
            for position, member in enumerate(value):
                if isinstance(member, Module):
                    value[position] = _replaced(f"{path}.{position}", member, visit, decided)
    return module


def _replica(value: Any, copies: dict[int, Any]) -> Any:
    """copies: finished copies, by the id of the original."""
    if id(value) in copies:
        return copies[id(value)]
    if isinstance(value, Parameter):
        result: Any = Parameter(value.data)
        result.requires_grad = value.requires_grad
    elif isinstance(value, Module):
        result = object.__new__(type(value))
        copies[id(value)] = result
        vars(result).update(
            {name: _replica(member, copies) for name, member in vars(value).items()}
        )
    elif isinstance(value, list):
        result = [_replica(member, copies) for member in value]
    else:
        return value
    copies[id(value)] = result
    return result
