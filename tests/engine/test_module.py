"""Modules and their parameters: found, replaced, flat, frozen, and shared by replicas."""

import gc
import weakref

import pytest

from minimtp.backend import numpy as np
from minimtp.engine.flat import FlatParameters
from minimtp.engine.module import freeze, replace_modules, replicate
from minimtp.engine.optim import AdamW
from minimtp.engine.replicas import PART, Replicas
from minimtp.engine.tensor import Tensor
from minimtp.model.layers import Linear
from tests.engine.helpers import Pair, normal, rng


def test_parameters_are_found_in_attributes_and_lists_and_shared_ones_once():
    assert [name for name, _ in Pair().named_parameters()] == [
        "bias",
        "first.weight",
        "others.0.weight",
    ]


def test_replacing_a_module_replaces_every_use_of_it():
    pair = Pair()
    new = Linear(3, 4, np.random.default_rng(2))
    replace_modules(pair, lambda name, module: new if module is pair.first else None)
    assert pair.first is new
    assert pair.others[1] is new


def test_a_replaced_module_is_freed_without_the_garbage_collector():
    gc.disable()
    try:
        pair = replicate(Pair())
        watch = weakref.ref(pair.first.weight.data)
        watch_module = weakref.ref(pair.others[0])
        replace_modules(
            pair, lambda name, module: Linear(1, 1, rng) if isinstance(module, Linear) else None
        )
        assert watch_module() is None
        assert watch() is None
    finally:
        gc.enable()


def test_flat_parameters_share_their_memory_with_the_parameters_of_the_model():
    pair = Pair()
    x = Tensor(normal(5, 3).astype(np.float32))
    before = pair(x).data
    flat = FlatParameters(pair)
    assert np.array_equal(pair(x).data, before)
    pair(x).backward(np.ones((5, 2), np.float32))
    assert np.array_equal(flat.by_name(flat.gradients)["bias"], [5.0, 5.0])
    flat.data[...] = 0
    assert not pair(x).data.any()


def test_frozen_parameters_are_neither_moved_nor_decayed():
    pair = Pair()
    freeze(pair.first)
    flat = FlatParameters(pair)
    assert list(flat.places) == ["bias", "others.0.weight"]
    assert flat.decay_mask.tolist() == [0.0] * 2 + [1.0] * 8


@pytest.mark.parametrize("part", [PART, 3], ids=["together", "in parts"])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_shards_on_replicas_give_the_gradient_of_the_whole_batch(count, part, monkeypatch):
    monkeypatch.setattr("minimtp.engine.replicas.PART", part)
    x = normal(6, 3).astype(np.float32)

    def run(model, rows):
        output = model(Tensor(rows))
        output.backward(2.0 * output.data)
        return float((output.data**2).sum())

    whole, sharded = Pair(), Pair()
    whole_flat, sharded_flat = FlatParameters(whole), FlatParameters(sharded)
    run(whole, x)
    replicas = Replicas(sharded, sharded_flat, count)
    for _ in range(2):  # each call starts from zero gradients
        replicas.run(run, np.array_split(x, count))
    replicas.close()
    np.testing.assert_allclose(sharded_flat.gradients, whole_flat.gradients, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("size", [0, 1, 2, 5, 100])
def test_the_parts_cover_everything_once_and_an_update_in_parts_has_the_same_bits(
    count, size, monkeypatch
):
    monkeypatch.setattr("minimtp.engine.replicas.PART", 1)
    flats = [FlatParameters(Pair()) for _ in range(2)]
    optimizers = [AdamW(flat, weight_decay=0.1) for flat in flats]
    replicas = Replicas(pair := Pair(), FlatParameters(pair), count)
    covered = np.zeros(size)
    parts = []
    replicas.in_parts(size, parts.append)
    for part in parts:
        covered[part] += 1
    assert (covered == 1).all() and len(parts) == (count if size > 1 else 1)
    flats[1].data[:] = flats[0].data
    for flat in flats:
        flat.gradients[:] = np.linspace(-1, 1, len(flat.gradients))
    assert optimizers[0].step(0.1, 0.5) == optimizers[1].step(0.1, 0.5, 1.0, replicas.in_parts)
    replicas.close()
    assert flats[0].data.tobytes() == flats[1].data.tobytes()


def test_a_replica_shares_parameters_but_not_gradients():
    pair = Pair()
    copy = replicate(pair)
    assert copy.first.weight.data is pair.first.weight.data
    assert copy.others[1] is copy.first
    copy.first.weight.grad = np.ones(1)
    assert pair.first.weight.grad is None
