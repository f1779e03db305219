"""Lesson 7: python -m lessons.lesson07_quantization"""

from lessons import course
from lessons.lesson07_quantization.plot import draw
from lessons.lesson07_quantization.quantized import Evaluator, errors_in_scales, matrices, misread
from minimtp.formats.load import load
from minimtp.quant.grids import Q4_0
from minimtp.quant.ptq.methods import METHODS
from minimtp.training.data.corpus import open_corpus

GROUPS = {
    "one scale per matrix": "tensor",
    "one scale per row": "channel",
    "one scale per 32": "g32",
}
RULES = {"symmetric": "restricted", "affine": "affine"}  # instead of ggml-signed


def main(lesson: course.Lesson) -> None:
    """How few bits can a weight have, and how much quality is lost with each bit we remove?"""
    model, corpus = load(lesson.trained(3), lesson.device.name).model, open_corpus()
    evaluator = Evaluator(model, corpus, lesson.device, lesson.recipe.evaluation_tokens // 2)
    before = evaluator.bits_per_byte(model)
    print(f"{'float32':<29}{evaluator.describe()}")
    for bits in (8, 4, 2):
        for name, group in GROUPS.items():
            described = evaluator.describe(f"int{bits}-ggml-signed-{group}")
            print(f"{f'{bits} bits, {name}':<29}{described}")
    for name, policy in RULES.items():
        print(f"{f'2 bits, {name}, per 32':<29}{evaluator.describe(f'int2-{policy}-g32')}")
    wrong = evaluator.bits_per_byte(misread(model))
    print(f"{'4 bits in the wrong places':<66}{wrong:>6.3f} bits per byte")

    first = matrices(model)[0]
    weights, errors, clipped = errors_in_scales(Q4_0, first)
    bound, bound_of_clipped = abs(errors[~clipped]).max(), abs(errors).max()
    outliers = f"for the {100 * clipped.mean():.1f} % of the weights that are clipped"
    print(f"\nq4_0: errors of at most {bound:.1f} scales; {bound_of_clipped:.1f} scales {outliers}")
    print("\nbits per byte" + "".join(f"   {bits}-bit codes" for bits in (2, 3, 4)))
    methods = {}
    for method in METHODS:
        methods[method] = found = {
            bits: evaluator.quantized(f"int{bits}-ggml-signed-g32", method) for bits in (2, 3, 4)
        }
        print(f"{method:<14}" + " ".join(f"{f.bits_per_byte:>8.3f} bits" for f in found.values()))
    for method in ("rtn", "hqq"):
        loss = evaluator.quantized("q4_1", method).bits_per_byte
        print(f"{method + ', a minimum per group':<40}{loss:>6.3f} bits")
    lesson.save_plot(draw, first, (weights, errors, clipped), methods, before, size=(14, 8.4))
    smallest = f"{found[4].bits_per_weight:.2f} bits"
    lesson.result("bits per weight", ("float32", "32.00 bits"), ("4-bit codes", smallest))


if __name__ == "__main__":
    course.run(7, main)
