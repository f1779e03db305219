"""Lesson 3: python -m lessons.lesson03_transformer"""

from dataclasses import replace

from lessons import course
from lessons.lesson02_training.loop import bits_per_byte, context_for, learn
from lessons.lesson03_transformer.analysis import attention, bits_by_position, largest_change_before
from lessons.lesson03_transformer.plot import draw
from minimtp.backend import to_device
from minimtp.engine.flat import parameter_count
from minimtp.training.checkpoint import load
from minimtp.training.data.corpus import open_corpus

SNIPPET = "def area(width, height):\n    return width * height\n"


def main(lesson: course.Lesson) -> None:
    """How can a model use all that was written before, and not just the last eight bytes?"""
    recipe, device, corpus = lesson.recipe, lesson.device, open_corpus()
    held_out = corpus.validation_windows(
        recipe.evaluation_tokens, context_length=recipe.context_length
    )  # (W, T + 1)
    windows, middle = {}, recipe.context_length // 2
    for seen in (8, recipe.context_length // 4, middle):
        trained = learn(
            replace(recipe, learning_rate=1e-2), corpus, device, held_out[:8], seen=seen
        )
        texts = corpus.validation_windows(
            recipe.evaluation_tokens, context_length=context_for(seen, recipe)
        )
        windows[seen] = bits_per_byte(trained.model, texts, device)
        print(
            f"window of {seen:<3} {parameter_count(trained.model):>9,} parameters  {windows[seen]:.2f} bits per byte"
        )

    run = load(lesson.trained(), device.name)
    bits = bits_by_position(run.model, to_device(held_out, device))  # (T,)
    print(
        f"transformer   {parameter_count(run.model):>9,} parameters  {bits.mean():.2f} bits per byte"
    )
    print(
        f"  with less than 8 bytes before {bits[:8].mean():.2f} bits, with {middle} or more {bits[middle:].mean():.2f} bits"
    )
    change = largest_change_before(run.model, to_device(held_out[:4, :-1], device), middle)
    print(f"  another byte at place {middle} changes the logits before it by {change:g}")

    lesson.save_plot(draw, windows, bits, attention(run, SNIPPET), SNIPPET, size=(13, 4.6))
    lesson.result(
        "bits per byte",
        ("a window of 8", f"{windows[8]:.2f} bits"),
        ("a transformer", f"{bits.mean():.2f} bits"),
    )


if __name__ == "__main__":
    course.run(3, main)
