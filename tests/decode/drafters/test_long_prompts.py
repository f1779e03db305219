"""Drafters that read a long prompt do so in passes of few rows."""

import pytest

from minimtp.backend import numpy as np
from minimtp.decode.drafters.deploy import deploy
from minimtp.decode.drafters.heads.block_heads import BlockRunner
from minimtp.decode.drafters.model import ModelDrafter
from minimtp.decode.model_runner import ModelRunner
from minimtp.decode.options import GenerationOptions, start_generation
from tests.decode.drafters.helpers import SHAPE, model_with


@pytest.mark.parametrize("kind", ["parallel", "sequential", "model"])
def test_a_long_prompt_is_read_in_passes_of_few_rows(kind, monkeypatch):
    """Attention of T rows takes T^2 numbers per head, and logits T V numbers."""
    rows, most = [], 5
    model = model_with("token_conditioned" if kind == "model" else kind)
    target, drafter = deploy(model)
    target.max_rows = drafter._max_rows = most
    if kind == "model":
        drafter = ModelDrafter(target.clone())

    def counting(function):
        def counted(self, x, *arguments):
            rows.append(len(x))
            return function(self, x, *arguments)

        return counted

    for runner in (BlockRunner, ModelRunner):
        monkeypatch.setattr(runner, "forward", counting(runner.forward))
    prompt = np.arange(SHAPE.context_length - 4) % SHAPE.vocabulary_size
    list(start_generation(target, drafter, prompt, GenerationOptions(max_new_tokens=3)))
    assert max(rows) <= most
