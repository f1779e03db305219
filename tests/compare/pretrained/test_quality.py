"""The states of the reference are computed once for each window, whatever is compared with it."""

from minimtp.backend import choose_device
from minimtp.backend import numpy as np
from minimtp.compare.pretrained.quality import Remembered
from minimtp.engine.precision import fastest, require
from minimtp.model.divergence import evaluate_against
from minimtp.model.loss import evaluate_losses
from minimtp.training.build import build_model
from minimtp.training.presets import preset


def test_a_remembered_model_has_the_results_of_the_model_and_computes_each_window_once(monkeypatch):
    recipe, rng = preset("tiny"), np.random.default_rng(0)
    model, other = (build_model(recipe, rng) for _ in range(2))
    tokens = rng.integers(0, recipe.vocabulary_size, (3, 33))
    expected = [evaluate_against(other, model, part) for part in (tokens, tokens[[2, 0]])]
    remembered, computed, hidden = Remembered(model), [], model.hidden

    def counted(inputs):
        computed.append(len(inputs))
        return hidden(inputs)

    monkeypatch.setattr(model, "hidden", counted)
    found = [evaluate_against(other, remembered, part) for part in (tokens, tokens[[2, 0]])]
    evaluate_losses(remembered, tokens)  # of the reference itself
    assert computed == [3]
    for mine, theirs in zip(found, expected, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(mine, theirs, strict=True))


def test_the_fastest_precision_of_a_processor_is_bfloat16_only_with_instructions_for_it(
    monkeypatch,
):
    device = choose_device("cpu")
    for has_instructions, expected in ((True, "bfloat16"), (False, "float32")):
        name = "AMX" if has_instructions else None
        monkeypatch.setattr("minimtp.kernels.bfloat16_instructions", lambda name=name: name)
        assert fastest(device) == expected
        require(expected, device)
