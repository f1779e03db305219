"""The tests of the exercises accept right solutions and reject wrong ones."""

import pytest

from tests.exercise_mutants import exercises, lessons_with_solutions, solutions
from tests.exercise_mutants.runner import outcomes_of

# An error that shows that the solution is not what its author meant to write.
SLIPS = ("NameError", "UnboundLocalError", "SyntaxError", "ImportError", "ModuleNotFoundError")


def named(kind):
    """Return the parameters (lesson, number, source) of all right or wrong solutions."""
    return [
        pytest.param(lesson, number, source, id=f"{lesson}.{number} {name}")
        for lesson in lessons_with_solutions()
        for number, both in solutions(lesson).items()
        for name, source in getattr(both, kind).items()
    ]


@pytest.mark.parametrize("lesson", lessons_with_solutions())
def test_every_exercise_has_five_wrong_and_two_right_solutions(lesson):
    assert [*solutions(lesson)] == [*range(1, len(exercises(lesson)) + 1)]
    for both in solutions(lesson).values():
        assert len(set(both.wrong.values())) >= 5 and len(set(both.right.values())) >= 2


@pytest.mark.slow
@pytest.mark.parametrize(("lesson", "number", "source"), named("right"))
def test_the_command_of_the_text_accepts_a_right_solution(lesson, number, source, tmp_path):
    outcomes = outcomes_of(lesson, number, source, tmp_path)
    wanted = {"passed"} if exercises(lesson)[number - 1].selects else {"passed", "open"}
    assert "passed" in {outcome for outcome, *_ in outcomes}, "no test of this exercise ran"
    for outcome, test, message in outcomes:
        assert outcome in wanted, f"{test}: {outcome}\n{message}"


@pytest.mark.slow
@pytest.mark.parametrize(("lesson", "number", "source"), named("wrong"))
def test_the_command_of_the_text_rejects_a_wrong_solution(lesson, number, source, tmp_path):
    selects = exercises(lesson)[number - 1].selects
    failed = [
        (test, message)
        for outcome, test, message in outcomes_of(lesson, number, source, tmp_path, stop=selects)
        if outcome == "failed"
    ]
    assert failed, "all tests passed, or the first one that did not needs a later exercise"
    for test, message in failed:
        assert not any(f"{slip}:" in message for slip in SLIPS), f"{test}\n{message}"
