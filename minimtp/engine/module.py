"""Models as trees of modules, found by walking their attributes. Swap a module, do not add a flag."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from minimtp.backend import Array
from minimtp.engine.tensor import Parameter


class Module:
    """Something with parameters. Attributes that are Parameters, Modules or lists of Modules are
    part of the tree.
    """

    def children(self) -> Iterator[tuple[str, "Module"]]:
        """(name, module) of the modules directly below; a list's members are named `list.0`,
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
        """(dotted name, module) of this module (named `prefix`) and all below, parents first."""
        yield prefix, self
        for name, child in self.children():
            yield from child.named_modules(f"{prefix}.{name}" if prefix else name)

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """(dotted name, parameter) of every parameter in the tree; one that is shared is named
        where it is met first.
        """
        seen: set[int] = set()
        for path, module in self.named_modules():
            for name, value in vars(module).items():
                if isinstance(value, Parameter) and id(value) not in seen:
                    seen.add(id(value))
                    yield (f"{path}.{name}" if path else name), value

    def parameters(self) -> list[Parameter]:
        return [parameter for _, parameter in self.named_parameters()]


def map_parameters(module: Module, function: Callable[[Array], Array]) -> None:
    """Put function(array) in the place of every parameter's array: another dtype, another device."""
    for parameter in module.parameters():
        parameter.data = function(parameter.data)


def freeze(module: Module) -> None:
    """Training leaves these parameters alone from now on."""
    for parameter in module.parameters():
        parameter.requires_grad = False


@contextmanager
def frozen(module: Module) -> Iterator[None]:
    """Within the block, gradients treat these parameters as constants."""
    learning = [parameter for parameter in module.parameters() if parameter.requires_grad]
    freeze(module)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad = True


Visit = Callable[[str, Module], Module | None]


def replace_modules(root: Module, visit: Visit) -> Module:
    """Put another module wherever `visit(dotted name, module)` returns one; returns the root,
    itself perhaps replaced.

    The replacement is not walked again. A module that stands in two places is visited once and
    replaced in both.
    """
    return _replaced("", root, visit, {})


def replicate(module: Module) -> Module:
    """A second tree over the same parameter arrays, with gradients of its own. What is shared
    inside stays shared.
    """
    return _replica(module, {})


# Functions rather than closures: a closure that calls itself is a reference cycle, and would keep
# the replaced modules, the whole full-precision model, in memory until the garbage collector
# happens to run.


def _replaced(
    name: str, module: Module, visit: Visit, decided: dict[int, tuple[Module, Module]]
) -> Module:
    """decided: what stands for each module by its id, beside the original, which is kept so that
    its id stays taken.
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
    """copies: by the id of the original."""
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
