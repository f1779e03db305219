"""Values that a caller might give to any argument."""

import math
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import minimtp
from minimtp.backend import numpy as np


class Unprintable:
    """An object of a caller's class whose repr fails."""

    def __repr__(self):
        raise RuntimeError("this object cannot be shown")


class Silent:
    """An object of a caller's class whose repr is empty."""

    def __repr__(self):
        return ""


ODD = [
    None, True, False, -1, 0, 1, 3, 2**64 - 1, 2**70, -(2**70), 10**400, 0.5, 1.0, -0.0, 1e-300,
    1e300, math.nan, math.inf, -math.inf, 1j, Decimal("0.5"), Fraction(1, 2),
    "", "text", "none", "auto", "3", "\ud800", "a\udcffb", "\x00", "x" * 5000, "two\nlines",
    b"", b"\xff\xfe", bytearray(b"the"), memoryview(b"the"),
    [], [5], ["a"], [b"a"], [""], [None], [True], [1.5], ["\ud800"], [[1]], [-1], [10**6], [2**70],
    (), (1, 2), {}, {"a": 1}, {1}, set(), range(3), frozenset(["a"]), Ellipsis, NotImplemented,
    np.int64(3), np.uint8(3), np.int32(-1), np.uint64(2**64 - 1), np.float32(0.5), np.float16(1),
    np.float64("nan"), np.bool_(True), np.array(3), np.array(0.5), np.array(True), np.str_("none"),
    np.bytes_(b"the"), np.array([1, 2]), np.array([1, 2], np.uint8), np.array([1, 2], np.int8),
    np.array([-1]), np.array([10**6]), np.array([1.5, 2.0]), np.array([True]), np.array([]),
    np.array("text"), np.array(["a"]), np.array([[1, 2]]), np.array([None]), np.array([2**64 - 1]),
    np.zeros((0, 3)), np.ma.masked, np.datetime64("2020-01-01"), np.array(1, np.complex64),
    Path("nowhere"), Path("."), object(), Unprintable(), Silent(), len, math, lambda *_: None,
    minimtp.UserError("text"),
]  # fmt: skip

# Each pair must be treated alike: the odd value and the plain one.
ALIKE = [
    (np.int64(3), 3), (np.uint8(3), 3), (np.array(3), 3), (np.int32(-1), -1),
    (np.uint64(2**64 - 1), 2**64 - 1), (np.float32(0.5), 0.5), (np.float16(1), 1.0),
    (np.array(0.5), 0.5), (Fraction(1, 2), 0.5), (np.str_("none"), "none"), (np.bool_(True), True),
    (np.bytes_(b"the"), b"the"), (bytearray(b"the"), b"the"), (memoryview(b"the"), b"the"),
    (np.array([1, 2]), [1, 2]), (np.array([1, 2], np.uint8), [1, 2]), ((1, 2), [1, 2]),
]  # fmt: skip
