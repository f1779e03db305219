"""Lesson 1: python -m lessons.lesson01_autograd"""

from lessons import course
from lessons.lesson01_autograd.examples import (
    ForgetfulSiLU,
    by_backward,
    evaluate,
    examples,
    network,
)
from lessons.lesson01_autograd.finite_differences import difference, differences
from lessons.lesson01_autograd.plot import draw
from minimtp.engine.gradcheck import check_gradients


def main(lesson: course.Lesson) -> None:
    """How can a program compute the derivatives of its own result?"""
    costs = []
    for hidden in (3, 10, 30, 100):
        loss, weights = network(hidden, lesson.device.xp)
        count = sum(array.size for array in weights)
        once, _ = course.timed(evaluate, loss, weights, repeats=30)
        fast, exact = course.timed(by_backward, loss, weights, repeats=30)
        costs.append((count, 2 * count * once, fast))
    slow, approximate = 2 * count * once, differences(loss, weights)
    largest = max(float(abs(e - a).max()) for e, a in zip(exact, approximate, strict=True))
    print(f"{count:,} derivatives of one loss")
    print(f"  by central differences  {2 * count:,} evaluations, {1e3 * once:.3f} ms each")
    print(f"  by backpropagation      {fast / once:.1f} x the time of one evaluation")
    print(f"  the largest difference between the two is {largest:.0e}")

    errors, operations = {}, examples()
    for name, (operation, inputs) in operations.items():
        errors[name] = check_gradients(course.applied(operation), inputs, name=name)
    worst = max(errors, key=errors.get)
    worst_error = f"largest error {errors[worst]:.0e} ({worst})"
    print(f"\n{len(errors)} operations checked one by one: {worst_error}")
    wrong, inputs = course.applied(ForgetfulSiLU), operations["SiLU"][1]
    try:
        check_gradients(wrong, inputs, name="SiLU without the product rule")
    except AssertionError as error:
        print(f"a wrong derivative is caught. {error}")
    errors["forgetful SiLU"] = check_gradients(wrong, inputs, tolerance=1e9)

    steps, exact = [10.0**-k for k in range(1, 13)], float(exact[0][0, 0])
    step_errors = [abs(difference(loss, weights, 0, 0, h) - exact) for h in steps]
    lesson.save_plot(draw, costs, steps, step_errors, errors)
    lesson.result(
        "one gradient",
        ("central differences", f"{1e3 * slow:.2f} ms"),
        ("backpropagation", f"{1e3 * fast:.2f} ms"),
    )


if __name__ == "__main__":
    course.run(1, main)
