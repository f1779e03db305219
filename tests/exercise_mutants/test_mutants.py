"""The tests of the exercises accept right solutions and reject wrong ones."""

import pytest

from tests.exercise_mutants import exercises, lessons_with_solutions, solutions
from tests.exercise_mutants.runner import Command

# An error that shows that the solution is not what its author meant to write.
SLIPS = ("NameError", "UnboundLocalError", "SyntaxError", "ImportError", "ModuleNotFoundError")


def cases():
    """Return the parameters (lesson, number, "right" or "wrong", source) of all solutions."""
    return [
        pytest.param(lesson, number, kind, source, id=f"{lesson}.{number} {kind}: {name}")
        for lesson in lessons_with_solutions()
        for number, both in solutions(lesson).items()
        for kind, sources in vars(both).items()
        for name, source in sources.items()
    ]


@pytest.fixture(scope="module")
def command_of(tmp_path_factory):
    """command_of(lesson, number) returns the command of an exercise. It stays ready for more
    solutions until the one of another exercise is requested.
    """
    started = {}

    def command_of(*exercise):
        if exercise not in started:
            while started:
                started.popitem()[1].close()
            started[exercise] = Command(*exercise, tmp_path_factory.mktemp("command"))
        return started[exercise]

    yield command_of
    while started:
        started.popitem()[1].close()


@pytest.mark.parametrize("lesson", lessons_with_solutions())
def test_every_exercise_has_five_wrong_and_two_right_solutions(lesson):
    assert [*solutions(lesson)] == [*range(1, len(exercises(lesson)) + 1)]
    for both in solutions(lesson).values():
        assert len(set(both.wrong.values())) >= 5 and len(set(both.right.values())) >= 2


@pytest.mark.slow
@pytest.mark.parametrize(("lesson", "number", "kind", "source"), cases())
def test_the_command_of_the_text_accepts_a_right_and_rejects_a_wrong_solution(
    lesson, number, kind, source, command_of, tmp_path
):
    selects = exercises(lesson)[number - 1].selects
    stop = kind == "wrong" and selects
    outcomes = command_of(lesson, number).outcomes(source, tmp_path, stop)
    if kind == "right":
        wanted = {"passed"} if selects else {"passed", "open"}
        assert "passed" in {outcome for outcome, *_ in outcomes}, "no test of this exercise ran"
        for outcome, test, message in outcomes:
            assert outcome in wanted, f"{test}: {outcome}\n{message}"
    else:
        failed = [(test, message) for outcome, test, message in outcomes if outcome == "failed"]
        assert failed, "all tests passed, or the first one that did not needs a later exercise"
        for test, message in failed:
            assert not any(f"{slip}:" in message for slip in SLIPS), f"{test}\n{message}"
