"""Lesson 5: python -m lessons.lesson05_heads"""

from lessons import course
from lessons.lesson05_heads.plot import draw
from lessons.lesson05_heads.predictions import come_true, guesses, guesses_without_heads, in_a_row
from minimtp.backend import numpy as np
from minimtp.backend import to_device
from minimtp.engine.flat import parameter_count
from minimtp.training.checkpoint import load
from minimtp.training.data.corpus import open_corpus

KINDS = ("parallel", "sequential", "token_conditioned")


def report(name: str, weights: int, right: np.ndarray) -> None:
    print(
        f"{name:<18}{weights:>10,}{in_a_row(right):>9.2f}  {''.join(f'{share:>6.0%}' for share in right.mean(axis=(0, 1)))}"
    )


def main(lesson: course.Lesson) -> None:
    """Can a model predict more than one token per forward pass?"""
    recipe, device = lesson.recipe, lesson.device
    windows = open_corpus().validation_windows(
        recipe.evaluation_tokens // 2,
        context_length=recipe.context_length,
        depth=recipe.draft_depth,
    )
    print("guesses that come true: in a row, and by distance")
    print(
        f"{'':18}{'weights':>10}{'row':>9}  {''.join(f'{k:>6}' for k in range(1, 2 + recipe.draft_depth))}"
    )
    trunk = load(lesson.trained(3), device.name).model
    guessed = {
        "no heads": guesses_without_heads(trunk, to_device(windows, device), recipe.draft_depth)
    }
    report("no heads", 0, come_true(guessed["no heads"], windows))
    runs = {
        kind: load(lesson.trained(name=kind, heads=kind, tokens=recipe.tokens // 8), device.name)
        for kind in KINDS
    }
    for kind, run in (runs | {"8 times longer": load(lesson.trained(), device.name)}).items():
        guessed[kind] = guesses(run.model, to_device(windows, device))
        report(kind, parameter_count(run.model.heads), come_true(guessed[kind], windows))

    lesson.save_plot(draw, guessed, windows, runs["parallel"], run, size=(13, 4.4))
    before, now = (
        in_a_row(come_true(guessed[kind], windows)) for kind in ("no heads", "8 times longer")
    )
    lesson.result(
        "right guesses from one pass", ("no heads", f"{before:.2f}"), ("heads", f"{now:.2f}")
    )


if __name__ == "__main__":
    course.run(5, main)
