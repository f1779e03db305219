"""Wrong verification rules, to show that the enumeration would find them."""

from types import FunctionType


def with_names(function, **names):
    """The function as if its module had bound these names otherwise."""
    return FunctionType(
        function.__code__, function.__globals__ | names, function.__name__, function.__defaults__
    )
