"""Wrong verification rules that the enumeration must find."""

from types import FunctionType


def with_names(function, **names):
    """Return the function with other values for these global names."""
    return FunctionType(
        function.__code__, function.__globals__ | names, function.__name__, function.__defaults__
    )
