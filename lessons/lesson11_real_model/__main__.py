"""Lesson 11: python -m lessons.lesson11_real_model"""

import sys
from pathlib import Path

from lessons import course
from lessons.lesson11_real_model import report
from lessons.lesson11_real_model.recipe import MODEL
from lessons.lesson11_real_model.tiny import make_tiny_model
from minimtp.compare.pretrained.plot import draw
from minimtp.compare.pretrained.run import finish_comparison, make_job, require_equal_texts
from minimtp.compare.pretrained.sizes import SIZES
from minimtp.formats.load import load
from minimtp.training.settings import check_known

DURATION = {"tiny": "a minute", "quick": "half an hour", "laptop": "an hour"}


def main(lesson: course.Lesson) -> None:
    """What do 4-bit weights cost a real language model, and how much faster can it become?"""
    preset = lesson.preset or "quick"
    check_known("preset", preset, SIZES)
    model = lesson.model or MODEL
    if lesson.preset == "tiny" and lesson.model is None:
        model = str(make_tiny_model(lesson.folder, lesson.device.name))
    reference = load(model, lesson.device.name, dequantize=True)
    out = lesson.folder / Path(model).stem
    tell(f"{model}: {reference.model.config.num_layers} layers, results in {out}")
    tell(f"the first run takes about {DURATION[preset]} on two cores; later runs read its results")
    tell("Ctrl-C stops and saves; the same command continues")
    result = finish_comparison(make_job(reference, preset, lesson.device), out, tell)

    report.show_answers(out, reference, lesson.device)
    report.show_files(out)
    report.show(lesson, result["configurations"])
    lesson.save_plot(draw, result["configurations"], size=(14, 4.6))
    require_equal_texts(result["configurations"])


def tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    course.run(11, main)
