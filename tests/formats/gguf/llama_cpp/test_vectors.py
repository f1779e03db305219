"""Our logits are those that llama.cpp computed from the GGUF files that we write.

The logits are stored, so llama.cpp need not be installed (tests/vectors/README.md).
"""

from pathlib import Path

import pytest

import minimtp
from minimtp.backend import numpy as np
from minimtp.bench.baselines.llama_cpp.decoder import decoder_of
from minimtp.decode.drafters.deploy import deploy
from minimtp.engine.module import replace_modules
from minimtp.formats.gguf.writer import write_gguf
from minimtp.quant.packed_matrix import PackedMatrix
from minimtp.training.tokenizers.byte_tokenizer import ByteTokenizer
from tests.formats.gguf.helpers import AsInGgml, needs_gguf, needs_llama
from tests.formats.gguf.llama_cpp.cases import CASES, COLUMNS, ROWS, TOKENS, model_of

STORED = np.load(Path(__file__).parents[3] / "vectors" / "llama_cpp.npz")
# Relative to the largest logit. f32: another order of the sums. f16: llama.cpp rounds the inputs to
# float16. Blocks: it rounds the scales of the inputs to float16, so 2 % of the inputs of the next
# product get another code, and a code is up to 1/127 of its group. The whole rounding of inputs to
# int8 moves the logits by twice as much.
TOLERANCES = {"f32": 1e-5, "f16": 3e-3, "q8_0": 0.04, "q4_0": 0.04}
each_case = pytest.mark.parametrize(("name", "grid"), CASES)


def assert_close(found, expected, tolerance):
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max())


@needs_gguf
@each_case
def test_a_written_file_decodes_to_the_logits_of_llama_cpp(tmp_path, name, grid):
    write_gguf(tmp_path / "model.gguf", model_of(name, grid), ByteTokenizer(), "model")
    target, _ = deploy(minimtp.load(tmp_path / "model.gguf").model)
    found = target.forward(TOKENS).logits[ROWS, COLUMNS]
    assert_close(found, STORED[f"{name} {grid}"], TOLERANCES[grid])


@needs_gguf
@pytest.mark.parametrize("grid", ["q8_0", "q4_0"])
def test_with_inputs_rounded_as_in_llama_cpp_blocks_give_its_logits_to_the_last_digits(grid):
    """So the blocks of the file mean the same here and there: only the inputs are rounded
    differently.
    """
    model = replace_modules(
        model_of("llama", grid),
        lambda _, module: AsInGgml(module) if isinstance(module, PackedMatrix) else None,
    )
    found = model.logits(model.hidden(TOKENS[None])).data[0][ROWS, COLUMNS]
    assert_close(found, STORED[f"llama {grid}"], 1e-5)


@needs_llama
@needs_gguf
@each_case
def test_the_installed_llama_cpp_computes_the_stored_logits(name, grid):
    """Within the tolerance of our own: another version or processor may sum in another order."""
    found = decoder_of(model_of(name, grid), exact=True).forward(TOKENS).logits[ROWS, COLUMNS]
    assert_close(found, STORED[f"{name} {grid}"], TOLERANCES[grid])
