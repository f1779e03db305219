"""Lesson 9: python -m lessons.lesson09_int4"""

from lessons import course
from lessons.lesson09_int4.plot import draw
from lessons.lesson09_int4.variants import FLOAT, KERNEL, ROW_BY_ROW, ROWS, Matrix, shapes
from minimtp import kernels


def main(lesson: course.Lesson) -> None:
    """Why are 4-bit weights slower to multiply than float32 weights, and how can they be faster?"""
    kind, reason = kernels.describe(lesson.device.name)
    print("matrix products with one row")
    if kind == "plain":
        print(f"no compiled kernels ({reason}), so no loops; the kernel is array code with floats")
    sizes = shapes(lesson.recipe.hidden_size)
    small = Matrix(*sizes[0], lesson.device)
    print("\nlargest error of an output, over the largest output")
    for name, error in small.errors().items():
        print(f"  {name:<36}{error:>9.0e}")
    print(f"  {'kernel and the sums of exercise 1':<36}{small.difference_from_sums():>9.0e}")

    speeds, limits = {}, {}
    for outputs, inputs in sizes:
        matrix = Matrix(outputs, inputs, lesson.device)
        speeds[matrix.size] = matrix.speeds()
        limits[matrix.size] = {name: matrix.read_speed(name) for name in (FLOAT, KERNEL)}
        print(f"\n{matrix.size} weights")
        for name, speed in speeds[matrix.size].items():
            print(f"  {name:<25}{speed:>8.2f} Gweight/s")
        for name, speed in limits[matrix.size].items():
            print(f"  read {name.partition(',')[0]:<20}{speed:>8.2f} Gweight/s")

    costs = {name: matrix.cost_of_rows(name) for name in (FLOAT, ROW_BY_ROW, KERNEL)}
    columns = "".join(f"{f'T = {rows}':>9}" for rows in ROWS[1:])
    print(f"\n{'time for T rows over the time for one':<38}{columns}")
    for name, cost in costs.items():
        print(f"  {name:<36}" + "".join(f"{c:>7.2f} x" for c in cost[1:]))
    print(f"  {'copying the float32 weights':<36}{matrix.cost_of_copying():>7.2f} x")
    print("\nchange of a row's result if seven other rows are present")
    for name in costs:
        print(f"  {name:<36}{matrix.change_in_batch(name):>9.0e}")

    lesson.save_plot(draw, speeds, limits, costs, size=(16, 4.8))
    before, now = ((name, f"{speeds[matrix.size][name]:.2f} Gweight/s") for name in (FLOAT, KERNEL))
    lesson.result(f"one row, {matrix.size} weights", before, now)


if __name__ == "__main__":
    course.run(9, main)
