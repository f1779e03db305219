"""The museum: real defects of well-known projects, each as a replacement of one function here.

A mutant is a function that takes the correct function and returns a wrong one. `@mutant` says which
function it replaces, where the defect was found, and what must detect it: a property of the
catalogue on a grid, or a test. `in_place` installs it.
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
    """A defect.

    target: "module:function" or "module:Class.method". found: project and issue number.
    property_name and grid, or test: what detects it.
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
    def add(function):
        MUTANTS.append(Mutant(function, f"minimtp.{target}", found, property_name, grid, test))
        return function

    return add


def edited(function, *edits):
    """Return the function with pieces of its source replaced: pairs (old, new). Each old one must
    occur once.
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
    """The fixture `own` outside pytest: the library's function, or its replacement."""
    return thing


@contextmanager
def in_place(one: Mutant, monkeypatch):
    """Replace the correct function wherever it is known by its name, also in tests. Undo it at the
    end.
    """
    module, _, path = one.target.partition(":")
    owner = import_module(module)
    *classes, name = path.split(".")
    for cls in classes:
        owner = getattr(owner, cls)
    right = inspect.getattr_static(owner, name)
    wrong = one.replace(right)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, wrong)
        for other in [] if classes else list(sys.modules.values()):
            if (
                getattr(other, "__name__", "").startswith(("minimtp.", "tests."))
                and vars(other).get(name) is right
            ):
                patch.setattr(other, name, wrong)
        yield


def load() -> list[Mutant]:
    """Return all mutants, from all files of this folder."""
    for module in pkgutil.iter_modules(__path__):
        import_module(f"{__name__}.{module.name}")
    return MUTANTS
