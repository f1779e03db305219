"""The lessons run on arrays of a GPU.

This is a separate file so that it can run in parallel with other slow tests.
"""

import importlib

import pytest

from lessons import course
from minimtp.training.presets import PRESETS


@pytest.mark.parametrize(
    "number", range(1, len(course.NAMES) + 1), ids=lambda number: course.NAMES[number - 1]
)
@pytest.mark.slow
def test_a_lesson_runs_on_device_arrays(number, device, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # The stand-in for a GPU is slow, so train and evaluate on little text.
    small = PRESETS["tiny"] | {"tokens": 1024, "evaluation_tokens": 1024}
    monkeypatch.setitem(PRESETS, "tiny", small)
    main_module = importlib.import_module(f"lessons.{course.NAMES[number - 1]}.__main__")
    monkeypatch.setattr(main_module, "TEXTS", 6, raising=False)
    course.run(number, main_module.main, ["--device", "cuda", "--preset", "tiny"])
