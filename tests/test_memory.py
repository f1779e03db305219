"""Where a training step's arrays lie: in the memory of the step before."""

import platform
import subprocess
import sys

import pytest

PAGES_OF_A_STEP = """
import resource, sys
from minimtp import backend, kernels
from minimtp.backend import choose_device, numpy
from minimtp.training import trainer
from minimtp.training.presets import preset

if sys.argv[1] == "given back":
    trainer.keep_freed_memory = lambda: None
kernels.use("plain")
model = trainer.Trainer(preset("quick", layers=2), None, choose_device("cpu"), shards=2)
tokens = numpy.random.default_rng(0).integers(0, 256, (4, 129))
for _ in range(6):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    model.advance(tokens)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def pages(freed_memory: str) -> int:
    run = [sys.executable, "-c", PAGES_OF_A_STEP, freed_memory]
    return int(subprocess.run(run, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no such setting")
def test_a_step_asks_the_system_for_no_page_that_the_last_step_had():
    assert pages("kept") < 100 < 500 < pages("given back")
