"""Transfers between processes that end without their data."""

import pytest

from tests.mutants import edited, mutant


def check_sums_after_a_killed_process():
    from tests.training.run import test_distributed as tests

    for killed_at in range(8):
        with pytest.MonkeyPatch.context() as patch:
            tests.test_a_transfer_that_ends_without_its_data_is_never_used(patch, killed_at)


@mutant(
    "training.run.distributed:ProcessGroup._sum_on_the_host",
    "MPICH 5.0 reports the transfers of a killed process as complete",
    test=check_sums_after_a_killed_process,
)
def a_complete_transfer_has_brought_its_data(sum_on_the_host):
    return edited(sum_on_the_host, ("self.gather(np.empty(0))", "pass"))


@mutant(
    "training.run.distributed:ProcessGroup.gather",
    "MPICH 5.0 reports the transfers of a killed process as complete",
    test=check_sums_after_a_killed_process,
)
def the_values_of_a_killed_process_are_those_in_memory(gather):
    return edited(gather, ("np.any(table[:, 0] != self._transfers)", "False"))
