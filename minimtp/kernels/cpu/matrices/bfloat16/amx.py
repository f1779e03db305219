"""A tile of a product with AMX, the matrix instructions of Intel's servers (since Sapphire Rapids).

A thread has eight tile registers of 16 rows with 64 bytes each. One instruction multiplies two of
them, and adds the products to a third:

    totals (16, 16)  +=  rows (16, 16 pairs of k)  @  columns (16 pairs of k, 16)

These are 8,192 multiplications. The instruction of AVX-512 BF16 does 32, so products become several
times as fast (`minimtp bench kernels` compares them with float32). Four of the registers hold the
totals of 32 rows times 32 columns, and the other four the operands.

A thread loads a configuration first, which says how large the registers are, and releases them in
the end, so that the system need not save 8 KB at each change of threads. Linux lets a process use
the registers after it has asked for them.

Source: Intel Architecture Instruction Set Extensions Programming Reference, chapter 3, "Intel AMX".
"""

import ctypes
import sys
from functools import cache

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic

from minimtp.kernels.cpu.matrices.bfloat16.panels import PAIR, PAIRS, SQUARE
from minimtp.kernels.cpu.matrices.vectors import (
    DOTS,
    FLOAT_MATRIX,
    INT8,
    INT64,
    LANES,
    Emitter,
    fit,
    processor_features,
)

HAS_INSTRUCTIONS = DOTS and {"amx-tile", "amx-bf16", "avx512bf16"} <= processor_features(
    cpu_target.target_context
)
TILE_ROWS = TILE_COLUMNS = 2 * LANES
REGISTERS, REGISTER_ROWS, ROW_BYTES = 8, 16, 64
ARCH_PRCTL, REQUEST_PERMISSION, TILE_DATA = 158, 0x1023, 18  # of Linux on x86


@cache
def is_usable():
    """Return whether this process may use the instructions."""
    return HAS_INSTRUCTIONS and receives_permission()


def receives_permission():
    """Ask the system for the permission. Return whether it was given."""
    if sys.platform != "linux":
        return False
    try:
        return ctypes.CDLL(None).syscall(ARCH_PRCTL, REQUEST_PERMISSION, TILE_DATA) == 0
    except (OSError, AttributeError):  # a system library without this function
        return False


def _call(emit, name, *arguments):
    """Emit an instruction. Integers that are Python's are numbers of registers."""
    constants = [ir.Constant(INT8, x) if isinstance(x, int) else x for x in arguments]
    emit.call(f"llvm.x86.{name}", ir.VoidType(), *constants)


@intrinsic
def configure(typing_context):
    """Let this thread use the registers, all of them with 16 rows of 64 bytes."""

    def generate(context, builder, signature, arguments):
        if HAS_INSTRUCTIONS:
            emit = Emitter(context, builder, (), ())
            content = bytearray(64)
            content[0] = 1  # the only kind of configuration
            for register in range(REGISTERS):
                content[16 + 2 * register] = ROW_BYTES
                content[48 + register] = REGISTER_ROWS
            kind = ir.ArrayType(INT8, len(content))
            place = cgutils.alloca_once_value(builder, ir.Constant(kind, content))
            _call(emit, "ldtilecfg", builder.bitcast(place, INT8.as_pointer()))
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def release(typing_context):
    """Tell the processor that this thread no longer needs the registers."""

    def generate(context, builder, signature, arguments):
        if HAS_INSTRUCTIONS:
            _call(Emitter(context, builder, (), ()), "tilerelease")
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def add_tile(typing_context, a, a_start, b, b_start, pairs, y, row, column, adds):
    """Compute TILE_ROWS rows and TILE_COLUMNS columns of y, as `avx512.add_tile` does. The squares
    of panels a hold lines, those of panels b pairs.
    """
    if not fit((a, b, y), (PAIRS, PAIRS, FLOAT_MATRIX)):
        return None
    integer = types.intp
    kinds = (a, integer, b, integer, integer, y, integer, integer, types.boolean)

    def generate(context, builder, signature, arguments):
        if not HAS_INSTRUCTIONS:
            return context.get_dummy_value()
        emit = Emitter(context, builder, signature.args, arguments)
        a, a_start, b, b_start, pairs, y, row, column, adds = emit.arrays
        halves = (0, 1)
        next_panel = emit.times(pairs, LANES)
        a_panels, b_panels = (
            [emit.item(x, emit.plus(start, emit.times(next_panel, h)), PAIR) for h in halves]
            for x, start in ((a, a_start), (b, b_start))
        )
        totals = {
            2 * r + c: emit.row(y, emit.plus(row, LANES * r), 4, emit.plus(column, LANES * c))
            for r in halves
            for c in halves
        }  # addresses, by register
        y_bytes, line = emit.times(emit.width(y), 4), ir.Constant(INT64, ROW_BYTES)
        with builder.if_else(adds) as (then, otherwise):
            with then:
                for register, address in totals.items():
                    _call(emit, "tileloadd64", register, address, y_bytes)
            with otherwise:
                for register in totals:
                    _call(emit, "tilezero", register)
        squares = builder.udiv(pairs, emit.number(LANES))
        with cgutils.for_range(builder, squares) as along_k:
            offset = emit.times(along_k.index, PAIR * SQUARE)
            for h in halves:
                _call(emit, "tileloadd64", 4 + h, emit.advance(a_panels[h], offset), line)
                _call(emit, "tileloadd64", 6 + h, emit.advance(b_panels[h], offset), line)
            for r in halves:
                for c in halves:
                    _call(emit, "tdpbf16ps", 2 * r + c, 4 + r, 6 + c)
        for register, address in totals.items():
            _call(emit, "tilestored64", register, address, y_bytes)
        return context.get_dummy_value()

    return types.void(*kinds), generate
