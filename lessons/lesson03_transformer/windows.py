"""Lesson 2's model with longer windows, and with more hidden units."""

from dataclasses import replace

from lessons import course
from lessons.lesson02_training.loop import bits_per_byte, context_for, learn
from minimtp.engine.flat import parameter_count
from minimtp.training.data.corpus import Corpus

RATE, OTHER_RATES = 1e-2, (3e-3, 3e-2)  # learning rates


def variants(context_length: int, hidden_size: int) -> dict[str, tuple[int, int]]:
    """Return {name: (bytes that the model sees, hidden units)}. The first is lesson 2's model."""
    units = 2 * hidden_size
    lengths = (8, context_length // 4, context_length // 2)
    longer = {f"window of {seen}": (seen, units) for seen in lengths}
    return longer | {f"window of 8, {2 * units} units": (8, 2 * units)}


def train_window(
    lesson: course.Lesson, corpus: Corpus, seen: int, units: int, rate: float
) -> tuple[int, float]:
    """Train a model that sees `seen` bytes. Return its parameters and its loss in bits per byte."""
    recipe = replace(lesson.recipe, learning_rate=rate)
    texts = corpus.validation_windows(
        recipe.evaluation_tokens, sequence_length=context_for(seen, recipe)
    )
    model = learn(recipe, corpus, lesson.device, texts[:8], seen=seen, units=units).model
    return parameter_count(model), bits_per_byte(model, texts, lesson.device)
