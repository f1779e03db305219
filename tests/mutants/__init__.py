"""Mutants: real defects of well-known projects, each reproduced in one function of this library.

A mutant is a function that takes the correct function and returns a wrong one. `@mutant` states
which function it replaces, where the defect was found, and what must detect it: a grid and a
property of the catalogue, or a test. `in_place` installs it.
"""

import inspect
import pkgutil
import sys
import textwrap
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module


@dataclass(frozen=True)
class Mutant:
    """One defect.

    target: "module:function" or "module:Class.method". found: project and issue number. It is
    detected by `test`, or by the property `property_name` on `grid`.
    """

    replace: Callable
    target: str
    found: str
    property_name: str | None
    grid: str | None
    test: Callable | None

    @property
    def name(self) -> str:
        return self.replace.__name__


MUTANTS: list[Mutant] = []


def mutant(target, found, property_name=None, grid=None, test=None):
    """Add the decorated function to the mutants."""

    def add(function):
        MUTANTS.append(Mutant(function, f"minimtp.{target}", found, property_name, grid, test))
        return function

    return add


def edited(function, *edits):
    """Return the function with its source edited.

    edits: pairs (old, new). Each `old` must occur exactly once.
    """
    source = textwrap.dedent(inspect.getsource(function))
    for old, new in edits:
        assert source.count(old) == 1, (
            f"{old!r} occurs {source.count(old)} times in {function.__name__}"
        )
        source = source.replace(old, new)
    names = dict(function.__globals__)
    exec(source, names)
    return names[function.__name__]


def own(thing):
    """Stand in for the fixture `own` outside pytest: return the function itself."""
    return thing


@contextmanager
def in_place(one: Mutant, monkeypatch):
    """Replace the correct function in every module that imports it, tests included.

    The correct function is restored at the end.
    """
    module, _, path = one.target.partition(":")
    owner = import_module(module)
    *classes, name = path.split(".")
    for cls in classes:
        owner = getattr(owner, cls)
    correct = inspect.getattr_static(owner, name)
    wrong = one.replace(correct)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, wrong)
        for other in [] if classes else list(sys.modules.values()):
            if (
                getattr(other, "__name__", "").startswith(("minimtp.", "tests."))
                and vars(other).get(name) is correct
            ):
                patch.setattr(other, name, wrong)
        yield


def load() -> list[Mutant]:
    """Import every file of this folder and return all mutants."""
    for module in pkgutil.iter_modules(__path__):
        import_module(f"{__name__}.{module.name}")
    return MUTANTS
