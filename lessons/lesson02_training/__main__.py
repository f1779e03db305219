"""Lesson 2: python -m lessons.lesson02_training"""

from dataclasses import replace

from lessons import course
from lessons.lesson02_training.loop import Descent, bits_per_byte, learn
from lessons.lesson02_training.plot import draw
from minimtp.training.data.corpus import Corpus, open_corpus


def main(lesson: course.Lesson) -> None:
    """How does text turn random numbers into a model, and how do we know that it did?"""
    recipe, device, corpus = lesson.recipe, lesson.device, open_corpus()
    held_out = corpus.validation_windows(
        recipe.evaluation_tokens, context_length=recipe.context_length
    )  # (W, T + 1)
    watch = held_out[:: max(1, len(held_out) // 32)]

    descents = {}
    for rate in (0.1, 1.0, 3.0):
        descents[rate] = learn(replace(recipe, learning_rate=rate), corpus, device, watch, Descent)
        bits = bits_per_byte(descents[rate].model, held_out, device)
        fate = (
            f"{bits:.2f} bits per byte"
            if descents[rate].alive
            else "the loss is not a number any more"
        )
        print(f"gradient descent, rate {rate:<5g}  {fate}")
    adam = learn(recipe, corpus, device, watch)
    bits = bits_per_byte(adam.model, held_out, device)
    print(f"AdamW, rate {recipe.learning_rate:<16g}  {bits:.2f} bits per byte")

    little = Corpus(
        "a little", [("text", corpus.tokenizer.decode_bytes(corpus.train[:25_000])[:20_000])]
    )
    memorized = learn(recipe, little, device, watch)
    seen = little.batch(0, seed=1, batch_size=64, context_length=recipe.context_length)
    print(f"\nAdamW on the same {little.train_bytes:,} bytes again and again")
    print(f"  on these bytes     {bits_per_byte(memorized.model, seen, device):.2f} bits per byte")
    print(
        f"  on held-out text   {bits_per_byte(memorized.model, held_out, device):.2f} bits per byte"
    )

    lesson.save_plot(draw, descents, adam, memorized)
    lesson.result(
        "bits per byte",
        ("untrained", f"{adam.watched[0][1]:.2f} bits"),
        ("a window of 8", f"{bits:.2f} bits"),
    )


if __name__ == "__main__":
    course.run(2, main)
