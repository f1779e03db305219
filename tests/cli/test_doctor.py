"""`minimtp doctor` shows what would be used, and why."""

import re
import tomllib
from pathlib import Path

import pytest

from minimtp import kernels
from minimtp.backend import BLAS_THREAD_VARIABLES
from minimtp.cli import main
from minimtp.cli.doctor import EXTRAS


def test_doctor_reports_every_topic(capsys):
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    for topic in (
        "minimtp",
        "libraries",
        "device",
        "kernels",
        "threads",
        "bfloat16",
        "default text",
        "extra fast",
    ):
        assert re.search(rf"^{topic} +\S", said, re.MULTILINE)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            "1 per matrix product: the threads above already keep every core busy",
        ),
        ({"OMP_NUM_THREADS": "4"}, "4 per matrix product: OMP_NUM_THREADS is set"),
        (
            {"OPENBLAS_NUM_THREADS": "2", "OMP_NUM_THREADS": "4"},
            "2 per matrix product: OPENBLAS_NUM_THREADS is set",
        ),
        ({}, "unlimited: NumPy was imported before minimtp"),
    ],
)
def test_the_variable_that_sets_the_threads_of_numpy_is_named(capsys, monkeypatch, settings, said):
    for variable in BLAS_THREAD_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    for variable, setting in settings.items():
        monkeypatch.setenv(variable, setting)
    assert main(["doctor"]) == 0
    assert re.search(rf"^NumPy's threads +{said}", capsys.readouterr().out, re.MULTILINE)


@pytest.mark.parametrize("name", ["AMX", "AVX-512 BF16", None])
def test_doctor_names_the_instructions_for_bfloat16(capsys, monkeypatch, name):
    monkeypatch.setattr(kernels, "bfloat16_instructions", lambda: name)
    assert main(["doctor"]) == 0
    (line,) = re.findall(r"^bfloat16 +(.*)$", capsys.readouterr().out, re.MULTILINE)
    if name is None:
        assert line.startswith("no faster than float32")
    else:
        assert f"faster than float32 in training, with {name}" in line


def test_the_kernels_can_be_chosen_on_the_command_line(capsys):
    before = kernels._choice
    try:
        assert main(["doctor", "--kernels", "plain"]) == 0
        assert re.search(r"^kernels +plain: requested", capsys.readouterr().out, re.MULTILINE)
    finally:
        kernels.use(before or "auto")


def test_doctor_looks_at_every_package_of_the_extras():
    project = tomllib.loads(Path(__file__).parents[2].joinpath("pyproject.toml").read_text())
    wanted = project["project"]["optional-dependencies"]
    for extra, (_, modules) in EXTRAS.items():
        named = {module.partition(".")[0] for module in modules}
        assert named == {re.split("[><=;]", package)[0].strip() for package in wanted[extra]}
    others = {"cuda12", "cuda13", "lessons", "dev"}  # the device; what other extras have; tests
    assert wanted.keys() == EXTRAS.keys() | others
