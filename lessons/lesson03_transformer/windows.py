"""Lesson 2's model with longer windows."""

from dataclasses import replace

from lessons import course
from lessons.lesson02_training.loop import bits_per_byte, context_for, learn
from minimtp.engine.flat import parameter_count
from minimtp.training.data.corpus import Corpus

RATE, OTHER_RATES = 1e-2, (3e-3, 3e-2)  # learning rates


def train_window(
    lesson: course.Lesson, corpus: Corpus, seen: int, rate: float
) -> tuple[int, float]:
    """Train a model that sees `seen` bytes. Return its parameters and its loss in bits per byte."""
    recipe = replace(lesson.recipe, learning_rate=rate)
    texts = corpus.validation_windows(
        recipe.evaluation_tokens, context_length=context_for(seen, recipe)
    )
    model = learn(recipe, corpus, lesson.device, texts[:8], seen=seen).model
    return parameter_count(model), bits_per_byte(model, texts, lesson.device)
