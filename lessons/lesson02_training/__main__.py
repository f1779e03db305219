"""Lesson 2: python -m lessons.lesson02_training"""

from dataclasses import replace

from lessons import course
from lessons.lesson02_training.loop import Descent, UnclippedDescent, bits_per_byte, learn
from lessons.lesson02_training.plot import draw
from lessons.lesson02_training.sample import write
from minimtp.backend import to_device
from minimtp.engine.optim import AdamW
from minimtp.training.data.corpus import Corpus, open_corpus

RUNS = {  # what is trained, with which learning rates
    "gradient descent, not clipped": (UnclippedDescent, (3.0,)),
    "gradient descent": (Descent, (1.0, 3.0, 10.0)),
    "AdamW": (AdamW, (3e-3, 1e-2, 3e-2)),
}


def main(lesson: course.Lesson) -> None:
    """How does training make a language model, and how do we know it worked?"""
    recipe, device, corpus = lesson.recipe, lesson.device, open_corpus()
    length = recipe.context_length
    held_out = corpus.validation_windows(recipe.evaluation_tokens, sequence_length=length)
    sample = held_out[:: max(1, len(held_out) // 32)]

    runs = {name: {} for name in RUNS}
    for name, (optimizer, rates) in RUNS.items():
        print(name)
        for rate in rates:
            settings = replace(recipe, learning_rate=rate)
            run = runs[name][rate] = learn(settings, corpus, device, sample, optimizer)
            outcome = "diverges (the loss is NaN or infinite)"
            if not run.diverged:
                outcome = f"{bits_per_byte(run.model, held_out, device):.2f} bits per byte"
            print(f"  rate {rate:<7g}  {outcome}")
    adam = runs["AdamW"][1e-2]

    start_of_text = corpus.tokenizer.decode_bytes(corpus.train[:25_000])[:20_000]
    small = Corpus("a small corpus", [("text", start_of_text)])
    memorized = learn(recipe, small, device, sample)
    seen = small.batch(0, seed=1, batch_size=64, sequence_length=length)
    print(f"\nAdamW on the same {small.train_bytes:,} bytes again and again")
    for name, windows in (("on these bytes", seen), ("on held-out text", held_out)):
        print(f"  {name:<16}   {bits_per_byte(memorized.model, windows, device):.2f} bits per byte")

    model = adam.model
    text = write(lambda tokens: model.next_logits(to_device(tokens, device)), corpus.tokenizer)
    print(f"\nthe trained model writes\n{course.quoted(text)}")
    lesson.save_plot(draw, runs, adam, memorized, size=(13, 4.2))
    lesson.result(
        "bits per byte",
        ("untrained", f"{adam.held_out[0][1]:.2f} bits"),
        ("a window of 8", f"{bits_per_byte(adam.model, held_out, device):.2f} bits"),
    )


if __name__ == "__main__":
    course.run(2, main)
