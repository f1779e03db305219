"""Codes of a few bits as bytes, in the orders that programs use.

Which codes share a byte is a convention. Reading one order as another gives plausible nonsense:
weights of the right size in the wrong places. For four bits, with codes c0, c1, c2, ... along the
last axis (low half of a byte first):

    adjacent-lo-first  c0 c1 | c2 c3 | ...       also GPTQ's: eight codes in an int32, c0 lowest
    adjacent-hi-first  c1 c0 | c3 c2 | ...       the order of hexadecimal digits
    ggml-split32       c0 c16 | c1 c17 | ...     in every 32 codes: Q4_0, Q4_1
    awq                c0 c2 | c4 c6 | c1 c3 | c5 c7    eight codes in an int32, even ones low

Codes are unsigned here. Signed formats differ in their zero: offset binary adds 8, two's complement
keeps the low four bits of the signed number. Flipping bit 3 turns either into the other
(`flip_sign_bit`; 0x88 for a byte with two codes).

`pack_bits` stores codes of 1 to 8 bits without gaps, with the first code in the lowest bits of the
first byte. For four bits this is `adjacent-lo-first`. Codes that do not fill the last byte, or the
last unit of an order, are padded with the code `fill`. To unpack them, you have to know how many
codes there were.
"""

from collections.abc import Sequence

from minimtp.backend import Array, array_module

# The codes of a unit, in the order of the low and high halves of its bytes.
ORDERS: dict[str, tuple[int, ...]] = {
    "adjacent-lo-first": (0, 1),
    "adjacent-hi-first": (1, 0),
    "ggml-split32": tuple(j + half for j in range(16) for half in (0, 16)),
    "awq": (0, 2, 4, 6, 1, 3, 5, 7),
}


def pack4(codes: Array, order: str, fill: int = 8) -> Array:
    """Unsigned four-bit codes uint8 (..., n) -> bytes uint8 (..., half of n rounded up to whole
    units).

    order: one of ORDERS. fill: the code that pads the last unit, by default the zero of offset
    binary.
    Raises ValueError if a code is above 15 or the order is unknown.
    """
    unit = _unit(order)
    _check_codes(codes, 4)
    units = _filled(codes, len(unit), fill).reshape(-1, len(unit))
    nibbles = _taken(units, unit).reshape(*codes.shape[:-1], -1)
    return nibbles[..., 0::2] | (nibbles[..., 1::2] << 4)


def unpack4(packed: Array, order: str, count: int) -> Array:
    """Bytes uint8 (..., m) -> the first `count` codes, uint8 (..., count). The inverse of `pack4`.

    Raises ValueError if the bytes are not whole units or hold fewer codes.
    """
    unit = _unit(order)
    if packed.shape[-1] * 2 % len(unit) or packed.shape[-1] * 2 < count:
        raise ValueError(f"{packed.shape[-1]} bytes do not hold {count} codes in the order {order}")
    xp = array_module(packed)
    nibbles = xp.stack([packed & 15, packed >> 4], axis=-1).reshape(-1, len(unit))
    places = sorted(range(len(unit)), key=unit.__getitem__)
    return _taken(nibbles, places).reshape(*packed.shape[:-1], -1)[..., :count]


def flip_sign_bit(packed: Array) -> Array:
    """Convert two 4-bit codes per byte from offset binary to two's complement, or back."""
    return packed ^ 0x88


def pack_bits(codes: Array, bits: int) -> Array:
    """Unsigned codes uint8 (..., n) of 1..8 bits -> bytes uint8 (..., ceil(n * bits / 8)).

    Raises ValueError if a code is too large.
    """
    _check_codes(codes, bits)
    xp = array_module(codes)
    eights = _filled(codes, 8, 0).reshape(-1, 8).astype(xp.uint16)
    packed = xp.zeros((len(eights), bits + 1), xp.uint16)
    for i in range(8):
        byte, shift = divmod(i * bits, 8)
        packed[:, byte] |= eights[:, i] << shift & 255
        packed[:, byte + 1] |= eights[:, i] << shift >> 8
    packed = packed[:, :bits].astype(xp.uint8).reshape(*codes.shape[:-1], -1)
    return packed[..., : packed_size(codes.shape[-1], bits)]


def unpack_bits(packed: Array, bits: int, count: int) -> Array:
    """Bytes uint8 (..., m) -> the first `count` codes of `bits` bits, uint8 (..., count). The
    inverse of `pack_bits`.

    Raises ValueError unless the number of bytes is exactly right.
    """
    if packed.shape[-1] != packed_size(count, bits):
        raise ValueError(
            f"{count} codes of {bits} bits take {packed_size(count, bits)} bytes, not "
            f"{packed.shape[-1]}"
        )
    xp = array_module(packed)
    units = _filled(packed, bits, 0).reshape(-1, bits).astype(xp.uint16)
    units = xp.concatenate([units, xp.zeros_like(units[:, :1])], axis=1)
    codes = []
    for i in range(8):
        byte, shift = divmod(i * bits, 8)
        codes.append((units[:, byte] | units[:, byte + 1] << 8) >> shift & (2**bits - 1))
    return xp.stack(codes, axis=-1).astype(xp.uint8).reshape(*packed.shape[:-1], -1)[..., :count]


def packed_size(count: int, bits: int) -> int:
    """Return the bytes of `count` codes of `bits` bits."""
    return -(-count * bits // 8)


def _unit(order: str) -> tuple[int, ...]:
    if order not in ORDERS:
        raise ValueError(f"unknown order {order!r}: use {', '.join(ORDERS)}")
    return ORDERS[order]


def _taken(units: Array, places: Sequence[int]) -> Array:
    """units (..., n) -> the elements at these places, (..., len(places)).

    On a GPU, indexing with a list would copy the list to the device.
    """
    return array_module(units).stack([units[..., place] for place in places], axis=-1)


def _check_codes(codes: Array, bits: int) -> None:
    if codes.size and not 0 <= int(codes.min()) <= int(codes.max()) < 2**bits:
        raise ValueError(f"codes of {bits} bits must be between 0 and {2**bits - 1}")


def _filled(codes: Array, unit: int, fill: int) -> Array:
    """Pad the codes with `fill` along the last axis to a multiple of `unit`."""
    xp = array_module(codes)
    missing = -codes.shape[-1] % unit
    if not missing:
        return codes
    padding = xp.full((*codes.shape[:-1], missing), fill, codes.dtype)
    return xp.concatenate([codes, padding], axis=-1)
