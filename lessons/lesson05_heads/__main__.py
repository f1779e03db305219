"""Lesson 5: python -m lessons.lesson05_heads"""

from lessons import course
from lessons.lesson05_heads.plot import draw
from lessons.lesson05_heads.predictions import (
    correct,
    correct_in_a_row,
    predictions,
    predictions_without_heads,
)
from minimtp.backend import numpy as np
from minimtp.backend import to_device
from minimtp.engine.flat import parameter_count
from minimtp.formats.load import load
from minimtp.training.data.corpus import open_corpus

KINDS = ("parallel", "sequential", "token_conditioned")


def report(name: str, parameters: int, right: np.ndarray) -> None:
    shares = "".join(f"{share:>6.0%}" for share in right.mean(axis=(0, 1)))
    print(f"{name:<18}{parameters:>10,}{correct_in_a_row(right):>9.2f}  {shares}")


def main(lesson: course.Lesson) -> None:
    """Can a model predict more than one token per forward pass?"""
    recipe, device, depth = lesson.recipe, lesson.device, lesson.recipe.draft_depth
    windows = open_corpus().validation_windows(
        recipe.evaluation_tokens // 2, context_length=recipe.context_length, depth=depth
    )  # (W, T + 1 + K)
    on_device = to_device(windows, device)
    print("correct predictions: before the first wrong one, and by distance")
    distances = "".join(f"{k:>6}" for k in range(1, 2 + depth))
    print(f"{'':18}{'parameters':>10}{'in a row':>9}  {distances}")
    trunk = load(lesson.trained(3), device.name).model
    predicted = {"no heads": predictions_without_heads(trunk, on_device, depth)}
    report("no heads", 0, correct(predicted["no heads"], windows))
    runs = {
        kind: load(lesson.trained(name=kind, heads=kind, tokens=recipe.tokens // 8), device.name)
        for kind in KINDS
    }
    runs["8 times the bytes"] = longer = load(lesson.trained(), device.name)
    for name, run in runs.items():
        predicted[name] = predictions(run.model, on_device)
        report(name, parameter_count(run.model.heads), correct(predicted[name], windows))

    lesson.save_plot(draw, predicted, windows, runs["parallel"], longer, size=(13, 4.4))
    before, now = (
        f"{correct_in_a_row(correct(predicted[name], windows)):.2f}"
        for name in ("no heads", "8 times the bytes")
    )
    lesson.result("correct predictions from one pass", ("no heads", before), ("heads", now))


if __name__ == "__main__":
    course.run(5, main)
