"""Lesson 8: python -m lessons.lesson08_qat"""

from dataclasses import replace

from lessons import course
from lessons.lesson07_quantization.quantized import Evaluator
from lessons.lesson08_qat.derivatives import max_differences, share_without_slope
from lessons.lesson08_qat.finetune import Finetuner, WeightHistory, grid_name, round_after_step
from lessons.lesson08_qat.plot import draw
from minimtp.formats.load import load
from minimtp.training.data.corpus import open_corpus

QAT = {"QAT": {}, "QAT + teacher": {"distill": 0.7}, "QAT + LSQ": {"scales": "learned"}}
METHODS = ("rtn", "gptq", *QAT)


def main(lesson: course.Lesson) -> None:
    """Can a model learn weights that still work after rounding?"""
    model, corpus = load(lesson.trained(3), lesson.device.name).model, open_corpus()
    tokens = max(lesson.recipe.tokens // 16, 1024)
    evaluation_tokens = lesson.recipe.evaluation_tokens // 2
    short = replace(lesson.recipe, tokens=tokens, evaluation_tokens=evaluation_tokens)
    evaluator = Evaluator(model, corpus, lesson.device, evaluation_tokens)
    finetuner = Finetuner(model, corpus, lesson.device, short)
    share, differences = share_without_slope(model), max_differences()
    print(f"the derivative of rounding is 0 for {100 * share:.2f} % of the weights")
    compared = "{:.0e} from the surrogate's, {:.0e} from the step function's".format(*differences)
    print(f"LSQ's derivative for the scale: {compared}\n")

    print(f"float32, as it was              {evaluator.bits_per_byte(model):.3f} bits per byte")
    exact = evaluator.bits_per_byte(finetuner.train(None))
    print(f"float32, trained further        {exact:.3f} bits per byte")
    rounded = finetuner.train(None, after_step=round_after_step(2))
    print(f"2 bits, rounded after each step {evaluator.bits_per_byte(rounded):.3f} bits per byte")

    print("\nbits per byte" + "".join(f"{name:>{width(name)}}" for name in METHODS))
    found, history = {}, WeightHistory(2)
    for bits in (2, 3, 4):
        found[bits] = losses = {}
        for method in ("rtn", "gptq"):
            losses[method] = evaluator.quantized(grid_name(bits), method).bits_per_byte
        for name, settings in QAT.items():
            after_step = history if bits == 2 and name == "QAT" else None
            trained = finetuner.train(bits, **settings, after_step=after_step)
            losses[name] = evaluator.bits_per_byte(trained)
        values = (f"{loss:.3f} bits".rjust(width(name)) for name, loss in losses.items())
        print(f"{bits}-bit codes  " + "".join(values))
    lesson.save_plot(draw, history, found, exact, size=(14, 4.6))
    before, now = found[2]["gptq"], min(found[2][name] for name in QAT)
    title = "bits per byte with 2-bit codes"
    before, now = (f"{loss:.3f} bits" for loss in (before, now))
    lesson.result(title, ("quantized after training", before), ("quantization-aware training", now))


def width(name: str) -> int:
    return max(12, len(name) + 4)


if __name__ == "__main__":
    course.run(8, main)
