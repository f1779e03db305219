"""Lesson 8: python -m lessons.lesson08_qat"""

from dataclasses import replace

from lessons import course
from lessons.lesson07_quantization.quantized import Evaluator
from lessons.lesson08_qat.derivatives import differences, share_without_slope
from lessons.lesson08_qat.finetune import Diary, Tuner, grid_of, rounding_after_steps
from lessons.lesson08_qat.plot import draw
from minimtp.training.checkpoint import load
from minimtp.training.data.corpus import open_corpus

WAYS = {
    "trained": {},
    "with a teacher": {"distill": 0.7},
    "with learned steps": {"scales": "learned"},
}


def main(lesson: course.Lesson) -> None:
    """Can a model learn weights that still work after rounding?"""
    model, corpus, recipe = (
        load(lesson.trained(3), lesson.device.name).model,
        open_corpus(),
        lesson.recipe,
    )
    few = replace(
        recipe,
        tokens=max(recipe.tokens // 16, 1024),
        evaluation_tokens=recipe.evaluation_tokens // 2,
    )
    judge, tuner = (
        Evaluator(model, corpus, lesson.device, few.evaluation_tokens),
        Tuner(model, corpus, lesson.device, few),
    )
    print(
        f"the derivative of rounding is 0 at {100 * share_without_slope(model):.2f} % of the weights"
    )
    print(
        "LSQ's derivative of the step: {:.0e} from the surrogate's, {:.0e} from the staircase's\n".format(
            *differences()
        )
    )
    print(f"float32, as it was           {tuner.bits_per_byte(model):.3f} bits per byte")
    exact, snapped = (
        tuner.bits_per_byte(tuner.tuned(None, after_step=after))
        for after in (None, rounding_after_steps(2))
    )
    print(f"float32, trained on          {exact:.3f} bits per byte")
    print(f"2 bits, rounded at each step {snapped:.3f} bits per byte")
    found, diary = {}, Diary(2)
    for bits in (2, 3, 4):
        found[bits] = {
            method: judge.quantized(grid_of(bits), method).bits_per_byte for method in ("rtn", "gptq")
        }
        for name, settings in WAYS.items():
            watch = {"after_step": diary} if bits == 2 and name == "trained" else {}
            found[bits][name] = tuner.bits_per_byte(tuner.tuned(bits, **settings, **watch))
        print(
            f"{bits} bits a code: "
            + ", ".join(f"{name} {value:.3f} bits" for name, value in found[bits].items())
        )
    lesson.save_plot(draw, diary, found, exact, size=(14, 4.6))
    after, before = (
        f"{min(found[2][name] for name in WAYS):.3f} bits",
        f"{found[2]['gptq']:.3f} bits",
    )
    lesson.result(
        "bits per byte, 2 bits a code",
        ("rounded after training", before),
        ("trained for it", after),
    )


if __name__ == "__main__":
    course.run(8, main)
