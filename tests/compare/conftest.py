"""The finished comparison for the tests of this folder."""

import pytest

from minimtp.bench.interleaved import tune
from minimtp.compare import measurement
from minimtp.compare.run import compare


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """Return the folder and the result of a whole comparison with the smallest preset.

    The draft depth is not chosen by time, so the results do not depend on the machine.
    """
    out = tmp_path_factory.mktemp("compare")

    def choose_the_first(variant, depths, confidences, *others):
        return tune(variant, depths[:1], confidences[:1], *others)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(measurement, "tune", choose_the_first)
        return out, compare("tiny", out, threads=2, report=lambda line: None)
