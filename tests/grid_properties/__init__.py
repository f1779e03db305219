"""The catalogue of grid properties, and the grids for which each is true.

A property is a function of a grid, weights that the grid accepts, and a random generator. It raises
AssertionError if the grid breaks it, and `given_that` skips weights to which it does not apply.
`@grid_property(holds=..., about=...)` states for which grids the property is true. It is false for
the other grids that it is about, and `examples` contains a counter-example. So the catalogue can
test any object with the methods of a grid: the library's grids, a wrong one (`tests/mutants`), or
your own.

catalogue.py   how a property is stated, and what the properties share
codes.py       which code a weight gets, how far rounding moves it, and rounding again
symmetries.py  negation, scaling, order, shuffling, and independent groups
edge_cases.py  zeros, equal weights, tiny and huge weights, and arrays that must be rejected
storage.py     gradient masks, packed bytes, and the size of the rounding error
examples.py    grids and fixed weights on which the properties are checked
"""

from tests.grid_properties import codes, edge_cases, storage, symmetries  # noqa: F401  (add properties)
from tests.grid_properties.catalogue import PROPERTIES, NotApplicable
from tests.grid_properties.examples import GRIDS, broken_properties

__all__ = ["GRIDS", "PROPERTIES", "NotApplicable", "broken_properties"]
