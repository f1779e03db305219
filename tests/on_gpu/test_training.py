"""Training on a device has the losses of training on the host and rarely waits for the device."""

import pytest

from minimtp.backend import choose_device, to_numpy
from minimtp.backend import numpy as np
from minimtp.training import presets
from minimtp.training.data.batches import Batches
from minimtp.training.evaluate import evaluate_model
from minimtp.training.trainer import Trainer
from tests import strict_cupy
from tests.helpers.tolerances import COMPARISONS, assert_close
from tests.on_gpu.cases import assert_same, count_traffic, moved, random_corpus, with_both_kernels

FEATURES = {
    "standard": {},
    "frozen trunk": {"heads": "token_conditioned", "draft_depth": 2, "freeze_trunk": True},
    "parallel, reversed": {"heads": "parallel", "draft_depth": 2, "curriculum": "reverse"},
    "sequential, forward": {
        "heads": "sequential",
        "draft_depth": 2,
        "curriculum": "forward",
        "detach_until": 0.5,
    },
    "heads from the trunk": {
        "heads": "token_conditioned",
        "draft_depth": 3,
        "head_targets": "trunk",
        "head_stride": 2,
    },
    "heads that draft some tokens": {
        "heads": "token_conditioned",
        "draft_depth": 2,
        "head_targets": "trunk",
        "draft_vocabulary_size": 120,
        "quantization": "qat",
        "quantize_from": 0.5,
    },
    "a head that reads layers": {
        "heads": "eagle3",
        "draft_depth": 3,
        "head_targets": "trunk",
        "draft_vocabulary_size": 120,
        "head_stride": 2,
        "own_draft_output": True,
    },
    "distilled": {"distill_weight": 0.5},
    "rounded from the middle": {
        "heads": "token_conditioned",
        "draft_depth": 2,
        "quantization": "qat",
        "quantize_from": 0.5,
    },
    "untied, 8 bits": {
        "tied_embeddings": False,
        "quantization": "qat",
        "weight_grid": "q8_0",
        "quantize_from": 0.0,
    },
}


def recipe_with(feature):
    return presets.preset("tiny", tokens=4 * 4 * 32, **FEATURES[feature])


def batches_for(recipe, corpus):
    return [
        corpus.batch(
            step,
            seed=0,
            batch_size=recipe.batch_size,
            sequence_length=recipe.context_length,
            depth=recipe.draft_depth,
        )
        for step in range(4)
    ]


@pytest.mark.parametrize(
    ("feature", "choice"),
    with_both_kernels(
        [(name,) for name in FEATURES], quick=[("heads from the trunk",), ("untied, 8 bits",)]
    ),
)
def test_training_has_the_same_losses_and_evaluation_as_on_the_host(
    device, choose_kernels, feature, choice
):
    choose_kernels(choice, device)
    recipe = recipe_with(feature)
    corpus, losses, evaluations = random_corpus(), [], []
    for chosen in (choose_device("cpu"), device):
        teacher = (
            moved(Trainer(recipe, None, choose_device("cpu"), 1).model, chosen)
            if recipe.distill_weight
            else None
        )
        trainer = Trainer(recipe, None, chosen, 1, teacher=teacher)
        losses.append([trainer.advance(batch)[0] for batch in batches_for(recipe, corpus)])
        evaluations.append(evaluate_model(trainer.model, corpus, recipe.context_length, 512, 1))
        trainer.close()
    assert np.array_equal(np.isnan(losses[0]), np.isnan(losses[1]))
    kind = "loss, float32" if recipe.quantization == "none" else "loss through rounding, float32"
    assert_same(np.nan_to_num(losses[1]), np.nan_to_num(losses[0]), kind)
    assert_close(
        *(evaluation.bits_per_byte for evaluation in evaluations[::-1]),
        COMPARISONS["bits per byte, float32"],
    )


@pytest.mark.parametrize(
    "feature", ["standard", "parallel, reversed", "heads from the trunk", "untied, 8 bits"]
)
def test_a_training_step_reads_the_device_at_most_twice_and_uploads_at_most_once(
    monkeypatch, device, choose_kernels, feature
):
    choose_kernels("plain", device)
    recipe = recipe_with(feature)
    trainer = Trainer(recipe, None, device, 1)
    batches = batches_for(recipe, random_corpus())
    for batch in batches[:2]:
        trainer.advance(batch)
    traffic = count_traffic(monkeypatch)
    trainer.advance(batches[2])
    trainer.close()
    if device.xp is strict_cupy:  # CuPy does not count
        assert traffic.reads <= 2  # the losses of all heads, the norms of all gradients
        assert traffic.uploads <= 1


def test_batches_prepared_ahead_are_the_same_and_each_is_prepared_once(device):
    prepared, corpus = [], random_corpus()

    def batch_of(step):
        prepared.append(step)
        if step == 5:
            raise ValueError("no text")
        return corpus.batch(step, seed=1, batch_size=3, sequence_length=16, depth=2)

    batches = Batches(batch_of, device, 7)
    for step in (0, 1, 2, 4):  # a run may continue at any step
        found = batches.at(step)
        assert isinstance(found, device.xp.ndarray)
        assert np.array_equal(
            to_numpy(found), corpus.batch(step, seed=1, batch_size=3, sequence_length=16, depth=2)
        )
    with pytest.raises(ValueError, match="no text"):
        batches.at(5)
    batches.at(6)
    batches.close()
    assert prepared == [0, 1, 2, 3, 4, 5, 6]  # each once, and none after the last
    host = Batches(batch_of, choose_device("cpu"), 7)
    assert np.array_equal(
        host.at(0), corpus.batch(0, seed=1, batch_size=3, sequence_length=16, depth=2)
    )
    assert prepared[7:] == [0]  # on the CPU nothing is prepared ahead
    host.close()
