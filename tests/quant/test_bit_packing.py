"""Packing codes into bytes loses nothing for any length and uses the documented order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from minimtp.backend import numpy as np
from minimtp.quant.bit_packing import (
    ORDERS,
    flip_sign_bit,
    pack4,
    pack_bits,
    packed_size,
    unpack4,
    unpack_bits,
)
from minimtp.quant.grids import Q4_0

each_order = pytest.mark.parametrize("order", ORDERS)
shapes = st.one_of(st.tuples(st.integers(0, 70)), st.tuples(st.integers(1, 3), st.integers(0, 70)))


@each_order
@given(
    codes=shapes.flatmap(lambda shape: arrays.arrays(np.uint8, shape, elements=st.integers(0, 15)))
)
def test_unpacking_undoes_packing_for_any_number_of_codes(order, codes):
    packed = pack4(codes, order)
    assert packed.dtype == np.uint8 and 2 * packed.shape[-1] - codes.shape[-1] < len(ORDERS[order])
    unpacked = unpack4(packed, order, codes.shape[-1])
    assert unpacked.dtype == np.uint8 and np.array_equal(unpacked, codes)


@each_order
@given(packed=arrays.arrays(np.uint8, (2, 32)))
def test_packing_undoes_unpacking_for_any_bytes(order, packed):
    assert np.array_equal(pack4(unpack4(packed, order, 64), order), packed)


def test_each_packing_order_stores_the_codes_at_the_documented_bits():
    codes = np.arange(8, dtype=np.uint8)
    assert pack4(codes, "adjacent-lo-first").tolist() == [0x10, 0x32, 0x54, 0x76]
    assert pack4(codes, "adjacent-hi-first").tolist() == [0x01, 0x23, 0x45, 0x67]
    assert pack4(codes, "adjacent-lo-first").view("<u4").item() == sum(
        code << 4 * i for i, code in enumerate(range(8))
    )
    assert pack4(codes, "awq").view("<u4").item() == sum(
        code << 4 * i for i, code in enumerate((0, 2, 4, 6, 1, 3, 5, 7))
    )
    codes = np.arange(32, dtype=np.uint8) // 2
    assert pack4(codes, "ggml-split32").tolist() == [j // 2 | (j // 2 + 8) << 4 for j in range(16)]


@given(codes=arrays.arrays(np.int8, (2, 64), elements=st.integers(-8, 7)))
def test_q4_0_stores_its_codes_in_the_order_of_ggml(codes):
    blocks = Q4_0.pack(codes, np.ones((2, 2), np.float32)).reshape(2, 2, 18)[:, :, 2:]
    assert np.array_equal(
        pack4((codes + 8).astype(np.uint8), "ggml-split32"), blocks.reshape(2, 32)
    )


def test_an_odd_number_of_codes_is_padded_with_the_code_of_zero():
    codes = np.array([1, 2, 3], np.uint8)
    assert pack4(codes, "adjacent-lo-first").tolist() == [0x21, 0x83]
    assert pack4(codes, "adjacent-lo-first", fill=0).tolist() == [0x21, 0x03]
    assert pack4(codes[:1], "awq").tolist() == [0x81, 0x88, 0x88, 0x88]


@given(packed=arrays.arrays(np.uint8, 20))
def test_flipping_the_sign_bits_once_gives_twos_complement_and_twice_changes_nothing(packed):
    flipped = flip_sign_bit(packed)
    assert np.array_equal(flip_sign_bit(flipped), packed)
    offset_binary = unpack4(packed, "adjacent-lo-first", 40).astype(int) - 8
    twos_complement = unpack4(flipped, "adjacent-lo-first", 40).astype(int)
    assert np.array_equal(
        np.where(twos_complement > 7, twos_complement - 16, twos_complement), offset_binary
    )


def test_packing_the_3_bit_codes_1_2_and_7_gives_the_bytes_d1_and_01(own):
    packed = own(pack_bits)(np.array([1, 2, 7], np.uint8), 3)
    assert packed.dtype == np.uint8, f"expected uint8, got {packed.dtype}"
    found = packed.tobytes().hex(" ")
    assert found == "d1 01", f"codes 1, 2, 7 of 3 bits must become the bytes d1 01, got {found}"


@given(bits=st.integers(1, 8), shape=shapes, data=st.data())
def test_packing_codes_of_any_width_loses_nothing_and_wastes_less_than_one_byte(
    own, bits, shape, data
):
    codes = data.draw(arrays.arrays(np.uint8, shape, elements=st.integers(0, 2**bits - 1)))
    packed = own(pack_bits)(codes, bits)
    expected = *shape[:-1], packed_size(shape[-1], bits)
    assert packed.shape == expected, (
        f"codes of the shape {shape} and {bits} bits: expected bytes of the shape {expected}, got "
        f"{packed.shape}"
    )
    assert packed.dtype == np.uint8, f"expected uint8, got {packed.dtype}"
    assert 0 <= 8 * packed.shape[-1] - bits * shape[-1] < 8
    unpacked = unpack_bits(packed, bits, shape[-1])
    assert unpacked.dtype == np.uint8 and np.array_equal(unpacked, codes), (
        f"codes {codes.tolist()} of {bits} bits became the bytes {packed.tolist()}, which hold the "
        f"codes {unpacked.tolist()}"
    )


@given(codes=arrays.arrays(np.uint8, 21, elements=st.integers(0, 7)))
def test_bits_are_stored_without_gaps_from_the_lowest_bit_up(own, codes):
    number = int.from_bytes(own(pack_bits)(codes, 3).tobytes(), "little")
    found = [number >> 3 * i & 7 for i in range(21)]
    assert found == codes.tolist(), f"3-bit codes {codes.tolist()}: the bytes hold {found}"
    assert number < 8**21, "the unused bits of the last byte must be 0"


def test_a_code_that_needs_more_bits_is_rejected(own):
    try:
        packed = own(pack_bits)(np.array([8], np.uint8), 3)
    except ValueError as error:
        assert "codes of 3 bits must be between 0 and 7" in str(error)
    else:
        pytest.fail(f"the code 8 needs 4 bits: expected a ValueError, got the bytes {packed}")


def test_too_large_codes_unknown_orders_and_wrong_sizes_are_rejected():
    with pytest.raises(ValueError, match="codes of 4 bits must be between 0 and 15"):
        pack4(np.array([16], np.uint8), "awq")
    orders = "adjacent-lo-first, adjacent-hi-first, ggml-split32, awq"
    with pytest.raises(ValueError, match=f"^unknown order 'zigzag': use {orders}$"):
        unpack4(np.zeros(4, np.uint8), "zigzag", 8)
    with pytest.raises(ValueError, match="4 bytes do not hold 9 codes in the order awq"):
        unpack4(np.zeros(4, np.uint8), "awq", 9)
    with pytest.raises(ValueError, match="5 bytes do not hold 8 codes in the order awq"):
        unpack4(np.zeros(5, np.uint8), "awq", 8)
    for size in (1, 3):
        with pytest.raises(ValueError, match="5 codes of 3 bits take 2 bytes, not"):
            unpack_bits(np.zeros(size, np.uint8), 3, 5)
