"""Training with matmuls in lower precision rounds operands, but not sums and weights.

It needs a GPU; the CPU refuses all but bfloat16 (test_bfloat16_on_cpu.py).
"""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minimtp.backend import choose_device, to_numpy
from minimtp.backend import numpy as np
from minimtp.cli import main
from minimtp.engine.precision import matmul, matmul_precision, operand
from minimtp.kernels.cuda import gemm as cuda_matrix
from minimtp.training import presets
from minimtp.training.loss_scale import FIRST, PATIENCE, LossScale
from minimtp.training.recipe import PRECISIONS
from minimtp.training.trainer import Trainer
from tests.helpers.tolerances import COMPARISONS, assert_close, matmul_bound
from tests.on_gpu.cases import random_corpus

pytestmark = pytest.mark.usefixtures("cuda_sources")
few = settings(
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
SHORT = [precision for precision in PRECISIONS if precision != "float32"]


def bfloat16(x):
    """Return float32 rounded half to even to its upper 16 bits, computed with integers.

    A NaN stays a NaN.
    """
    bits = x.view(np.uint32).astype(np.uint64)
    below = bits & 0xFFFF
    up = (below > 0x8000) | ((below == 0x8000) & (bits >> 16 & 1 == 1))
    return np.where(np.isnan(x), bits >> 16 | 0x40, (bits >> 16) + up).astype(np.uint16)


@few
@given(bits=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=40))
def test_bfloat16_rounds_to_the_nearest_number_of_eight_bits_and_ties_to_even(device, bits):
    x = np.array(
        [*bits, 0x7F7FFFFF, 0x7F800000, 0x7F800001, 0x3F808000, 0x3F818000], np.uint32
    ).view(np.float32)
    assert (
        to_numpy(cuda_matrix.rounded(device.xp.asarray(x), "bfloat16")).tolist()
        == bfloat16(x).tolist()
    )


@pytest.mark.parametrize("precision", SHORT)
@few
@given(
    sizes=st.tuples(*[st.integers(1, 20)] * 3),
    flips=st.tuples(*[st.booleans()] * 2),
    seed=st.integers(0, 2**32),
)
def test_a_matmul_in_lower_precision_rounds_only_its_operands(
    device, precision, sizes, flips, seed
):
    (m, k, n), rng = sizes, np.random.default_rng(seed)
    a, b = (rng.standard_normal(shape).astype(np.float32) for shape in ((m, k), (k, n)))
    there = device.xp.asarray
    mine = [there(x.T).T if flip else there(x) for x, flip in zip((a, b), flips, strict=True)]
    with matmul_precision(precision, device):
        found = matmul(operand(mine[0]), operand(mine[1]))
        # the rows of this operand are not contiguous
        strided = device.xp.concatenate([mine[0], mine[0]], axis=1)[:, :k]
        again = matmul(operand(strided), operand(mine[1]))
    assert found.dtype == np.float32 and found.shape == (m, n)
    magnitude = np.abs(a).astype(np.float64) @ np.abs(b)
    bound = matmul_bound(precision, k, magnitude)
    assert (np.abs(to_numpy(found) - a.astype(np.float64) @ b) <= bound).all()
    assert (np.abs(to_numpy(again) - a.astype(np.float64) @ b) <= bound).all()


def test_outside_a_training_step_matmuls_are_computed_in_float32(device):
    x = device.xp.asarray(np.full((2, 2), 1 + 2.0**-20, np.float32))
    with matmul_precision("bfloat16", device):
        assert to_numpy(matmul(operand(x), operand(x)))[0, 0] == 2
        assert (
            device.xp.cuda.cublas.getMathMode(device.xp.cuda.device.get_cublas_handle())
            == cuda_matrix.MATH_TF32
        )
    assert operand(x) is x and to_numpy(matmul(x, x))[0, 0] > 2
    assert device.xp.cuda.cublas.getMathMode(device.xp.cuda.device.get_cublas_handle()) == 0


def trained(device, steps=6, **changes):
    recipe = presets.preset("tiny", tokens=steps * 4 * 32, **changes)
    trainer, corpus = Trainer(recipe, None, device, 1), random_corpus()
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


@pytest.mark.parametrize("precision", SHORT)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {
            "heads": "token_conditioned",
            "draft_depth": 2,
            "quantization": "qat",
            "quantize_from": 0.5,
        },
    ],
    ids=str,
)
def test_training_in_lower_precision_has_nearly_the_losses_of_float32(
    device, monkeypatch, precision, changes
):
    monkeypatch.setattr("minimtp.kernels._choice", "plain")
    _, expected = trained(choose_device("cpu"), **changes)
    trainer, found = trained(device, precision=precision, **changes)
    assert not np.array_equal(found, expected)
    assert_close(found, expected, COMPARISONS[f"loss, {precision}"])
    assert trainer.flat.data.dtype == trainer.optimizer.first.dtype == np.float32
    # The loss has fallen by much more than the tolerance.
    assert expected[0, 0] - expected[-1, 0] > 50 * COMPARISONS[f"loss, {precision}"].absolute


def test_a_step_whose_gradients_overflow_is_computed_again_with_half_the_scale(device, monkeypatch):
    monkeypatch.setattr("minimtp.kernels._choice", "plain")
    with monkeypatch.context() as changed:
        # The gradient of a loss is 1/128 of the scale, which is beyond the range of float16.
        changed.setattr("minimtp.training.loss_scale.FIRST", 2.0**24)
        trainer, losses = trained(device, precision="float16")
    assert 1 < trainer.loss_scale.value < 2.0**24
    assert np.isfinite(losses).all() and trainer.step == trainer.optimizer.steps == 6
    _, expected = trained(device, precision="float16")
    assert_close(losses, expected, COMPARISONS["loss, float16"])


def test_the_loss_scale_is_halved_by_an_overflow_doubled_after_many_steps_and_stored():
    scale = LossScale("float16")
    assert scale.lower() and scale.value == FIRST / 2
    for _ in range(PATIENCE - 1):
        scale.count_step()
    kept = LossScale("float16", scale.state()["loss_scale"])
    kept.count_step()
    assert kept.value == FIRST
    while kept.lower():
        assert kept.value >= 1
    assert kept.value == 1
    fixed = LossScale("bfloat16")
    assert fixed.value == 1 and not fixed.lower() and fixed.state() == {}


def test_a_checkpoint_stores_the_loss_scale(device, monkeypatch):
    monkeypatch.setattr("minimtp.kernels._choice", "plain")
    trainer, _ = trained(device, precision="float16")
    trainer.loss_scale.lower()
    kept = trainer.checkpoint(random_corpus(), {"shards": 1})
    assert kept.state == {"shards": 1, "loss_scale": [FIRST / 2, 0]}
    kept.parameters = {name: to_numpy(array) for name, array in kept.parameters.items()}
    kept.optimizer = {}
    assert Trainer(trainer.recipe, kept, device, 1).loss_scale.value == FIRST / 2


@pytest.mark.parametrize("precision", ["tf32", "float16"])
def test_lower_precision_on_the_cpu_is_refused_in_one_sentence_and_no_file_is_written(
    tmp_path, capsys, precision
):
    out = tmp_path / "run"
    assert (
        main(
            [
                "train",
                "--preset",
                "tiny",
                "--device",
                "cpu",
                "--precision",
                precision,
                "--out",
                str(out),
            ]
        )
        == 2
    )
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"precision {precision} needs a GPU" in said
    assert not out.exists()


def test_bfloat16_on_a_gpu_without_it_is_an_error_that_names_the_required_capability(
    device, monkeypatch
):
    if device.xp.__name__ == "cupy":
        pytest.skip("the capability of a real GPU cannot be changed")
    from minimtp.engine.precision import require
    from minimtp.errors import UserError

    monkeypatch.setattr(device.xp.cuda.Device, "compute_capability", "75")
    require("float16", device)
    with pytest.raises(UserError, match="bfloat16 needs a GPU of compute capability 8.0"):
        require("bfloat16", device)
