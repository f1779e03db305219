"""The choice between plain and compiled kernels."""

import os
import subprocess
import sys

import pytest

from minimtp import kernels
from minimtp.backend import numpy as np
from minimtp.errors import UserError
from minimtp.kernels import plain
from tests.kernels.both import cpu, needs_numba


def run_python(code, **environment):
    """Return stdout and stderr of a new interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return done.stdout, done.stderr


def test_the_array_decides_which_kernels_run():
    assert kernels.for_array(np.zeros(1)) is plain  # float64 is only for checks
    assert kernels.for_array(np.zeros(1, np.float32)) is (plain if cpu is None else cpu)
    assert kernels.for_array(np.zeros(1, np.uint8)) is (plain if cpu is None else cpu)
    kernels.use("plain")
    try:
        assert kernels.for_array(np.zeros(1, np.float32)) is plain
        assert kernels.describe()[0] == "plain"
    finally:
        kernels.use("auto")
    assert kernels.describe()[0] == ("plain" if cpu is None else "cpu")


def test_an_unknown_choice_of_kernels_is_an_error_that_names_it():
    with pytest.raises(UserError, match="auto or plain"):
        kernels.use("fastest")


def test_the_environment_variable_selects_plain_kernels_and_numba_is_not_imported():
    code = (
        "import sys, minimtp.kernels as k; from minimtp.backend import numpy as np\n"
        "print(k.for_array(np.zeros(1, np.float32)).__name__, 'numba' in sys.modules)"
    )
    assert run_python(code, MINIMTP_KERNELS="plain") == ("minimtp.kernels.plain False\n", "")


def test_without_numba_everything_works_and_one_message_recommends_installing_it():
    code = (
        "import sys; sys.modules['numba'] = None\n"
        "import minimtp.kernels as k; from minimtp.backend import numpy as np\n"
        "for _ in range(3): print(k.for_array(np.zeros(1, np.float32)).__name__)\n"
        "print(k.describe())"
    )
    out, errors = run_python(code, MINIMTP_KERNELS="auto")
    assert out.splitlines()[:3] == ["minimtp.kernels.plain"] * 3
    assert errors.count("\n") == 1 and 'pip install "minimtp[fast]"' in errors
    assert 'pip install "minimtp[fast]"' in out.splitlines()[3]


@needs_numba
def test_compiling_is_announced_once_and_happens_once(tmp_path):
    code = (
        "import minimtp.kernels as k; from minimtp.backend import numpy as np\n"
        "x = np.ones((2, 4), np.float32); f = k.for_array(x)\n"
        "print(f.quantize_activations(np.ones((1, 32), np.float32))[0][0, 0])\n"
        "f.embedding_backward(x, np.array([0, 1]), x.copy())"
    )
    first = run_python(code, NUMBA_CACHE_DIR=str(tmp_path), MINIMTP_KERNELS="auto")
    again = run_python(code, NUMBA_CACHE_DIR=str(tmp_path), MINIMTP_KERNELS="auto")
    assert first[0] == again[0] == "127\n"
    assert first[1].count("compiling kernels") == 1 and again[1] == ""
