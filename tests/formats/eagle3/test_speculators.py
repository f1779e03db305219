"""Our draft logits are those that the library speculators computed for the folders that we write.

The logits are stored, so speculators need not be installed (tests/vectors/README.md).
"""

import importlib.util
from pathlib import Path

import pytest

import minimtp
from minimtp.backend import numpy as np
from tests.formats.eagle3.cases import CASES, draft_logits, loaded, model_of, read_back
from tests.formats.eagle3.speculators import PART, digest, stored_logits

STORED = np.load(Path(__file__).parents[2] / "vectors" / "speculators.npz")
each_case = pytest.mark.parametrize("case", CASES)


@each_case
def test_draft_logits_are_those_that_speculators_computed(case):
    np.testing.assert_allclose(draft_logits(model_of(case))[PART], STORED[case], rtol=0, atol=1e-4)


@each_case
def test_a_written_folder_has_the_tensors_that_speculators_read(case):
    """Otherwise its stored logits would say nothing about the folder that we write today."""
    assert digest(case) == STORED[f"{case}, digest"]


def test_a_folder_that_is_read_gives_the_logits_of_speculators(tmp_path):
    """So both directions agree with it, not only with each other."""
    model = model_of("untied, both")
    minimtp.export(loaded(model), tmp_path / "model", draft=tmp_path / "draft")
    found = draft_logits(read_back(model, tmp_path / "draft"))[PART]
    np.testing.assert_allclose(found, STORED["untied, both"], rtol=0, atol=1e-4)


@pytest.mark.skipif(
    importlib.util.find_spec("speculators") is None, reason="speculators is not installed"
)
@each_case
def test_the_installed_speculators_computes_the_stored_logits(case):
    np.testing.assert_allclose(stored_logits(case), STORED[case], rtol=0, atol=1e-4)
