"""The models that the runs of these tests start from."""

from types import SimpleNamespace

import pytest

from minimtp import kernels
from minimtp.training.quantize import quantize
from minimtp.training.run.folder import load_run
from minimtp.training.run.train import train
from tests.training.helpers import quiet, recipe_of
from tests.training.run.quantized_start.cases import GRIDS


@pytest.fixture
def plain_kernels():
    """Use the plain kernels, with which packed and fake-quantized products have the same bits."""
    kernels.use("plain")
    yield
    kernels.use("auto")


@pytest.fixture(scope="module")
def models(tmp_path_factory, corpus):
    """A trained model, and its packed form for each grid and method, in folders of their own."""
    folder = tmp_path_factory.mktemp("models")
    untied = {"tied_embeddings": False, "heads": "parallel", "draft_depth": 1}
    found = SimpleNamespace(full=folder / "full", untied=folder / "untied", packed={})
    train(recipe_of(40), corpus, found.full, threads=1, report=quiet)
    train(recipe_of(40, **untied), corpus, found.untied, threads=1, report=quiet)
    for grid, method in [*((grid, "gptq") for grid in GRIDS), ("q4_0", "rtn"), ("q4_0", "hqq")]:
        found.packed[grid, method] = folder / f"{grid}-{method}"
        text = corpus if method == "gptq" else ()
        quantize(
            load_run(found.full), found.packed[grid, method], grid, method=method, calibration=text
        )
    quantize(load_run(found.untied), folder / "untied-packed", method="gptq", calibration=corpus)
    found.packed["untied"] = folder / "untied-packed"
    return found
