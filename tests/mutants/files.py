"""Names and failures of files that are taken for something else."""

import errno

import pytest

from tests.mutants import edited, mutant


def check_names_of_parts():
    from minimtp.training.self_generated import stored
    from tests.training.self_generated.test_obstacles import NO_PARTS

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stored.os, "listdir", lambda folder: [*NO_PARTS, "part-00003.json"])
        assert stored.last_number("folder") == 3


def check_reasons_of_failed_writes():
    import tempfile
    from pathlib import Path

    from tests.files import test_failed_writes as tests

    check = tests.test_a_failed_write_whose_error_has_no_number_gets_the_reason_of_the_system
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        check(Path(folder), patch, errno.ENOSPC)


@mutant(
    "training.self_generated.stored:_numbers",
    "str.isdigit is true of \u00b2, which int refuses",
    test=check_names_of_parts,
)
def every_name_with_digits_is_that_of_a_part(numbers):
    right = "PART_NAME.fullmatch(name)"
    return edited(numbers, (right, 'name.startswith("part-") and name[5:-5].isdigit()'))


@mutant(
    "files.writing:_with_reason",
    "NumPy's tofile says how much was written, not why it failed",
    test=check_reasons_of_failed_writes,
)
def a_failed_write_has_the_words_of_the_library(with_reason):
    return lambda error, descriptor: error
