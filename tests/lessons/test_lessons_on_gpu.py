"""The lessons run on a GPU's arrays: a file of its own, so that it can be run beside the other slow tests of the lessons."""

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
    monkeypatch.setitem(
        PRESETS, "tiny", PRESETS["tiny"] | {"tokens": 1024, "evaluation_tokens": 1024}
    )  # the stand-in is slow
    story = importlib.import_module(f"lessons.{course.NAMES[number - 1]}.__main__")
    course.run(number, story.main, ["--device", "cuda", "--preset", "tiny"])
