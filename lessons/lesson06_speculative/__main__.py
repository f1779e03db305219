"""Lesson 6: python -m lessons.lesson06_speculative"""

from lessons import course
from lessons.lesson06_speculative.formula import print_costs, print_formula
from lessons.lesson06_speculative.measure import (
    MORE_RULES,
    PLAIN,
    RULES,
    measure_depths,
    measure_rules,
)
from lessons.lesson06_speculative.plot import draw, draw_distributions
from lessons.lesson06_speculative.rules import DRAFTED_BYTE, next_byte, total_variation
from minimtp.backend import to_device
from minimtp.decode.drafters.heads import head_drafter
from minimtp.decode.model_runner import ModelRunner
from minimtp.formats.load import load
from minimtp.training.data.corpus import open_corpus

TEXTS = 160  # to continue


def main(lesson: course.Lesson) -> None:
    """How can we use predicted tokens without changing the output of the model?"""
    run, length = load(lesson.trained(5), lesson.device.name), lesson.recipe.context_length
    windows = open_corpus().validation_windows(TEXTS * length, sequence_length=length)
    prompts = windows[:, : length * 3 // 8]  # (P, T)
    p, q = next_byte(run.model, to_device(prompts, lesson.device))  # (P, V) each
    print("a drafted byte: total variation distance from the model's distribution")
    for name, distribution in DRAFTED_BYTE.items():
        print(f"  {name:<42}{100 * total_variation(distribution(p, q), p):>8.2g} %")

    target, depth = ModelRunner(run.model.trunk), run.recipe.draft_depth
    drafter, found = head_drafter(run.model.heads, target), {}
    for temperature in (1, 0):
        names = RULES[temperature]
        by_rule = measure_rules(target, drafter, prompts, temperature, names, depth)
        found[temperature] = by_rule, measure_depths(target, drafter, prompts[::2], temperature)
    print_costs(found[0][1])

    tokenizer = run.tokenizer
    lesson.save_plot(draw_distributions, p, q, tokenizer, size=(5.2, 4.2), name="distributions.png")
    lesson.save_plot(draw, found, tokenizer, size=(9.5, 5))
    before, now = (
        f"{found[0][0][name].tokens_per_second:,.0f} tokens/s" for name in (PLAIN, "greedy")
    )
    title = "generation speed at temperature 0"
    lesson.result(title, (PLAIN, before), ("speculative decoding", now))
    if lesson.details:
        for temperature, names in MORE_RULES.items():
            measure_rules(target, drafter, prompts, temperature, names, depth)
        for temperature, (_, by_depth) in found.items():
            print_formula(temperature, by_depth)


if __name__ == "__main__":
    course.run(6, main)
