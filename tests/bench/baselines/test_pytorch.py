"""What minimtp is measured against: the peers train and decode the same model in every form, and a
recorded step is the step.

Without a GPU CUDA graphs are recorded by a stand-in (torch_graphs_on_host.py); with `pytest -m gpu`
they are the real ones.
"""

import importlib.util
from dataclasses import replace

import pytest

from minimtp.backend import choose_device
from minimtp.backend import numpy as np
from minimtp.bench.training import implementations as sides
from minimtp.decode.runtime import ModelRunner
from minimtp.training import schedule
from minimtp.training.build import build_model
from minimtp.training.presets import preset
from minimtp.training.recipe import PRECISIONS

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="PyTorch (torch) is not installed"
)
STEPS = 20
SIXTEEN = ["bfloat16", "float16"]


def batches(recipe, steps=STEPS):
    rng = np.random.default_rng(3)
    rows = (
        np.cumsum(
            rng.integers(0, 3, (steps, recipe.batch_size, recipe.context_length + 1)), axis=-1
        )
        % 50
    )  # learnable
    return list(rows)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def place(request, monkeypatch):
    """Where PyTorch computes: the CPU, with recordings by the stand-in, or the GPU."""
    if request.param == "cuda":
        choose_device("cuda")  # fails, saying why, where there is none
    else:
        from minimtp.bench.baselines.pytorch import decoding, training
        from tests import torch_graphs_on_host

        for module in (training, decoding):
            torch_graphs_on_host.used(monkeypatch, module)
    return request.param


@pytest.fixture
def rates_of_float32(monkeypatch):
    """On the device a learning rate is an array of float32; without one it is a number of
    Python's."""
    exact = schedule.learning_rate
    monkeypatch.setattr(schedule, "learning_rate", lambda *at: float(np.float32(exact(*at))))


@pytest.mark.parametrize("precision", ["float32", *SIXTEEN])
@pytest.mark.parametrize(
    "changes",
    [{}, {"max_gradient_norm": 0.0, "tied_embeddings": False}, {"warmup_fraction": 0.5}],
    ids=str,
)
def test_recorded_steps_are_the_steps(place, rates_of_float32, precision, changes):
    """On the CPU in bits: the same operations on the same numbers. A GPU may choose another kernel
    for a recording."""
    recipe = replace(preset("tiny"), precision=precision, **changes)
    peers = sides.TorchPeer, sides.GraphedTorchPeer
    eager, recorded = (peer(recipe, 1, place).run(batches(recipe)) for peer in peers)
    assert eager[0] > eager[-1] + 0.5
    if place == "cpu":
        assert recorded == eager
    else:
        np.testing.assert_allclose(recorded, eager, rtol=1e-4 if precision == "float32" else 2e-2)


def test_what_a_side_gives_back_after_a_round_changes_no_later_step(place, rates_of_float32):
    recipe = preset("tiny")
    expected = sides.TorchPeer(recipe, 1, place).run(batches(recipe))
    peer, found = sides.GraphedTorchPeer(recipe, 1, place), []
    for first in range(0, STEPS, 5):
        found += peer.run(batches(recipe)[first : first + 5])
        assert (peer.replay is not None) == (first + 5 > peer.BESIDE)
        peer.release()
        assert peer.replay is None and all(weight.grad is None for weight in peer.weights.values())
    np.testing.assert_allclose(found, expected, rtol=0 if place == "cpu" else 1e-4)


@pytest.mark.parametrize("kind", [sides.TorchPeer, sides.GraphedTorchPeer])
def test_a_step_of_a_peer_that_overflows_is_taken_again_with_half_the_scale(
    place, monkeypatch, kind
):
    recipe = replace(preset("tiny"), precision="float16")
    expected = kind(recipe, 1, place).run(batches(recipe))
    monkeypatch.setattr("minimtp.bench.baselines.pytorch.training.FIRST", 2.0**24)
    peer = kind(recipe, 1, place)
    assert peer.scale == 2.0**24
    found = peer.run(batches(recipe))
    assert 1 < peer.scale < 2.0**24 and peer.taken == STEPS
    steps = {float(state["step"]) for state in peer.optimizer.state.values()}
    assert steps == {STEPS}  # what was not taken is not counted
    np.testing.assert_allclose(
        found, expected, rtol=1e-2
    )  # smaller gradients lose fewer bits with a larger scale


@pytest.mark.parametrize("precision", SIXTEEN)
def test_with_fewer_bits_both_sides_train_the_same_model(device, monkeypatch, precision):
    """Ours on the device, PyTorch's by the same rounding wherever it computes. Weights that start
    at zero are trained from the first step on, so that every product takes part."""
    monkeypatch.setattr("minimtp.kernels._choice", "plain")
    recipe = replace(preset("tiny"), precision=precision, learning_rate=1e-3)
    ours = sides.Minimtp(recipe, 1, "cuda").run(batches(recipe))
    theirs = sides.TorchPeer(recipe, 1).run(batches(recipe))
    exact = sides.TorchPeer(replace(recipe, precision="float32"), 1).run(batches(recipe))
    assert theirs != exact
    np.testing.assert_allclose(
        theirs, ours, rtol={"bfloat16": 2.0**-8, "float16": 2.0**-11}[precision]
    )


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_precision_is_what_a_user_of_pytorch_sets_for_it(place, precision):
    import torch

    peer = sides.TorchPeer(replace(preset("tiny"), precision=precision), 1, place)
    if place == "cuda":
        assert torch.get_float32_matmul_precision() == (
            "highest" if precision == "float32" else "high"
        )
    seen, loss = [], peer.loss

    def noting(*tokens):
        seen.append(
            torch.nn.functional.linear(
                torch.ones(2, 2, device=place), torch.ones(2, 2, device=place)
            ).dtype
        )
        return loss(*tokens)

    peer.loss = noting
    peer.run(batches(peer.recipe, 1))
    assert seen == [getattr(torch, precision) if precision in SIXTEEN else torch.float32]
    assert peer.scaler.is_enabled() == (precision == "float16")
    assert {weight.dtype for weight in peer.weights.values()} == {torch.float32}


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_repeated_keys_and_values_are_attended_to_as_grouped_ones(groups):
    recipe = replace(preset("tiny"), num_heads=4, num_kv_heads=groups)
    peer = sides.TorchPeer(recipe, 1)
    qkv = peer.torch.randn(2, recipe.context_length, (4 + 2 * groups) * recipe.hidden_size // 4)
    grouped = peer._attention(qkv)
    peer.device = "cuda"  # where fused attention takes no groups in float32
    np.testing.assert_allclose(peer._attention(qkv), grouped, rtol=1e-5, atol=1e-6)


def random_model(recipe):
    rng = np.random.default_rng(1)
    model = build_model(recipe, rng)
    for (
        parameter
    ) in model.parameters():  # products that start at zero would hide what comes before them
        parameter.data = parameter.data + 0.05 * rng.standard_normal(
            parameter.data.shape, np.float32
        )
    return model


# Of logits of a few units: float32 sums of some hundred products in another order; weights, keys
# and every result in 11 bits.
ALLOWED = {"float32": 1e-4, "float16": 2e-2}


@pytest.mark.parametrize("dtype", ALLOWED)
@pytest.mark.parametrize("recorded", [False, True], ids=["eager", "recorded"])
@pytest.mark.parametrize(
    "changes", [{}, {"tied_embeddings": False}, {"num_kv_heads": 2}, {"num_layers": 2}], ids=str
)
def test_pytorch_decodes_the_same_model_with_its_cache(place, changes, recorded, dtype):
    from minimtp.bench.baselines.pytorch.decoding import GraphedTorchDecoder, TorchDecoder

    model = random_model(replace(preset("tiny"), **changes))
    rng = np.random.default_rng(2)
    ours = ModelRunner(model.trunk)
    theirs = (GraphedTorchDecoder if recorded else TorchDecoder)(model.trunk, place, dtype)
    # a prompt, a token, a draft of which some is taken back, tokens to the end of the context
    for rows, keep in (
        (5, 5),
        (1, 6),
        (8, 9),
        (1, 10),
        (1, 11),
        (3, 13),
        *((1, n) for n in range(14, 33)),
    ):
        tokens = rng.integers(0, model.trunk.config.vocabulary_size, rows)
        found, expected = theirs.forward(tokens).logits, ours.forward(tokens).logits
        np.testing.assert_allclose(found, expected, rtol=ALLOWED[dtype], atol=ALLOWED[dtype])
        for target in (ours, theirs):
            target.truncate(keep)
            assert target.length == keep
    assert theirs.length == theirs.context_length
    if dtype == "float16":
        assert theirs.keys.dtype == theirs.torch.float16
    if recorded:
        assert theirs.replay is not None


def test_a_launch_leaves_the_length_as_it_is_and_says_the_same_again(place):
    """So that passes can be timed, one after the other, without the host."""
    from minimtp.bench.baselines.pytorch.decoding import GraphedTorchDecoder, TorchDecoder

    model = random_model(preset("tiny"))
    for kind in (TorchDecoder, GraphedTorchDecoder):
        decoder = kind(model.trunk, place)
        decoder.forward(np.array([1, 2, 3]))
        with decoder.torch.inference_mode():
            first, again = (decoder.launch(decoder.positions[:1]).clone() for _ in range(2))
        assert decoder.length == 3 and bool((first == again).all())
        np.testing.assert_array_equal(
            decoder.forward(np.array([0])).logits, first.float().cpu().numpy()
        )
        if place == "cuda":
            assert 0 < decoder.seconds_per_pass(2, 2) < 1


def test_without_cuda_a_peer_on_the_gpu_says_so():
    import torch

    from minimtp.bench.baselines.pytorch.device import torch_on

    if torch.cuda.is_available():
        pytest.skip("PyTorch has CUDA here")
    with pytest.raises(ImportError, match="has no CUDA here"):
        torch_on("cuda")
    with pytest.raises(ImportError, match="has no CUDA here"):
        sides.GraphedTorchPeer(preset("tiny"), 1)
