"""Lesson 1: python -m lessons.lesson01_autograd"""

from lessons import course
from lessons.lesson01_autograd.examples import EXAMPLES, ForgetfulSiLU, by_backward, network
from lessons.lesson01_autograd.finite_differences import difference, differences
from lessons.lesson01_autograd.plot import draw
from minimtp.engine.gradcheck import check_gradients


def main(lesson: course.Lesson) -> None:
    """How does a program know the derivative of what it computes?"""
    costs = []
    for hidden in (3, 10, 30, 100):
        loss, weights = network(hidden, lesson.device.xp)
        slow, tried = course.timed(differences, loss, weights)
        fast, (exact, _) = course.timed(by_backward, loss, weights, repeats=10)
        costs.append((sum(array.size for array in weights), slow, fast))
    print(f"{costs[-1][0]:,} derivatives of one loss")
    print(f"  by central differences  {2 * costs[-1][0]:,} evaluations of it")
    print(
        f"  by backward             1 evaluation and one walk back; they differ by {float(abs(exact - tried[0]).max()):.0e}"
    )

    errors = {}
    for name, (operation, inputs) in EXAMPLES.items():
        errors[name] = check_gradients(course.applied(operation), inputs, name=name)
    worst = max(errors, key=errors.get)
    print(
        f"\n{len(errors)} operations checked one by one: largest error {errors[worst]:.0e}, {worst}"
    )
    try:
        check_gradients(
            course.applied(ForgetfulSiLU), EXAMPLES["SiLU"][1], name="SiLU without the product rule"
        )
    except AssertionError as error:
        print(f"a wrong one is caught. {error}")
    errors["forgetful SiLU"] = check_gradients(
        course.applied(ForgetfulSiLU), EXAMPLES["SiLU"][1], tolerance=1e9
    )

    steps, exact = [10.0**-k for k in range(1, 13)], float(exact[0, 0])
    lesson.save_plot(
        draw, costs, steps, [abs(difference(loss, weights, 0, 0, h) - exact) for h in steps], errors
    )
    lesson.result(
        "one gradient",
        ("central differences", f"{1e3 * slow:.2f} ms"),
        ("backward", f"{1e3 * fast:.2f} ms"),
    )


if __name__ == "__main__":
    course.run(1, main)
