"""The museum: real defects of well-known projects, each put in place of one function of this one.

A mutant is a function that takes the right function and returns the wrong one. `@mutant` says which function it replaces,
where the defect was found, and what has to notice it: a law of the catalogue on a grid, or a test. `in_place` puts it there.
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
    """target: "module:function" or "module:Class.method"; found: project and number; law and grid, or test: the witness."""

    replace: Callable
    target: str
    found: str
    law: str | None
    grid: str | None
    test: Callable | None

    @property
    def name(self) -> str:
        return self.replace.__name__


MUTANTS: list[Mutant] = []


def mutant(target, found, law=None, grid=None, test=None):
    def add(function):
        MUTANTS.append(Mutant(function, f"minimtp.{target}", found, law, grid, test))
        return function

    return add


def edited(function, *edits):
    """The function with pieces of its source replaced: pairs (old, new), each old one standing there exactly once."""
    source = textwrap.dedent(inspect.getsource(function))
    for old, new in edits:
        assert source.count(old) == 1, (
            f"{old!r} stands {source.count(old)} times in {function.__name__}"
        )
        source = source.replace(old, new)
    names = dict(function.__globals__)
    exec(source, names)
    return names[function.__name__]


def own(thing):
    """The fixture of that name, without readers: the library's function, or what stands in its place."""
    return thing


@contextmanager
def in_place(one: Mutant, monkeypatch):
    """The wrong function wherever the right one is known by its name, tests included; everything is put back at the end."""
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
    """All mutants, from all files of this folder."""
    for module in pkgutil.iter_modules(__path__):
        import_module(f"{__name__}.{module.name}")
    return MUTANTS
