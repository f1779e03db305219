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
WIDTHS = {name: max(12, len(name) + 4) for name in METHODS}


def main(lesson: course.Lesson) -> None:
    """Can a model learn weights that still work after rounding?"""
    model, corpus = load(lesson.trained(3), lesson.device.name).model, open_corpus()
    tokens = max(lesson.recipe.tokens // 16, 1024)
    count = lesson.recipe.evaluation_tokens // 2
    short = replace(lesson.recipe, tokens=tokens, evaluation_tokens=count)
    evaluator = Evaluator(model, corpus, lesson.device, count)
    finetuner = Finetuner(model, corpus, lesson.device, short)
    share = share_without_slope(model)
    print(f"the derivative of rounding is 0 for {100 * share:.2f} % of the weights")
    found = max_differences()
    compared = "{:.0e} from the surrogate's, {:.0e} from the step function's".format(*found)
    print(f"LSQ's derivative for the scale: {compared}\n")

    print(f"float32, as it was              {evaluator.bits_per_byte(model):.3f} bits per byte")
    further = finetuner.train(None)
    exact = evaluator.bits_per_byte(further)
    print(f"float32, trained further        {exact:.3f} bits per byte")
    _, loss = evaluator.quantized(grid_name(2), "gptq")
    print(f"2 bits, gptq of lesson 7        {loss:.3f} bits per byte")
    rounded = finetuner.train(None, after_step=round_after_step(2))
    print(f"2 bits, rounded after each step {evaluator.bits_per_byte(rounded):.3f} bits per byte")
    print("\nbits per byte" + "".join(f"{name:>{WIDTHS[name]}}" for name in METHODS))
    found, history = {}, WeightHistory(2)
    after = Evaluator(further, corpus, lesson.device, count)  # as many steps as QAT
    for bits in (2, 3, 4):
        found[bits] = losses = {}
        for method in ("rtn", "gptq"):
            losses[method] = after.quantized(grid_name(bits), method).bits_per_byte
        for name, settings in QAT.items():
            record = history if bits == 2 and name == "QAT" else None
            trained = finetuner.train(bits, **settings, after_step=record)
            losses[name] = evaluator.bits_per_byte(trained)
        values = (f"{loss:.3f} bits".rjust(WIDTHS[name]) for name, loss in losses.items())
        print(f"{bits}-bit codes  " + "".join(values))
    lesson.save_plot(draw, history, found, exact, size=(12, 8.4))
    before, now = (f"{found[2][method]:.3f} bits" for method in ("gptq", "QAT"))
    title = "bits per byte with 2-bit codes"
    lesson.result(title, ("quantized after training", before), ("QAT", now))


if __name__ == "__main__":
    course.run(8, main)
