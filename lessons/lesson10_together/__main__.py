"""Lesson 10: python -m lessons.lesson10_together"""

from dataclasses import replace

from lessons import course
from lessons.lesson10_together import gptq, report
from lessons.lesson10_together.repetition import recompute_speed
from minimtp.compare.configurations import recipes, train_configurations
from minimtp.compare.measurement import SIZES, choose_prompts, measure_configurations
from minimtp.compare.plot import draw
from minimtp.compare.run import require_equal_texts
from minimtp.training.data.corpus import open_corpus


def main(lesson: course.Lesson) -> None:
    """How much do we gain with all parts together, and when can we trust such a number?"""
    corpus, sizes = open_corpus(), SIZES[lesson.preset or "quick"]
    standard = replace(lesson.recipe, heads="none", draft_depth=None, quantization="none")
    runs = train_configurations(recipes(standard), corpus, lesson.folder, lesson.device.name)
    prompts, count = choose_prompts(corpus, sizes), sizes.max_new_tokens
    found = measure_configurations(runs, corpus, prompts, sizes, lesson.device)
    prompt, path = prompts.held_out[0], lesson.folder / "mtp_int4_gptq"
    gptq.round_with_gptq(lesson.folder / "mtp", path, corpus)
    rounded = gptq.measure(path, found[0], corpus, prompt, count, lesson.device)
    recomputing = recompute_speed(runs["standard"], prompt, count, lesson.device)
    report.show_headline(found, rounded, recomputing)
    report.show_quality([*found, rounded])
    report.show_speeds(found, "temperature 0", "")
    report.show_speeds(found, "temperature 1", "_t1")
    report.show_repetition(runs["standard"], corpus, prompts.held_out, count)
    report.show_claims(found)
    lesson.save_plot(draw, found, size=(14, 4.2))
    before, now = (f"{c['tokens_per_second']:,.0f} tokens/s" for c in (found[0], found[2]))
    require_equal_texts(found)
    lesson.result(
        "generation speed at temperature 0", ("standard model", before), ("heads and int4 QAT", now)
    )


if __name__ == "__main__":
    course.run(10, main)
