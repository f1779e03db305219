"""The compiled kernels pass their tests when they are compiled for older processors.

There are three variants of them: for AVX-512, for AVX2 and for neither. A machine normally runs one
of the three. Numba can also compile for an older processor, if this one has its instructions.
"""

import importlib.util
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

AVX2 = "+avx,+avx2,+bmi,+bmi2,+f16c,+fma,+lzcnt,+movbe,+popcnt,+sse3,+sse4.1,+sse4.2,+ssse3"
# (name and features for Numba, special instructions that the kernels find)
OLDER = (("haswell", AVX2, "avx2 f16c"), ("generic", "", ""))
# Before it runs the tests, the process checks for which processor it compiles.
RUN = """
import sys, pytest
from numba.core.registry import cpu_target
from minimtp.kernels.cpu.matrices import vectors
assert (vectors.LANES, vectors.DOTS) == (8, False)
assert vectors.special_instructions(cpu_target.target_context) == set(sys.argv[1].split())
sys.exit(pytest.main(sys.argv[2:]))
"""
TESTS = (
    "kernels/decoding/test_attention.py",
    "kernels/decoding/test_block.py",
    "kernels/decoding/test_gated_head.py",
    "kernels/matrices/test_bfloat16.py",
    "kernels/matrices/test_matmul.py",
    "kernels/matrices/test_packed_linear.py",
    "kernels/matrices/test_tiles.py",
    "kernels/test_counterparts.py",
    "kernels/test_loss.py",
    "kernels/test_math.py",
    "kernels/rounding/test_quantize.py",
    "decode/test_model_runner.py",
    "decode/generation/test_exactness.py",
)


@pytest.mark.slow
@pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"),
    reason="the older processors in this test are x86 processors",
)
@pytest.mark.skipif(
    importlib.util.find_spec("numba") is None,
    reason="Numba is not installed, so there are no compiled kernels to test",
)
@pytest.mark.parametrize(("name", "features", "special"), OLDER, ids=[name for name, *_ in OLDER])
def test_the_kernels_compiled_for_an_older_processor_pass_the_same_tests(
    name, features, special, tmp_path
):
    from llvmlite.binding import get_host_cpu_features

    if not all(
        get_host_cpu_features().get(feature[1:]) for feature in features.split(",") if feature
    ):
        pytest.skip(f"this processor does not have the instructions of {name}")
    settings = {
        "NUMBA_CPU_NAME": name,
        "NUMBA_CPU_FEATURES": features,
        "NUMBA_CACHE_DIR": str(tmp_path),
    }
    folder = Path(__file__).resolve().parents[2]
    command = [
        sys.executable,
        "-c",
        RUN,
        special,
        "-n0",
        "-p",
        "no:cacheprovider",
        "-k",
        "not plain",
    ]
    done = subprocess.run(
        [*command, *(str(folder / test) for test in TESTS)],
        cwd=folder.parent, env=os.environ | settings | {"MINIMTP_KERNELS": "auto"},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
