"""A transformer block or a whole trunk in one call gives the bits of its separate kernels."""

from functools import partial

import pytest
from hypothesis import given, settings

from minimtp.backend import numpy as np
from minimtp.decode.rules.tree import Tree
from minimtp.kernels import plain
from minimtp.kernels.plain.cache import joined_panels
from minimtp.kernels.plain.decoding.block import TreeArrays, stretches
from tests.helpers.strategies import tree_forms
from tests.helpers.tolerances import COMPARISONS, assert_close
from tests.kernels.both import (
    CHANNELS,
    FAMILIES,
    FORMATS,
    GROUPS,
    MIXTURE,
    ROOM,
    WIDTH,
    cpu,
    each_format,
    each_kernel,
    needs_numba,
    normal,
    random_block,
    random_cache,
    random_trunk,
    run_block,
    trunk_step_input,
)


@needs_numba
@pytest.mark.parametrize("format_", [*FORMATS, MIXTURE], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("rows, head_dim", [(1, 16), (3, 16), (8, 16), (3, 24), (5, 40)])
def test_a_block_in_one_call_gives_the_bits_of_its_kernels_called_one_by_one(
    format_, rows, head_dim, family, monkeypatch
):
    x = normal(np.random.default_rng(rows), rows, WIDTH)
    compiled = random_block(cpu, format_, head_dim=head_dim, family=family)
    in_one_call = run_block(cpu, compiled, x, 7, head_dim)
    block = random_block(plain, format_, cpu, head_dim, family)
    for name in ("rms_norm", "linear", "rotate", "cached_attention", "swiglu"):
        monkeypatch.setattr(plain.decoding.block, name, getattr(cpu, name))
    for found, expected in zip(in_one_call, run_block(plain, block, x, 7, head_dim), strict=True):
        assert found.tobytes() == expected.tobytes()


@needs_numba
@each_format
@pytest.mark.parametrize("family", FAMILIES)
def test_a_block_gives_the_same_bits_for_rows_together_and_one_after_the_other(format_, family):
    x = normal(np.random.default_rng(12), 9, WIDTH)
    block = random_block(cpu, format_, family=family)
    together, keys, values = run_block(cpu, block, x, start=5)
    angles = np.random.default_rng(11)
    cache = random_cache(angles)
    angles = angles.uniform(-9, 9, (ROOM, CHANNELS // 2))
    cosine, sine = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    for t in range(9):
        row, at = x[t : t + 1].copy(), slice(5 + t, 6 + t)
        cpu.transformer_block(row, block, *cache, 5 + t, cosine[at], sine[at])
        assert row.tobytes() == together[t].tobytes()
    assert (keys.tobytes(), values.tobytes()) == (cache[0].tobytes(), cache[1].tobytes())


@needs_numba
@each_format
@pytest.mark.parametrize("rows", [1, 6])
def test_a_trunk_in_one_call_has_the_bits_of_its_blocks_norm_and_output_one_by_one(
    format_, rows, monkeypatch
):
    found, expected = trunk_step_input(rows), trunk_step_input(rows)
    arguments = random_trunk(cpu, [format_] * 3)
    logits, hidden = cpu.trunk_step(found[0], cpu.prepare_trunk(*arguments), *found[1:])
    for name in ("prepare_block", "transformer_block", "rms_norm", "linear"):
        monkeypatch.setattr(plain.decoding.block, name, getattr(cpu, name))
    wanted = plain.trunk_step(expected[0], plain.prepare_trunk(*arguments), *expected[1:])
    for a, b in zip((logits, hidden, *found[:3]), (*wanted, *expected[:3]), strict=True):
        assert a.tobytes() == b.tobytes()


@needs_numba
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("layers", [(0,), (2, 0, 1), (1, 3, 1)], ids=str)
def test_a_trunk_returns_the_inputs_of_layers_beside_its_state(layers, threads, monkeypatch):
    """Layer 3 of three is the output of the last."""
    arguments, given = random_trunk(cpu, ["q4_0"] * 3), partial(trunk_step_input, 3)

    def step(kernel, trunk):
        x, *rest = given()
        return kernel.trunk_step(x, trunk, *rest)

    trunk = cpu.with_threads(cpu.prepare_trunk(*arguments, layers), threads)
    logits, hidden = step(cpu, trunk)
    alone = step(cpu, cpu.prepare_trunk(*arguments))
    assert logits.tobytes() == alone[0].tobytes()
    x, keys, values, start, cosine, sine = given()
    inputs = []
    for number, weights in enumerate(arguments[0]):
        inputs.append(x.copy())
        block = cpu.prepare_block(weights(), *arguments[3:])
        cpu.transformer_block(x, block, keys[number], values[number], start, cosine, sine)
    parts = [alone[1], *([*inputs, x][layer] for layer in layers)]
    assert hidden.tobytes() == np.concatenate(parts, axis=1).tobytes()
    for name in ("prepare_block", "transformer_block", "rms_norm", "linear"):
        monkeypatch.setattr(plain.decoding.block, name, getattr(cpu, name))
    assert step(plain, plain.prepare_trunk(*arguments, layers))[1].tobytes() == hidden.tobytes()


@needs_numba
def test_a_compiled_trunk_rejects_blocks_of_different_formats_and_a_wrong_number_of_caches():
    with pytest.raises(ValueError, match="same sizes and formats"):
        cpu.prepare_trunk(*random_trunk(cpu, ["q4_0", "q8_0"]))
    trunk, given = cpu.prepare_trunk(*random_trunk(cpu, ["q4_0"] * 2)), trunk_step_input(1)
    with pytest.raises(ValueError, match="one for each block"):
        cpu.trunk_step(given[0], trunk, *given[1:])


@each_kernel
@each_format
@given(form=tree_forms())
@settings(max_examples=15)
def test_a_row_of_a_tree_has_the_result_of_the_last_row_of_its_path_as_a_chain(
    kernel, format_, form
):
    """The compiled kernels give the same bits. BLAS rounds one row and many rows differently, and
    where that moves an activation to its next int8 code, the difference grows. So plain kernels
    compute in float64 here, whose differences are too small for that.
    """
    start, block = 5, random_block(kernel, format_)
    number = np.float64 if kernel is plain else np.float32
    x = normal(np.random.default_rng(12), len(form), WIDTH).astype(number)
    angles = np.random.default_rng(11).uniform(-9, 9, (ROOM, CHANNELS // 2))
    cosine, sine = np.cos(angles).astype(number), np.sin(angles).astype(number)
    kept = [np.empty((len(form), GROUPS, CHANNELS), number) for _ in range(2)]
    cache = [part.astype(number) for part in random_cache(np.random.default_rng(11))]
    found, at, tree = x.copy(), start + np.array(form), Tree([0] * len(form), form)
    kernel.transformer_block(
        found, block, *cache, start, cosine[at], sine[at], TreeArrays(stretches(form, start), *kept)
    )
    for row in range(len(form)):
        path = [0, *tree.path_to(row)]
        keys, values = (part.astype(number) for part in random_cache(np.random.default_rng(11)))
        chain, at = x[path].copy(), slice(start, start + len(path))
        kernel.transformer_block(chain, block, keys, values, start, cosine[at], sine[at])
        last = start + len(path) - 1
        for a, b in (
            (found[row], chain[-1]),
            (kept[0][row], joined_panels(keys)[:, :, last]),
            (kept[1][row], values[last]),
        ):
            if kernel is plain:
                assert_close(a, b, COMPARISONS["block"])
            else:
                assert a.tobytes() == b.tobytes()


@each_kernel
@pytest.mark.parametrize("head_dim", [4, 12, 16])
def test_a_block_of_any_head_dim_agrees_with_float64(kernel, head_dim):
    x = normal(np.random.default_rng(16), 5, WIDTH)
    exact = random_block(plain, "f32", head_dim=head_dim)
    expected, _, _ = run_block(plain, exact, x.astype(np.float64), 7, head_dim)
    found, _, _ = run_block(kernel, random_block(kernel, "f32", head_dim=head_dim), x, 7, head_dim)
    assert_close(found, expected, COMPARISONS["block"])


@each_kernel
def test_a_block_writes_only_its_own_rows_of_the_cache_and_rejects_rows_without_room(kernel):
    x, block = normal(np.random.default_rng(13), 3, WIDTH), random_block(kernel, "f32")
    before = random_cache(np.random.default_rng(11))
    _, *after = run_block(kernel, block, x, start=ROOM - 3)
    for old, new in zip(before, after, strict=True):
        old, new = (
            array if array.shape[0] == ROOM else joined_panels(array)[..., :ROOM].transpose(2, 0, 1)
            for array in (old, new)
        )
        assert np.array_equal(old[:-3], new[:-3]) and (old[-3:] != new[-3:]).all()
    with pytest.raises(ValueError, match="fit"):
        angles = np.ones((3, CHANNELS // 2), np.float32)
        kernel.transformer_block(x, block, *before, ROOM - 2, angles, angles)
