"""Models, texts and helpers of the tests that compare a device with the host."""

from types import SimpleNamespace

import pytest

from minimtp.backend import numpy as np
from minimtp.backend import to_device, to_numpy
from minimtp.engine.module import map_parameters, replicate
from minimtp.model.config import ModelConfig
from minimtp.model.heads import HEADS, MultiTokenModel
from minimtp.model.transformer import Transformer
from minimtp.quant.ptq.methods import round_to_nearest
from minimtp.quant.qat.convert import convert
from minimtp.quant.qat.prepare import prepare_qat
from minimtp.quant.qat.spec import QuantizationSpec
from minimtp.training.data.corpus import Corpus
from tests import strict_cupy
from tests.helpers.heads import heads_of
from tests.helpers.tolerances import COMPARISONS, allowed, assert_close

CONFIG = ModelConfig(
    vocabulary_size=61,
    context_length=48,
    num_layers=2,
    hidden_size=64,
    num_heads=4,
    num_kv_heads=2,
    intermediate_size=64,
)
FORMATS = ["float32", "int4", "trained int4"]


def model_with(kind, seed=3):
    """Return a model with heads of this kind, and no parameter at its initial value. Blocks that
    start at zero would hide mistakes.

    kind: one of KINDS (tests/helpers/heads.py), "limited" (a token-conditioned head that drafts
    every third token) or "none".
    """
    rng = np.random.default_rng(seed)
    model = trunk = Transformer(CONFIG, rng)
    if kind == "limited":
        heads = HEADS["token_conditioned"](4, CONFIG, rng, draft_vocabulary_size=20)
        heads.draft_vocabulary.ids.data *= 3
        model = MultiTokenModel(trunk, heads)
    elif kind != "none":
        model = MultiTokenModel(trunk, heads_of(kind, 4, CONFIG, rng))
    map_parameters(
        model, lambda array: (array + 0.1 * rng.standard_normal(array.shape)).astype(np.float32)
    )
    return model


def moved(model, device):
    """Return a copy of the model on the device."""
    copy = replicate(model)
    map_parameters(copy, lambda array: to_device(array, device))
    return copy


def in_format(model, name):
    """Return the model in one of FORMATS."""
    if name == "int4":
        return round_to_nearest(model, QuantizationSpec())
    return convert(prepare_qat(model, QuantizationSpec())) if name == "trained int4" else model


def random_corpus():
    """Return a corpus of 12 texts of random letters."""
    rng = np.random.default_rng(0)
    return Corpus(
        "noise", [(str(i), bytes(rng.integers(97, 105, 3000, dtype=np.uint8))) for i in range(12)]
    )


def with_both_kernels(cases, quick):
    """Return each case with the plain kernels and with the kernels of the device.

    The stand-in runs the kernels of the device slowly, so with them only `quick` cases are not
    marked as slow.
    """
    plain = [pytest.param(*case, "plain", id="-".join([*case, "plain"])) for case in cases]
    compiled = [
        pytest.param(
            *case,
            "auto",
            id="-".join([*case, "kernels"]),
            marks=() if case in quick else pytest.mark.slow,
        )
        for case in cases
    ]
    return plain + compiled


def count_traffic(monkeypatch):
    """Count the reads, uploads and launches of the stand-in from now on."""
    traffic = SimpleNamespace(reads=0, uploads=0, launches=0)
    monkeypatch.setattr(strict_cupy.recording, "traffic", traffic)
    return traffic


def assert_same(found, expected, kind):
    """Check that numbers of the device are within the tolerance `kind` of those of the host."""
    assert_close(found, expected, COMPARISONS[kind], max(np.abs(expected).max(initial=0.0), 1.0))


def equal_up_to_a_tie(target, found, expected):
    """Return whether two texts are equal up to a place where the two best logits nearly tie.

    The two logits may differ by the rounding error of a logit.
    """
    if found == expected:
        return True
    place = next(i for i, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b)
    target.truncate(0)
    logits = np.sort(to_numpy(target.forward(np.asarray(expected[:place])).logits[-1]))
    return logits[-1] - logits[-2] <= allowed(
        COMPARISONS["logits, float32"], max(1.0, np.abs(logits).max())
    )
