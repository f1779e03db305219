"""Lesson 9: python -m lessons.lesson09_int4"""

from lessons import course
from lessons.lesson09_int4.plot import draw
from lessons.lesson09_int4.variants import DECODED, FLOAT, KERNEL, LOOP, ROWS, Race, shapes
from minimtp import kernels


def main(lesson: course.Lesson) -> None:
    """Why are 4-bit weights slower to multiply than float32 weights, and how can they be faster?"""
    which, why = kernels.describe(lesson.device.name)
    print("products with one row")
    if which == "plain":
        print(
            f"no compiled kernels ({why}): no loops here, and the kernel is array code that keeps floats"
        )
    speeds, limits = {}, {}
    for outputs, inputs in shapes(lesson.recipe.hidden_size):
        race = Race(outputs, inputs, lesson.device)
        speeds[race.size], limits[race.size] = (
            race.speeds(),
            {name: race.memory(name) for name in (FLOAT, KERNEL)},
        )
        print(f"\n{race.size} weights")
        for name, speed in speeds[race.size].items():
            print(f"  {name:<25}{speed:>8.2f} Gweight/s")
        for name, speed in limits[race.size].items():
            print(f"  read {name.partition(',')[0]:<20}{speed:>8.2f} Gweight/s")

    costs = {name: race.cost_of_rows(name) for name in (FLOAT, KERNEL)}
    print(
        "\nthe time of T rows over the time of one"
        + "".join(f"  T = {rows:<3}" for rows in ROWS[1:])
    )
    for name, cost in costs.items():
        print(f"  {name:<36}" + "".join(f"{c:>7.2f} x" for c in cost[1:]))
    print("\nhow far a row's result moves in the company of seven others")
    for name in costs:
        print(f"  {name:<36}{race.change_in_company(name):>9.0e}")

    lesson.save_plot(draw, speeds, limits, costs, size=(15, 4.6))
    slow, how = (
        (LOOP, "multiplied in a loop") if LOOP in race.contenders else (DECODED, "decoded first")
    )
    before, now = (f"{speeds[race.size][name]:.2f} Gweight/s" for name in (slow, KERNEL))
    lesson.result(
        f"one row with {race.size} weights of 4 bits", (how, before), ("by the kernel", now)
    )


if __name__ == "__main__":
    course.run(9, main)
