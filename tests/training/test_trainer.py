"""One training step with shards, quantization, weight averaging and gradient clipping."""

import pytest

import minimtp
from minimtp.backend import numpy as np
from minimtp.errors import UserError
from minimtp.training.run import checkpoint
from minimtp.training.run.train import train
from minimtp.training.trainer import Trainer
from tests.training.helpers import CPU, losses, quiet, recipe_of


def test_losses_and_gradients_do_not_depend_on_the_number_of_shards(corpus):
    recipe = recipe_of(batch_size=3, heads="parallel", draft_depth=2)
    batch = corpus.batch(0, seed=0, batch_size=3, sequence_length=16, depth=2)
    results = []
    for shards in (1, 2, 5):
        trainer = Trainer(recipe, None, CPU, shards)
        losses_, rate, norm = trainer.advance(batch)
        trainer.close()
        results.append([*losses_, rate, norm])
        assert trainer.shards == min(shards, 3)
    assert results[1] == pytest.approx(results[0], rel=1e-5)
    assert results[2] == pytest.approx(results[0], rel=1e-5)


def test_quantization_begins_at_its_step(tmp_path, corpus):
    train(recipe_of(), corpus, tmp_path / "plain", threads=1, report=quiet)
    train(
        recipe_of(quantization="qat", quantize_from=0.5),
        corpus,
        tmp_path / "qat",
        threads=1,
        report=quiet,
    )
    plain, rounded = losses(tmp_path / "plain"), losses(tmp_path / "qat")
    assert plain[:6] == rounded[:6]
    assert plain[6] != rounded[6]


@pytest.mark.parametrize("scales", ["learned", "learned-offset", "learned-bound"])
def test_the_average_of_learned_steps_starts_at_their_first_values(corpus, scales):
    grid = "q4_1" if scales == "learned-offset" else "int3-ggml-signed-g32"
    rounded = {
        "quantization": "qat",
        "quantize_from": 0.5,
        "weight_scales": scales,
        "weight_grid": grid,
    }
    # with this learning rate the learned steps hardly change
    recipe = recipe_of(**rounded, ema_decay=0.9, learning_rate=1e-9)
    trainer = Trainer(recipe, None, CPU, 1)
    for step in range(11):
        trainer.advance(corpus.batch(step, seed=0, batch_size=4, sequence_length=16))
    learned = {name: parameter.data for name, parameter in trainer.model.named_parameters()}
    for kind in ("log_steps", "offsets") if scales == "learned-offset" else ("log_steps",):
        found = {name: array for name, array in learned.items() if name.endswith(kind)}
        # the average does not start at zero
        assert max(np.abs(array).max() for array in found.values()) > 0.05
        for name, array in found.items():
            np.testing.assert_allclose(trainer.average.state()[f"average.{name}"], array, atol=1e-6)
    trainer.close()


LEARNED_FROM_ZEROS = {  # matrices that are 0 when rounding begins have log steps of 0 for a while
    "from the start": {"weight_scales": "learned", "weight_grid": "q4_0"},
    "bound": {"weight_scales": "learned-bound", "weight_grid": "int4-restricted-g32"},
    "with offsets": {"weight_scales": "learned-offset", "weight_grid": "q4_1"},
    "that never change": {"weight_scales": "learned", "step_learning_rate_factor": 0.0},
    "of heads that join later": {
        "weight_scales": "learned", "quantize_from": 0.2, "heads": "sequential", "draft_depth": 2,
        "curriculum": "forward",
    },
}  # fmt: skip


@pytest.mark.parametrize("name", LEARNED_FROM_ZEROS)
def test_learned_steps_of_a_checkpoint_are_those_of_the_run_after_every_step(
    tmp_path, corpus, name
):
    recipe = recipe_of(8, quantization="qat", **LEARNED_FROM_ZEROS[name])
    trainer = Trainer(recipe, None, CPU, 1)
    for step in range(8):
        depth = recipe.draft_depth
        trainer.advance(corpus.batch(step, seed=0, batch_size=4, sequence_length=16, depth=depth))
        checkpoint.write(tmp_path, trainer.checkpoint(corpus, {}))
        again = Trainer(recipe, checkpoint.read(tmp_path), CPU, 1)
        again.restore_quantization()
        loaded = minimtp.load(tmp_path, device="cpu").model
        for model in (again.model, loaded):
            for (name, ours), (_, theirs) in zip(
                trainer.model.named_parameters(), model.named_parameters(), strict=True
            ):
                assert np.array_equal(ours.data, theirs.data), f"{name} after step {step + 1}"
        again.close()
    trainer.close()


def test_the_gradient_is_clipped_to_the_norm_of_the_recipe_unless_it_is_zero(corpus):
    for clip in (0.01, 0.0):
        trainer = Trainer(recipe_of(max_gradient_norm=clip), None, CPU, 1)
        _, _, norm = trainer.advance(corpus.batch(0, seed=0, batch_size=4, sequence_length=16))
        assert norm > 0.01
        seen = float(np.linalg.norm(trainer.optimizer.first)) / (1 - 0.9)
        assert seen == pytest.approx(clip or norm, rel=1e-4)


def test_a_model_that_is_too_large_for_the_memory_is_refused_before_it_is_made(monkeypatch):
    recipe = recipe_of(hidden_size=1024, intermediate_size=4096, num_layers=2)
    needed = 4 * 5 * recipe.trunk_parameters()
    monkeypatch.setattr("minimtp.training.trainer.build_model", lambda *_: pytest.fail("made"))
    monkeypatch.setattr("minimtp.machine.available_memory", lambda: needed - 1)
    with pytest.raises(UserError, match="training this model needs 0.[0-9] GiB of memory"):
        Trainer(recipe, None, CPU, shards=2)


def test_the_losses_of_heads_with_a_draft_vocabulary_do_not_depend_on_the_shards():
    recipe = recipe_of(
        heads="token_conditioned", draft_depth=2, draft_vocabulary_size=3, head_stride=2
    )
    width = recipe.tokens_per_sequence + 3
    tokens = np.random.default_rng(0).integers(0, 3, (recipe.batch_size, width))
    tokens[1:] += np.random.default_rng(1).integers(0, 200, tokens[1:].shape)
    found = []
    for shards in (1, 2):
        trainer = Trainer(recipe, None, CPU, shards)
        trainer.model.heads.draft_vocabulary.ids.data[:] = [0, 1, 2]
        found.append(trainer.advance(tokens)[0])
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5)
