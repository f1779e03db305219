"""Attention of a few new tokens over the cache of keys and values, compiled.

Three steps for each key/value head: scores of 8 positions at a time for all rows that see them, so that keys are read
once; softmax along a row, as long as the row's own past; then the sum of the values by those weights, which stays in
registers. Every score and every sum is the same sequence of operations however many rows are in the call.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from minimtp.backend import numpy as np
from minimtp.kernels.compiling import compiled
from minimtp.kernels.cpu_math import exponentiate, largest
from minimtp.kernels.cpu_vectors import FLOAT, FLOAT_MATRIX, FLOATS, LANES, Emitter, fit

ONE = np.float32(1)
UNIT = 2 * LANES  # rows of scores are filled up to whole steps of the vectorized loops, whose remainders are slow
FLOAT_CUBE = types.Array(types.float32, 3, "C")


def cached_attention(q, keys, values, start, scale):
    q, keys, values = np.ascontiguousarray(q), np.ascontiguousarray(keys), np.ascontiguousarray(values)
    out = np.empty_like(q)
    attend(q, keys, values, start, scale, out)
    return out


@compiled
def attend(q, keys, values, start, scale, out):
    """`cached_attention` into `out`."""
    if q.shape[2] % LANES == 0:
        _attend(q, keys, values, start, scale, out)
    else:  # rare: the vectors of channels are filled up with zeros
        width, length = (q.shape[2] + LANES - 1) // LANES * LANES, start + q.shape[0]
        padded = np.empty((q.shape[0], q.shape[1], width), np.float32)
        keys, values = _zero_padded(keys, 0, length, width), _zero_padded(values, 0, length, width)
        _attend(_zero_padded(q, 0, q.shape[0], width), keys, values, start, scale, padded)
        for t in range(out.shape[0]):
            for h in range(out.shape[1]):
                for c in range(out.shape[2]):
                    out[t, h, c] = padded[t, h, c]


@compiled
def _zero_padded(x, first, rows, channels):
    """x[first : first + rows] with zeros where that, or `channels`, goes beyond x."""
    result = np.zeros((rows, x.shape[1], channels), np.float32)
    for s in range(min(rows, x.shape[0] - first)):
        for g in range(x.shape[1]):
            for c in range(x.shape[2]):
                result[s, g, c] = x[first + s, g, c]
    return result


@compiled
def _attend(q, keys, values, start, scale, out):
    groups, shared = keys.shape[1], q.shape[1] // keys.shape[1]
    if start < 0 or start + q.shape[0] > min(keys.shape[0], values.shape[0]) or groups * shared != q.shape[1]:
        raise ValueError("cached_attention: the cache does not fit the queries")
    blocks = (start + q.shape[0] + LANES - 1) // LANES
    width = (blocks * LANES + UNIT - 1) // UNIT * UNIT
    scores = np.empty((q.shape[0] * shared, width), np.float32)
    inside = min(blocks, keys.shape[0] // LANES)
    edge = _zero_padded(keys, inside * LANES, LANES, keys.shape[2]) if inside < blocks else keys
    for group in range(groups):
        for block in range(blocks):
            first = block * LANES
            for t in range(max(0, first - start), q.shape[0]):  # the rows whose past reaches this block
                for head in range(group * shared, (group + 1) * shared):
                    row = t * shared + head - group * shared
                    if block < inside:
                        _eight_scores(q, t, head, keys, first, group, scores, row, first)
                    else:
                        _eight_scores(q, t, head, edge, 0, group, scores, row, first)
        for t in range(q.shape[0]):
            for head in range(group * shared, (group + 1) * shared):
                row = t * shared + head - group * shared
                length = start + t + 1
                padded = (length + UNIT - 1) // UNIT * UNIT
                for s in range(length, padded):
                    scores[row, s] = -np.inf  # a share of zero
                past = scores[row, :padded]
                inverse = ONE / exponentiate(past, largest(past), np.float32(scale))
                _weighted_sum(scores, row, length, values, group, out, t, head)
                for c in range(out.shape[2]):
                    out[t, head, c] *= inverse


def _address(emit, cube, i, j):
    """Where cube[i, j] begins, and the bytes from there to cube[i + 1, j]."""
    middle, last = (emit.builder.extract_value(cube.shape, axis) for axis in (1, 2))
    line = emit.times(last, 4)
    data = emit.builder.bitcast(cube.data, ir.IntType(8).as_pointer())
    return emit.advance(data, emit.times(emit.plus(emit.times(i, middle), j), line)), emit.times(middle, line)


@intrinsic
def _eight_scores(typing_context, q, t, head, keys, first, group, scores, row, column):
    """scores[row, column + i] = q[t, head] . keys[first + i, group] for i in 0..7."""
    integer = types.intp
    if not fit((q, keys, scores), (FLOAT_CUBE, FLOAT_CUBE, FLOAT_MATRIX)):
        return None

    def generate(context, builder, signature, arguments):
        emit = Emitter(context, builder, signature.args, arguments)
        q, t, head, keys, first, group, scores, row, column = emit.arrays
        query, _ = _address(emit, q, t, head)
        key, stride = _address(emit, keys, first, group)
        lines = [emit.advance(key, emit.times(stride, i)) for i in range(LANES)]
        totals = [emit.variable(emit.constant(FLOATS, 0.0)) for _ in range(LANES)]
        parts = builder.sdiv(builder.extract_value(q.shape, 2), emit.number(LANES))
        with cgutils.for_range(builder, parts) as along_channels:
            offset = emit.times(along_channels.index, 4 * LANES)
            part = emit.load(FLOATS, query, offset)
            for total, line in zip(totals, lines, strict=True):
                builder.store(emit.multiply_add(part, emit.load(FLOATS, line, offset), builder.load(total)), total)
        sums = _sums_of_lanes(emit, [builder.load(total) for total in totals])
        emit.store(sums, emit.row(scores, row, 4, column))
        return context.get_dummy_value()

    return types.void(q, integer, integer, keys, integer, integer, scores, integer, integer), generate


def _sums_of_lanes(emit, vectors):
    """Eight vectors of eight lanes -> one vector, whose lane i is the sum of vector i's lanes: pairs, fours, eights."""
    for low, high in (
        ([0, 8, 2, 10, 4, 12, 6, 14], [1, 9, 3, 11, 5, 13, 7, 15]),
        ([0, 1, 8, 9, 4, 5, 12, 13], [2, 3, 10, 11, 6, 7, 14, 15]),
        ([0, 1, 2, 3, 8, 9, 10, 11], [4, 5, 6, 7, 12, 13, 14, 15]),
    ):
        pairs = zip(vectors[::2], vectors[1::2], strict=True)
        vectors = [emit.builder.fadd(emit.lanes(a, low, b), emit.lanes(a, high, b)) for a, b in pairs]
    return vectors[0]


@intrinsic
def _weighted_sum(typing_context, weights, row, length, values, group, out, t, head):
    """out[t, head] = sum over s < length of weights[row, s] * values[s, group]."""
    integer = types.intp
    if not fit((weights, values, out), (FLOAT_MATRIX, FLOAT_CUBE, FLOAT_CUBE)):
        return None

    def generate(context, builder, signature, arguments):
        emit = Emitter(context, builder, signature.args, arguments)
        weights, row, length, values, group, out, t, head = emit.arrays
        weight = emit.row(weights, row, 4)
        value, stride = _address(emit, values, 0, group)
        result, _ = _address(emit, out, t, head)
        vectors = builder.sdiv(builder.extract_value(out.shape, 2), emit.number(LANES))

        def sum_channels(first, count):
            """The sum for `count` vectors of channels that begin at vector `first`."""
            totals = [[emit.variable(emit.constant(FLOATS, 0.0)) for _ in range(count)] for parity in range(2)]
            offset = emit.times(first, 4 * LANES)

            def add_position(s, totals):
                share = emit.load_everywhere(FLOAT, weight, emit.times(s, 4))
                line = emit.advance(value, emit.plus(emit.times(s, stride), offset))
                for c, total in enumerate(totals):
                    part = emit.load(FLOATS, line, 4 * LANES * c)
                    builder.store(emit.multiply_add(share, part, builder.load(total)), total)

            pairs = builder.sdiv(length, emit.number(2))
            with cgutils.for_range(builder, pairs) as along_pairs:
                even = emit.times(along_pairs.index, 2)
                add_position(even, totals[0])
                add_position(emit.plus(even, 1), totals[1])
            with cgutils.for_range(builder, builder.sub(length, emit.times(pairs, 2))):
                add_position(emit.plus(length, -1), totals[0])
            for c, (even, odd) in enumerate(zip(*totals, strict=True)):
                total = builder.fadd(builder.load(even), builder.load(odd))
                emit.store(total, result, emit.plus(offset, 4 * LANES * c))

        fours = builder.sdiv(vectors, emit.number(4))
        with cgutils.for_range(builder, fours) as along_fours:
            sum_channels(emit.times(along_fours.index, 4), 4)
        with cgutils.for_range(builder, builder.sub(vectors, emit.times(fours, 4))) as along_rest:
            sum_channels(emit.plus(emit.times(fours, 4), along_rest.index), 1)
        return context.get_dummy_value()

    return types.void(weights, integer, integer, values, integer, out, integer, integer), generate
