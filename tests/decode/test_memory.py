"""A training step reuses the memory of the last one. Decoding takes little more memory than weights
and cache.
"""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from minimtp import kernels
from minimtp.backend import numpy as np
from minimtp.bench.interleaved import Variant
from minimtp.bench.memory import peak_memory
from minimtp.compare.measurement import SIZES
from minimtp.decode.drafters.deploy import deploy
from minimtp.model.matrix import weight_bytes
from minimtp.quant.ptq.methods import round_to_nearest
from minimtp.quant.qat.spec import QuantizationSpec
from minimtp.training.build import build_model
from minimtp.training.presets import preset, with_heads

PAGES_OF_A_STEP = """
import resource, sys
from minimtp import backend, kernels
from minimtp.backend import choose_device, numpy
from minimtp.training import trainer
from minimtp.training.presets import preset

if sys.argv[1] == "given back":
    trainer.keep_freed_memory = lambda: None
kernels.use("plain")
model = trainer.Trainer(preset("quick", num_layers=2), None, choose_device("cpu"), shards=2)
tokens = numpy.random.default_rng(0).integers(0, 256, (4, 129))
counts = []
for _ in range(10):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    model.advance(tokens)
    counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(min(counts[4:]))
"""


def pages(freed_memory: str) -> int:
    """Memory pages that a later step takes from the system.

    It is the least of several steps: how the threads of a step take turns decides how much memory
    they hold at once, so now and then a step needs more than every step before it.
    """
    run = [sys.executable, "-c", PAGES_OF_A_STEP, freed_memory]
    return int(subprocess.run(run, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has this setting")
def test_a_training_step_reuses_the_memory_pages_of_the_previous_step():
    assert pages("kept") < 100 < 500 < pages("given back")


KEPT_AND_RETURNED = """
from pathlib import Path
from minimtp.backend import keep_freed_memory, numpy, return_freed_memory

def resident():
    return next(
        int(line.split()[1]) << 10
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmRSS:")
    )

keep_freed_memory()
arrays = [numpy.ones(1 << 20, numpy.float32) for _ in range(64)]  # 256 MiB
last = arrays.pop()  # its place is above all others: the heap cannot simply be cut
del arrays
kept = resident()
return_freed_memory()
print(kept - resident())
"""


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or not Path("/proc/self/status").exists(),
    reason="only glibc has this setting",
)
def test_kept_memory_is_returned_to_the_system_between_two_tasks():
    run = [sys.executable, "-c", KEPT_AND_RETURNED]
    returned = int(subprocess.run(run, capture_output=True, text=True, check=True).stdout)
    assert returned >= 240 << 20


@pytest.mark.skipif(
    kernels.describe()[0] != "cpu",
    reason="Numba is missing: plain kernels store packed weights as float32",
)
@pytest.mark.parametrize("form", ["float32", "int4"])
def test_decoding_takes_at_most_a_fifth_more_memory_than_weights_and_cache(form):
    model = build_model(with_heads(preset("quick")), np.random.default_rng(0))
    if form == "int4":
        model = round_to_nearest(model, QuantizationSpec())

    def build() -> Variant:
        target, drafter = deploy(model)
        return Variant(form, target, drafter, drafter.max_depth)

    sizes, needed = (SIZES["quick"], weight_bytes(model) + deploy(model)[0].cache.nbytes)
    once, again = (
        peak_memory(build, np.arange(sizes.prompt), sizes.max_new_tokens) for _ in range(2)
    )
    assert needed <= again <= 1.2 * needed, (
        f"{again / needed:.3f} times weights and cache; loading kernels took {once - again} bytes"
    )
