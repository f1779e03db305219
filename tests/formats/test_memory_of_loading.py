"""Loading needs hardly more memory than the model, and a model that is too large is refused."""

import tracemalloc

import pytest

import minimtp
from minimtp.backend import numpy as np
from minimtp.errors import UserError
from minimtp.formats.export import export
from minimtp.training.build import build_model
from minimtp.training.recipe import Recipe
from minimtp.training.run.folder import LoadedRun
from tests.formats.gguf.helpers import BYTES, needs_gguf

LARGE = Recipe(
    vocabulary_size=257, context_length=64, num_layers=2, hidden_size=512, num_heads=8,
    num_kv_heads=4, intermediate_size=1536, batch_size=1, tokens=64,
)  # fmt: skip


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """The same model as a GGUF file and as a folder of transformers, whose numbers are bfloat16."""
    folder = tmp_path_factory.mktemp("large")
    loaded = LoadedRun(folder, build_model(LARGE, np.random.default_rng(0)), BYTES, LARGE)
    export(loaded, folder / "model.gguf")
    export(loaded, folder / "model", dtype="bfloat16")
    return folder / "model.gguf", folder / "model"


@needs_gguf
@pytest.mark.parametrize("index", [0, 1], ids=["gguf", "huggingface"])
def test_loading_takes_at_most_1_3_times_the_memory_of_the_weights(index, places):
    path = places[index]
    minimtp.load(path)  # what is imported for it stays in memory
    tracemalloc.start()
    try:
        loaded = minimtp.load(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    weights = sum(parameter.data.nbytes for parameter in loaded.model.parameters())
    assert weights < peak < 1.3 * weights


@needs_gguf
@pytest.mark.parametrize("index", [0, 1], ids=["gguf", "huggingface"])
def test_a_model_larger_than_the_free_memory_is_refused_with_both_sizes(index, places, monkeypatch):
    monkeypatch.setattr("minimtp.machine.available_memory", lambda: 2**20)
    needed = f"{4 * LARGE.trunk_parameters() / 2**30:.1f}"
    with pytest.raises(
        UserError,
        match=rf"as float32 needs {needed} GiB of memory, but only 0\.0 GiB are free: close other "
        "programs, or use a smaller model",
    ):
        minimtp.load(places[index])
