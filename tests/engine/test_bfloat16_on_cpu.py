"""Training on the CPU with matrix products of bfloat16 numbers: only operands are rounded."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minimtp import kernels
from minimtp.backend import choose_device
from minimtp.backend import numpy as np
from minimtp.cli import main
from minimtp.engine.fused import LinearMatMul
from minimtp.engine.precision import matmul, matmul_precision, operand
from minimtp.engine.tensor import Tensor
from minimtp.training import presets
from minimtp.training.run import checkpoint
from minimtp.training.run.start import Start
from minimtp.training.run.train import train
from minimtp.training.trainer import Trainer
from tests.helpers.tolerances import COMPARISONS, assert_close, matmul_bound
from tests.on_gpu.cases import random_corpus

CPU = choose_device("cpu")
few = settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
TRAINED = {
    "float": {},
    "QAT": {
        "heads": "token_conditioned",
        "draft_depth": 2,
        "quantization": "qat",
        "quantize_from": 0.5,
    },
}


@pytest.fixture(params=["plain", "auto"])
def each_choice(request, monkeypatch):
    monkeypatch.setattr("minimtp.kernels._choice", request.param)


@pytest.mark.usefixtures("each_choice")
@few
@given(sizes=st.tuples(*[st.integers(1, 40)] * 3), seed=st.integers(0, 2**32))
def test_a_linear_layer_and_its_gradients_round_only_the_operands(sizes, seed):
    (m, k, n), rng = sizes, np.random.default_rng(seed)
    x, weight, gradient = (
        rng.standard_normal(shape).astype(np.float32) for shape in ((m, k), (n, k), (m, n))
    )
    inputs = Tensor(x, requires_grad=True), Tensor(weight, requires_grad=True)
    with matmul_precision("bfloat16", CPU):
        y = LinearMatMul().apply(*inputs)
        y.backward(gradient)
    for found, a, b in (
        (y.data, x, weight.T),
        (inputs[0].grad, gradient, weight),
        (inputs[1].grad, gradient.T, x),
    ):
        assert found.dtype == np.float32
        exact, magnitude = a.astype(np.float64) @ b, np.abs(a).astype(np.float64) @ np.abs(b)
        assert (np.abs(found - exact) <= matmul_bound("bfloat16", a.shape[1], magnitude)).all()


@pytest.mark.usefixtures("each_choice")
def test_outside_a_training_step_matmuls_are_computed_in_float32():
    x = np.full((2, 2), 1 + 2.0**-20, np.float32)
    with matmul_precision("bfloat16", CPU):
        assert matmul(operand(x), operand(x))[0, 0] == 2
        exact = operand(x.astype(np.float64))
        assert exact.dtype == np.float64 and matmul(exact, exact)[0, 0] > 2
    assert operand(x) is x and matmul(x, x)[0, 0] > 2


def trained(precision, changes, steps=6):
    recipe = presets.preset("tiny", tokens=steps * 4 * 32, precision=precision, **changes)
    trainer, corpus = Trainer(recipe, None, CPU, 2), random_corpus()
    losses = [
        trainer.advance(
            corpus.batch(
                i,
                seed=0,
                batch_size=recipe.batch_size,
                sequence_length=recipe.context_length,
                depth=recipe.draft_depth,
            )
        )[0]
        for i in range(steps)
    ]
    trainer.close()
    return trainer, np.array(losses)


@pytest.mark.usefixtures("each_choice")
@pytest.mark.parametrize("changes", TRAINED.values(), ids=TRAINED)
def test_training_in_bfloat16_on_the_cpu_has_nearly_the_losses_of_float32(changes):
    _, expected = trained("float32", changes)
    trainer, found = trained("bfloat16", changes)
    tolerance = COMPARISONS["loss, bfloat16"]
    assert not np.array_equal(found, expected)
    assert_close(found, expected, tolerance)
    assert trainer.flat.data.dtype == trainer.optimizer.first.dtype == np.float32
    # The loss has fallen by much more than the tolerance.
    assert expected[0, 0] - expected[-1, 0] > 50 * tolerance.absolute


def test_a_run_in_bfloat16_that_was_stopped_continues_with_the_same_bits(tmp_path):
    recipe = presets.preset(
        "tiny", tokens=6 * 4 * 32, precision="bfloat16", evaluation_tokens=0, **TRAINED["QAT"]
    )
    options = {"device": "cpu", "threads": 2, "report": lambda line: None}
    train(recipe, random_corpus(), tmp_path / "whole", **options)
    for last, start in ((2, Start()), (4, Start(resume=True)), (None, Start(resume=True))):
        train(recipe, random_corpus(), tmp_path / "parts", start, stop_at_step=last, **options)
    whole, parts = (checkpoint.read(tmp_path / name) for name in ("whole", "parts"))
    assert whole.step == parts.step == 6
    for name, array in whole.parameters.items():
        assert array.tobytes() == parts.parameters[name].tobytes(), name


@pytest.mark.parametrize("choice", ["plain", "auto"])
def test_the_report_says_whether_bfloat16_is_faster_here(tmp_path, capsys, monkeypatch, choice):
    monkeypatch.setattr("minimtp.kernels._choice", choice)
    recipe = ["--preset", "tiny", "--tokens", "256", "--evaluation-tokens", "0"]
    place = ["--device", "cpu", "--out", str(tmp_path / "run")]
    assert main(["train", *recipe, *place, "--precision", "bfloat16", "--kernels", choice]) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "precision bfloat16:" in line]
    assert len(said) == 1
    assert ("not faster" in said[0]) == (kernels.bfloat16_instructions() is None)


def test_float32_inside_bfloat16_is_float32():
    a, b = (np.random.default_rng(seed).standard_normal((8, 8), np.float32) for seed in range(2))
    with matmul_precision("bfloat16", CPU):
        rounded = matmul(a, b)
        with matmul_precision("float32", CPU):
            exact = matmul(a, b)
        assert np.array_equal(matmul(a, b), rounded)
    assert np.array_equal(matmul(a, b), exact) and not np.array_equal(exact, rounded)
