"""Our draft logits are those that llama.cpp computed for the pairs of GGUF files that we write.

The logits are stored, so llama.cpp need not be installed (tests/vectors/README.md).
"""

from pathlib import Path

import pytest

import minimtp
from minimtp.backend import numpy as np
from tests.formats.eagle3.cases import loaded, model_of
from tests.formats.eagle3.llama import LLAMA_CASES, digest, ours, stored_logits
from tests.formats.gguf.helpers import needs_gguf, needs_llama
from tests.formats.gguf.llama_cpp.test_vectors import TOLERANCES

STORED = np.load(Path(__file__).parents[2] / "vectors" / "llama_cpp_eagle3.npz")
each_case = pytest.mark.parametrize("case", LLAMA_CASES)


def assert_close(found, case):
    """Relative to the largest logit, as in tests/formats/gguf/llama_cpp/test_vectors.py."""
    expected, tolerance = STORED[case], TOLERANCES["f16" if case == "f16" else "f32"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max())


@each_case
def test_draft_logits_are_those_that_llama_cpp_computed(case):
    assert_close(ours(case), case)


@each_case
def test_a_written_file_has_the_tensors_that_llama_cpp_read(case):
    """Otherwise its stored logits would say nothing about the file that we write today."""
    assert digest(case) == STORED[f"{case}, digest"]


@needs_llama
@needs_gguf
@each_case
def test_the_installed_llama_cpp_computes_the_stored_logits(case):
    assert_close(stored_logits(case), case)


@needs_gguf
def test_a_head_that_llama_cpp_cannot_run_is_written_with_a_note(tmp_path):
    model = loaded(model_of("other layers"))
    done = minimtp.export(model, tmp_path / "model.gguf", draft=tmp_path / "draft.gguf")
    assert any("last layer's output" in sentence for sentence in done.draft.caveats)
