"""Lesson 7: python -m lessons.lesson07_quantization"""

from lessons import course
from lessons.lesson07_quantization.plot import draw
from lessons.lesson07_quantization.quantized import Judge, errors_in_steps, misread, noise, products
from minimtp.quant.grids.registry import Q4_0
from minimtp.quant.ptq.methods import METHODS
from minimtp.training.checkpoint import load
from minimtp.training.data.corpus import open_corpus

STEPS = {
    "a step for all": "restricted-tensor",
    "a step a row": "restricted-channel",
    "a step for 32": "ggml-signed-g32",
}


def main(lesson: course.Lesson) -> None:
    """How few bits can a weight have, and how much quality is lost with each bit we remove?"""
    run = load(lesson.trained(3), lesson.device.name)
    judge = Judge(run.model, open_corpus(), lesson.device, lesson.recipe.evaluation_tokens // 2)
    before = judge.bits_per_byte(run.model)
    print(f"float32                 32.00 bits a weight  noise  0.0 %  {before:.3f} bits per byte")
    for bits in (8, 4, 2):
        for name, policy in STEPS.items():
            found, share = (
                judge.rounded(f"int{bits}-{policy}"),
                100 * noise(run.model, f"int{bits}-{policy}"),
            )
            size = f"{found.bits_per_weight:>5.2f} bits a weight  noise {share:>4.1f} %"
            print(f"{bits} bits, {name:<16}{size}  {found.bits_per_byte:.3f} bits per byte")
    print(
        f"4 bits in the wrong places                            {judge.bits_per_byte(misread(run.model)):.3f} bits per byte"
    )

    weight, error, clipped = errors_in_steps(Q4_0, products(run.model)[0])
    within, beyond, share = abs(error[~clipped]).max(), abs(error).max(), 100 * clipped.mean()
    print(
        f"\nq4_0: errors of at most {within:.1f} steps; {beyond:.1f} where the grid ends, for {share:.1f} % of the weights\n"
    )
    methods = {}
    for method in METHODS:
        found = methods[method] = {
            bits: judge.rounded(f"int{bits}-ggml-signed-g32", method) for bits in (2, 3, 4)
        }
        print(
            f"{method:<11}"
            + ", ".join(
                f"{bits} bits a code: {found[bits].bits_per_byte:.3f} bits" for bits in found
            )
        )
    lesson.save_plot(
        draw, products(run.model)[0], (weight, error, clipped), methods, before, size=(14, 4.6)
    )
    lesson.result(
        "bits a weight",
        ("float32", "32.00 bits"),
        ("4 bits a code", f"{found[4].bits_per_weight:.2f} bits"),
    )


if __name__ == "__main__":
    course.run(7, main)
