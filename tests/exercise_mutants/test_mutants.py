"""The tests of the exercises accept right solutions and reject wrong ones."""

import pytest

from tests.exercise_mutants import exercises, lessons_with_solutions, solutions
from tests.exercise_mutants.runner import Command

# An error that shows that the solution is not what its author meant to write.
SLIPS = ("NameError", "UnboundLocalError", "SyntaxError", "ImportError", "ModuleNotFoundError")


def cases():
    """Return the parameters ((lesson, number), "right" or "wrong", source) of all solutions.

    pytest keeps the fixture `command` as long as its parameter is the same object.
    """
    return [
        pytest.param(exercise, kind, source, id=f"{lesson}.{number} {kind}: {name}")
        for lesson in lessons_with_solutions()
        for number, both in solutions(lesson).items()
        for exercise in [(lesson, number)]
        for kind, sources in vars(both).items()
        for name, source in sources.items()
    ]


@pytest.fixture(scope="module")
def command(request, tmp_path_factory):
    """The command of an exercise. It stays ready for all solutions of the exercise."""
    command = Command(*request.param, tmp_path_factory.mktemp("command"))
    yield command
    command.close()


@pytest.mark.parametrize("lesson", lessons_with_solutions())
def test_every_exercise_has_five_wrong_and_two_right_solutions(lesson):
    assert [*solutions(lesson)] == [*range(1, len(exercises(lesson)) + 1)]
    for both in solutions(lesson).values():
        assert len(set(both.wrong.values())) >= 5 and len(set(both.right.values())) >= 2


@pytest.mark.slow
@pytest.mark.parametrize(("command", "kind", "source"), cases(), indirect=["command"])
def test_the_command_of_the_text_accepts_a_right_and_rejects_a_wrong_solution(
    command, kind, source, tmp_path
):
    selects = exercises(command.lesson)[command.number - 1].selects
    outcomes = command.outcomes(source, tmp_path, stop=kind == "wrong" and selects)
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
