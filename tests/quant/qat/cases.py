"""Models, specs and checks for the tests of quantization-aware training."""

import hashlib
import tracemalloc
from dataclasses import replace

import pytest

from minimtp.backend import choose_device
from minimtp.backend import numpy as np
from minimtp.engine.module import map_parameters, replicate
from minimtp.engine.tensor import no_grad
from minimtp.model.config import ModelConfig
from minimtp.model.heads import MultiTokenModel
from minimtp.model.loss import evaluate_losses
from minimtp.model.transformer import Transformer
from minimtp.quant.grids import Q4_0, Q8_0
from minimtp.quant.packed_matrix import PackedMatrix, stored_arrays
from minimtp.quant.qat.convert import convert, restore
from minimtp.quant.qat.modules import FakeQuantizedMatrix
from minimtp.quant.qat.prepare import add_learned_step_parameters, prepare_qat
from minimtp.quant.qat.spec import QuantizationSpec
from minimtp.training import trainer as training
from minimtp.training.data.corpus import open_corpus
from minimtp.training.presets import preset
from tests.helpers import heads

SHAPE = ModelConfig(
    vocabulary_size=11,
    context_length=16,
    num_layers=2,
    hidden_size=32,
    num_heads=4,
    num_kv_heads=2,
    intermediate_size=64,
)


SPEC = QuantizationSpec()


KINDS = ["none", *heads.KINDS]


DEPTH = 2


each_kind = pytest.mark.parametrize("kind", KINDS)


tied_or_not = pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])


def build(kind="none", tied=True, dtype=np.float32, seed=0):
    """Return a small model without weights of 0 or 1, so that lost weights are noticed."""
    rng = np.random.default_rng(seed)
    shape = replace(SHAPE, tied_embeddings=tied)
    trunk = Transformer(shape, rng)
    model = trunk
    if kind != "none":
        model = MultiTokenModel(trunk, heads.heads_of(kind, DEPTH, shape, rng))
    for name, parameter in model.named_parameters():
        norm = "norm" in name
        parameter.data = (
            rng.uniform(0.5, 1.5, parameter.shape)
            if norm
            else 0.2 * rng.standard_normal(parameter.shape)
        )
    map_parameters(model, lambda array: array.astype(dtype))
    return model


def text(model, length=9, seed=1):
    return np.random.default_rng(seed).integers(
        0, SHAPE.vocabulary_size, (2, length + 1 + model.depth)
    )


def outputs(model, tokens):
    """Return the trunk's hidden states, and the losses of the next token and of every head."""
    with no_grad():
        hidden = model.hidden(tokens[:, : tokens.shape[1] - 1 - model.depth]).data
    return hidden, evaluate_losses(model, tokens)[0]


def same_bits(a, b):
    """Return whether two lists of arrays are equal bit for bit."""
    return all(x.dtype == y.dtype and x.tobytes() == y.tobytes() for x, y in zip(a, b, strict=True))


def grid_by_name(name):
    """Return the grid that the default spec assigns to a parameter, or None for full precision.

    This is written independently of the library's code.
    """
    if "norm" in name:
        return None
    return Q8_0 if "embedding" in name or name.removeprefix("trunk.") == "output.weight" else Q4_0


def with_rounded_parameters(model):
    """Return a full-precision copy of the model in which each weight is rounded once."""
    clone = replicate(model)
    for name, parameter in clone.named_parameters():
        grid = grid_by_name(name)
        parameter.data = (
            parameter.data.copy() if grid is None else grid.fake_quantize(parameter.data)
        )
    return clone


def learned(kind="none", grid="q4_0", seed=3, scales="learned", **spec):
    """Return a fake-quantized model whose learned steps are not at their initial values."""
    model, spec = build(kind), QuantizationSpec(weights=grid, heads=grid, scales=scales, **spec)
    add_learned_step_parameters(model, spec)
    prepare_qat(model, spec)
    rng = np.random.default_rng(seed)
    for name, parameter in model.named_parameters():
        if name.endswith(("log_steps", "offsets")):
            parameter.data += rng.uniform(-0.3, 0.3, parameter.shape).astype(np.float32)
    return model


SPECS = {
    "the default": QuantizationSpec(),
    "4 bits everywhere": QuantizationSpec("q4_0", "q4_0", "q4_0"),
    "3 bits, one scale per token": QuantizationSpec(
        "int3-ggml-signed-g32", "q8_0", "q8_0", "int8-token"
    ),
    "one scale per row": QuantizationSpec(
        "int4-affine-channel", "int8-restricted-channel", "int4-affine-channel"
    ),
    "a separate output grid": QuantizationSpec(output="int6-full-mid-g16"),
}


def check_that_all_forms_agree(model, spec, tied):
    """Check that the model, its packed form and the form restored from arrays agree bit for bit."""
    packed = convert(model)
    arrays = {name: array.copy() for name, array in stored_arrays(packed).items()}
    stored = restore(build(kind_of(model), tied, seed=9), spec, arrays)
    trained = {
        name: m.rounded().data
        for name, m in model.named_modules()
        if isinstance(m, FakeQuantizedMatrix)
    }
    for other in (packed, stored):
        deployed = {
            name: m.dequantize() for name, m in other.named_modules() if isinstance(m, PackedMatrix)
        }
        assert digest(deployed) == digest(trained)
    tokens = text(model)
    assert same_bits(outputs(packed, tokens), outputs(model, tokens))
    assert same_bits(outputs(stored, tokens), outputs(model, tokens))


def kind_of(model):
    """Return the kind of the model's prediction heads, or "none"."""
    return heads.kind_of(model.heads) if model.depth else "none"


def digest(matrices):
    """Return a SHA-256 digest of names, shapes and values."""
    sha = hashlib.sha256()
    for name in sorted(matrices):
        sha.update(
            name.encode()
            + str(matrices[name].shape).encode()
            + matrices[name].astype(np.float32).tobytes()
        )
    return sha.hexdigest()


def peak_memory_of_a_step(**settings):
    """Run a training step. Return its peak of newly allocated bytes, and the number of weights."""
    recipe, corpus = preset("quick", **settings), open_corpus()
    trainer = training.Trainer(recipe, None, choose_device("cpu"), 1)
    size = dict(
        seed=0,
        batch_size=recipe.batch_size,
        sequence_length=recipe.context_length,
        depth=recipe.draft_depth,
    )
    first, second = (corpus.batch(i, **size) for i in range(2))
    trainer.advance(first)
    tracemalloc.start()
    try:
        trainer.advance(second)
        return tracemalloc.get_traced_memory()[1], trainer.flat.data.size
    finally:
        tracemalloc.stop()
        trainer.close()


def counted(kernel, names, monkeypatch):
    """Wrap the named functions of `kernel`. Return a list that collects the names of the calls."""
    calls = []
    for name in names:
        original = getattr(kernel, name)
        monkeypatch.setattr(
            kernel,
            name,
            lambda *given, _name=name, _do=original: (calls.append(_name), _do(*given))[1],
        )
    return calls
