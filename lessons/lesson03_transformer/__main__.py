"""Lesson 3: python -m lessons.lesson03_transformer"""

from lessons import course
from lessons.lesson02_training.sample import write
from lessons.lesson03_transformer import analysis
from lessons.lesson03_transformer.plot import draw
from lessons.lesson03_transformer.windows import OTHER_RATES, RATE, train_window, variants
from minimtp.backend import to_device
from minimtp.engine.flat import parameter_count
from minimtp.formats.load import load
from minimtp.training.data.corpus import open_corpus

SNIPPET = "def f(width):\n  return width\n"


def main(lesson: course.Lesson) -> None:
    """How can a model use all of the text before a position, and not just the last eight bytes?"""
    recipe, device, corpus = lesson.recipe, lesson.device, open_corpus()
    length, middle = recipe.context_length, recipe.context_length // 2
    held_out = corpus.validation_windows(recipe.evaluation_tokens, sequence_length=length)
    windows = {}
    for name, (seen, units) in variants(length, recipe.hidden_size).items():
        parameters, loss = train_window(lesson, corpus, seen, units, RATE)
        windows[name] = seen, loss
        report(name, parameters, loss)
        for rate in OTHER_RATES if lesson.details else ():
            _, loss = train_window(lesson, corpus, seen, units, rate)
            print(f"  rate {rate:<7g}{loss:>36.2f} bits per byte")

    run = load(lesson.trained(), device.name)
    model, tokens = run.model, to_device(held_out, device)  # (W, T + 1)
    bits = analysis.bits_by_position(model, tokens)  # (T,)
    report("transformer", parameter_count(model), bits.mean())
    last_eight = analysis.bits_from_last(model, tokens, 8)
    print(f"  after at least 8 bytes{bits[7:].mean():>26.2f} bits per byte")
    print(f"  after at least 8 bytes, seeing only 8{last_eight:>11.2f} bits per byte")
    change = analysis.max_change_before(model, tokens[:4, :-1], middle)
    print(f"  a different byte at position {middle} changes the logits before it by {change:g}")
    difference = analysis.attention_written_out(model, tokens[:1, :-1])
    print(f"  attention in plain code differs from the model's by {difference:.0e}")

    def logits_of(text):
        return analysis.next_logits(model, to_device(text[:, -length:], device))

    print(f"\nthe transformer writes\n{course.quoted(write(logits_of, corpus.tokenizer))}")
    maps = analysis.attention(run, SNIPPET)
    lesson.save_plot(draw, windows, bits, last_eight, maps, SNIPPET, size=(13, 4.4))
    lesson.result(
        "bits per byte",
        ("a window of 8", f"{windows['window of 8'][1]:.2f} bits"),
        ("a transformer", f"{bits.mean():.2f} bits"),
    )


def report(name: str, parameters: int, bits: float) -> None:
    print(f"{name:<24}{parameters:>9,} parameters  {bits:.2f} bits per byte")


if __name__ == "__main__":
    course.run(3, main)
