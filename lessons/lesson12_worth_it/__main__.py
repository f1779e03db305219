"""Lesson 12: python -m lessons.lesson12_worth_it"""

from lessons import course
from lessons.lesson12_worth_it import core, report
from lessons.lesson12_worth_it.plot import draw
from minimtp.plan.candidates import BOTH, candidates
from minimtp.plan.command import MEASURED_SETTINGS
from minimtp.plan.costs.sizes import ModelSize, hardware, model
from minimtp.plan.measure_run import from_run
from minimtp.plan.planning import make_plan
from minimtp.plan.settings import Settings

CARD = "Llama 3.1 8B on one H100"
HERE = "SmolLM2-135M on one core here"
SMOLLM2 = ModelSize(
    hidden_size=576,
    intermediate_size=1536,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
    vocab_size=49_152,
    tie_word_embeddings=True,
    title="SmolLM2-135M",
)


def main(lesson: course.Lesson) -> None:
    """Is it worth it: on which machine, for which model, and for how many requests at a time?"""
    card, settings = hardware("h100"), Settings()
    found = candidates(model("8b"), card, settings)
    large = make_plan(found, card, settings, with_service=False)
    report.show_wrong_way(large)

    width = lesson.recipe.hidden_size
    products = core.measure(64 * width, 32 * width, lesson.device)
    report.show_products(products)
    this_core = core.as_hardware(products, lesson.device)
    small_settings = Settings(draft_vocabulary=8_192)
    found = candidates(SMOLLM2, this_core, small_settings)
    small = make_plan(found, this_core, small_settings, with_service=False)
    report.show_speedups(CARD, large)
    report.show_break_even(large)
    report.show_speedups(HERE, small)

    found, machine, _, lengths = from_run(lesson.trained(5))
    own = Settings(**MEASURED_SETTINGS | lengths)
    report.show_measured(make_plan(found, machine, own, with_service=False))
    if lesson.details:
        report.show_service(large, card, settings)
        report.show_judgements(small)

    lesson.save_plot(draw, products, {CARD: large, HERE: small}, size=(17, 4.8))
    speedups = dict(large.speedups[BOTH])
    one, full = (f"{speedups[batch]:.2f} x" for batch in (1, 256))
    title = f"speed-up of MTP + QAT int4, {CARD}, predicted"
    lesson.result(title, ("one request at a time", one), ("256 requests at a time", full))


if __name__ == "__main__":
    course.run(12, main)
