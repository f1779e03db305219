"""Lesson 2: python -m lessons.lesson02_training"""

from dataclasses import replace

from lessons import course
from lessons.lesson02_training.loop import Descent, bits_per_byte, learn
from lessons.lesson02_training.plot import draw
from minimtp.training.data.corpus import Corpus, open_corpus


def main(lesson: course.Lesson) -> None:
    """How does training turn random numbers into a language model, and how do we know it worked?"""
    recipe, device, corpus = lesson.recipe, lesson.device, open_corpus()
    length = recipe.context_length
    held_out = corpus.validation_windows(
        recipe.evaluation_tokens, context_length=length
    )  # (W, T + 1)
    sample = held_out[:: max(1, len(held_out) // 32)]

    descents = {}
    for rate in (0.1, 1.0, 3.0):
        descents[rate] = learn(replace(recipe, learning_rate=rate), corpus, device, sample, Descent)
        outcome = "diverges (the loss is NaN or infinite)"
        if not descents[rate].diverged:
            outcome = f"{bits_per_byte(descents[rate].model, held_out, device):.2f} bits per byte"
        print(f"gradient descent, rate {rate:<5g}  {outcome}")
    adam = learn(recipe, corpus, device, sample)
    bits = bits_per_byte(adam.model, held_out, device)
    print(f"AdamW, rate {recipe.learning_rate:<16g}  {bits:.2f} bits per byte")

    start_of_text = corpus.tokenizer.decode_bytes(corpus.train[:25_000])[:20_000]
    small = Corpus("a small corpus", [("text", start_of_text)])
    memorized = learn(recipe, small, device, sample)
    seen = small.batch(0, seed=1, batch_size=64, context_length=length)
    print(f"\nAdamW on the same {small.train_bytes:,} bytes again and again")
    for name, windows in (("on these bytes", seen), ("on held-out text", held_out)):
        value = bits_per_byte(memorized.model, windows, device)
        print(f"  {name:<16}   {value:.2f} bits per byte")

    lesson.save_plot(draw, descents, adam, memorized, size=(13, 4.2))
    untrained = adam.held_out[0][1]
    lesson.result(
        "bits per byte",
        ("untrained", f"{untrained:.2f} bits"),
        ("a window of 8", f"{bits:.2f} bits"),
    )


if __name__ == "__main__":
    course.run(2, main)
