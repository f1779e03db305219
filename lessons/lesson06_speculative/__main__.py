"""Lesson 6: python -m lessons.lesson06_speculative"""

from lessons import course
from lessons.lesson06_speculative.measure import write_all
from lessons.lesson06_speculative.plot import draw
from lessons.lesson06_speculative.rules import ONE_BYTE, distance, next_byte
from minimtp.backend import to_device
from minimtp.decode.drafters.heads import head_drafter
from minimtp.decode.runtime import ModelRunner
from minimtp.formats.load import load
from minimtp.training.data.corpus import open_corpus


def main(lesson: course.Lesson) -> None:
    """How can we use predicted tokens if the output must stay exactly that of the model alone?"""
    run, context_length = load(lesson.trained(5), lesson.device.name), lesson.recipe.context_length
    prompts = open_corpus().validation_windows(160 * context_length, context_length=context_length)[
        :, : context_length * 3 // 8
    ]  # (P, T)
    p, q = next_byte(run.model, to_device(prompts, lesson.device))  # (P, V) each
    print("a drafted byte: how far its law is from the model's")
    for name, law_of in ONE_BYTE.items():
        print(f"  {name:<42}{100 * distance(law_of(p, q), p):>8.2g} %")

    target, written = ModelRunner(run.model.trunk), {}
    drafter = head_drafter(run.model.heads, target)
    for temperature in (1, 0):
        print(f"\ntemperature {temperature}, {run.recipe.draft_depth} drafts a pass")
        written[temperature] = write_all(
            target, drafter, prompts[::4], temperature, run.recipe.draft_depth
        )

    lesson.save_plot(draw, p, q, written, run.tokenizer, size=(14, 5))
    speeds = [
        f"{written[0][way].tokens_per_second:,.0f} tokens/s"
        for way in ("plain decoding", "equal to the argmax")
    ]
    lesson.result(
        "writing at temperature 0", ("a byte a pass", speeds[0]), ("drafts, verified", speeds[1])
    )


if __name__ == "__main__":
    course.run(6, main)
