"""The PyTorch baselines train and decode the same model as minimtp, eagerly and recorded.

Without a GPU a stand-in records CUDA graphs (torch_graphs_on_host.py). With `pytest -m gpu` they
are real.
"""

import importlib.util
from dataclasses import replace

import pytest

from minimtp.backend import choose_device
from minimtp.backend import numpy as np
from minimtp.bench.baselines.pytorch.training import GraphedTorchTrainer, TorchTrainer
from minimtp.bench.training.implementations import Minimtp
from minimtp.decode.model_runner import ModelRunner
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
    shape = (steps, recipe.batch_size, recipe.context_length + 1)
    return list(np.cumsum(rng.integers(0, 3, shape), axis=-1) % 50)  # text that can be learned


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def place(request, monkeypatch):
    """The device: the CPU, with the stand-in for CUDA graphs, or the GPU."""
    if request.param == "cuda":
        choose_device("cuda")  # without a GPU, fails with the reason
    else:
        from tests.helpers.torch_graphs_on_host import replace_cuda_graphs

        replace_cuda_graphs(monkeypatch)
    return request.param


@pytest.fixture
def rates_of_float32(monkeypatch):
    """Round learning rates to float32, because on the GPU they are float32 arrays."""
    exact = schedule.learning_rate
    monkeypatch.setattr(schedule, "learning_rate", lambda *at: float(np.float32(exact(*at))))


@pytest.mark.parametrize("precision", ["float32", *SIXTEEN])
@pytest.mark.parametrize(
    "changes",
    [{}, {"max_gradient_norm": 0.0, "tied_embeddings": False}, {"warmup_fraction": 0.5}],
    ids=str,
)
def test_recorded_steps_equal_eager_steps(place, rates_of_float32, precision, changes):
    """They are equal bit for bit on the CPU. A GPU may choose another kernel for a recording."""
    recipe = replace(preset("tiny"), precision=precision, **changes)
    trainers = TorchTrainer, GraphedTorchTrainer
    eager, recorded = (trainer(recipe, 1, place).run(batches(recipe)) for trainer in trainers)
    assert eager[0] > eager[-1] + 0.5
    if place == "cpu":
        assert recorded == eager
    else:
        np.testing.assert_allclose(recorded, eager, rtol=1e-4 if precision == "float32" else 2e-2)


def test_releasing_memory_after_a_round_does_not_change_later_steps(place, rates_of_float32):
    recipe = preset("tiny")
    expected = TorchTrainer(recipe, 1, place).run(batches(recipe))
    trainer, found = GraphedTorchTrainer(recipe, 1, place), []
    for first in range(0, STEPS, 5):
        found += trainer.run(batches(recipe)[first : first + 5])
        assert (trainer.replay is not None) == (first + 5 > trainer.WARM_UP_STEPS)
        trainer.release()
        assert trainer.replay is None and all(
            weight.grad is None for weight in trainer.weights.values()
        )
    np.testing.assert_allclose(found, expected, rtol=0 if place == "cpu" else 1e-4)


@pytest.mark.parametrize("kind", [TorchTrainer, GraphedTorchTrainer])
def test_a_pytorch_step_that_overflows_is_repeated_with_half_the_loss_scale(
    place, monkeypatch, kind
):
    recipe = replace(preset("tiny"), precision="float16")
    expected = kind(recipe, 1, place).run(batches(recipe))
    monkeypatch.setattr("minimtp.bench.baselines.pytorch.training.FIRST", 2.0**24)
    trainer = kind(recipe, 1, place)
    assert trainer.scale == 2.0**24
    found = trainer.run(batches(recipe))
    assert 1 < trainer.scale < 2.0**24 and trainer.steps_taken == STEPS
    steps = {float(state["step"]) for state in trainer.optimizer.state.values()}
    assert steps == {STEPS}  # repeated attempts are not counted
    np.testing.assert_allclose(
        found, expected, rtol=1e-2
    )  # smaller gradients lose fewer bits with a larger scale


@pytest.mark.parametrize("precision", SIXTEEN)
def test_in_16_bits_minimtp_and_pytorch_train_the_same_model(device, monkeypatch, precision):
    """PyTorch rounds the same operands, on any device.

    Weights that start at zero change in the first step, so every matmul has an effect after it.
    """
    monkeypatch.setattr("minimtp.kernels._choice", "plain")
    recipe = replace(preset("tiny"), precision=precision, learning_rate=1e-3)
    ours = Minimtp(recipe, 1, "cuda").run(batches(recipe))
    theirs = TorchTrainer(recipe, 1).run(batches(recipe))
    exact = TorchTrainer(replace(recipe, precision="float32"), 1).run(batches(recipe))
    assert theirs != exact
    np.testing.assert_allclose(
        theirs, ours, rtol={"bfloat16": 2.0**-8, "float16": 2.0**-11}[precision]
    )


@pytest.mark.parametrize("precision", PRECISIONS)
def test_each_precision_sets_the_usual_pytorch_options(place, precision):
    import torch

    trainer = TorchTrainer(replace(preset("tiny"), precision=precision), 1, place)
    if place == "cuda":
        assert torch.get_float32_matmul_precision() == (
            "highest" if precision == "float32" else "high"
        )
    seen, loss = [], trainer.loss

    def noting(*tokens):
        seen.append(
            torch.nn.functional.linear(
                torch.ones(2, 2, device=place), torch.ones(2, 2, device=place)
            ).dtype
        )
        return loss(*tokens)

    trainer.loss = noting
    trainer.run(batches(trainer.recipe, 1))
    assert seen == [getattr(torch, precision) if precision in SIXTEEN else torch.float32]
    assert trainer.scaler.is_enabled() == (precision == "float16")
    assert {weight.dtype for weight in trainer.weights.values()} == {torch.float32}


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_attention_over_repeated_keys_equals_grouped_attention(groups):
    recipe = replace(preset("tiny"), num_heads=4, num_kv_heads=groups)
    trainer = TorchTrainer(recipe, 1)
    qkv = trainer.torch.randn(2, recipe.context_length, (4 + 2 * groups) * recipe.hidden_size // 4)
    grouped = trainer._attention(qkv)
    trainer.device = "cuda"  # there, fused attention rejects grouped heads in float32
    np.testing.assert_allclose(trainer._attention(qkv), grouped, rtol=1e-5, atol=1e-6)


def random_model(recipe):
    rng = np.random.default_rng(1)
    model = build_model(recipe, rng)
    # A matrix of zeros would hide errors in the layers before it.
    for parameter in model.parameters():
        noise = rng.standard_normal(parameter.data.shape, np.float32)
        parameter.data = parameter.data + 0.05 * noise
    return model


# Logits are a few units large. float32 adds some hundred products in another order. In float16,
# weights, keys and all results have 11 bits.
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
    # (rows fed, rows kept): a prompt, single tokens, and drafts with some rejected.
    passes = [(5, 5), (1, 6), (8, 9), (1, 10), (1, 11), (3, 13)]
    to_the_end = [(1, length) for length in range(14, 33)]
    for rows, keep in passes + to_the_end:
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


def test_a_launch_keeps_the_length_and_repeats_its_result(place):
    """So forward passes can be timed back to back without waiting for the host."""
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


def test_without_cuda_pytorch_on_the_gpu_is_an_import_error():
    import torch

    from minimtp.bench.baselines.pytorch.device import torch_on

    if torch.cuda.is_available():
        pytest.skip("this PyTorch can use CUDA")
    with pytest.raises(ImportError, match="has no CUDA here"):
        torch_on("cuda")
    with pytest.raises(ImportError, match="has no CUDA here"):
        GraphedTorchTrainer(preset("tiny"), 1)
