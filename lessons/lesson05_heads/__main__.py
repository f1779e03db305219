"""Lesson 5: python -m lessons.lesson05_heads"""

from lessons import course
from lessons.lesson05_heads.plot import draw, draw_acceptance
from lessons.lesson05_heads.predictions import (
    correct,
    correct_in_a_row,
    correct_so_far,
    predictions,
    predictions_without_heads,
)
from lessons.lesson05_heads.report import report
from minimtp.backend import to_device
from minimtp.engine.flat import parameter_count
from minimtp.formats.load import load
from minimtp.training.data.corpus import open_corpus

KINDS = ("parallel", "sequential", "token_conditioned")


def main(lesson: course.Lesson) -> None:
    """Can a model predict more than one token per forward pass?"""
    recipe, device, depth = lesson.recipe, lesson.device, lesson.recipe.draft_depth
    windows = open_corpus().validation_windows(
        recipe.evaluation_tokens // 2, sequence_length=recipe.context_length, depth=depth
    )  # (W, T + 1 + K)
    on_device = to_device(windows, device)
    trunk = load(lesson.trained(3), device.name).model
    runs = {
        kind: load(lesson.trained(name=kind, heads=kind, tokens=recipe.tokens // 8), device.name)
        for kind in KINDS
    }
    runs["token_conditioned, 8x"] = load(lesson.trained(), device.name)
    predicted = {"no heads": predictions_without_heads(trunk, on_device, depth)}
    predicted |= {name: predictions(run.model, on_device) for name, run in runs.items()}
    right = {name: correct(tokens, windows) for name, tokens in predicted.items()}

    sizes = {name: f"{parameter_count(run.model.heads):,}" for name, run in runs.items()}
    shares = {name: list(each.mean(axis=(0, 1))) for name, each in right.items()}
    title = "correct at each distance, if the heads read the true bytes"
    report(title, shares, {"parameters": "", "no heads": "0"} | sizes)
    in_a_row = {name: f"{correct_in_a_row(each):.2f}" for name, each in right.items()}
    shares = {name: correct_so_far(each) for name, each in right.items()}
    title = "correct, among the positions where all nearer predictions are correct"
    report(title, shares, {"in a row": ""} | in_a_row)

    drafters = runs["parallel"], runs["token_conditioned"]  # trained on equally many bytes
    lesson.save_plot(draw, right, windows, *drafters, size=(13, 4.4))
    lesson.save_plot(draw_acceptance, predicted, size=(5, 3.8), name="acceptance.png")
    before, now = in_a_row["no heads"], in_a_row["token_conditioned, 8x"]
    lesson.result("correct predictions from one pass", ("no heads", before), ("heads", now))


if __name__ == "__main__":
    course.run(5, main)
