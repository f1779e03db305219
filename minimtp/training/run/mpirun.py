"""Joining the processes that mpirun started, and the command that starts them again."""

import os
from pathlib import Path

from minimtp import extras
from minimtp.backend import Device
from minimtp.errors import UserError
from minimtp.quoting import command
from minimtp.training.run.distributed import ProcessGroup, SingleProcess

# Set by Open MPI; by MPICH, Intel MPI and Slurm's PMI; and by MPICH for each machine.
SIZE_VARIABLES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MPI_LOCALNRANKS")
RANK_VARIABLES = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "MPI_LOCALRANKID")
PATIENCE_VARIABLE = "MINIMTP_PATIENCE"
PATIENCE = 600.0  # seconds, longer than an evaluation, for which the others wait

_joined: SingleProcess | None = None


def join() -> SingleProcess:
    """Return the group that this process was started in.

    Raises UserError if mpirun started several processes and mpi4py cannot be used.
    """
    global _joined
    if _joined is not None:
        return _joined
    started = _max_of(SIZE_VARIABLES, default=1)
    if started < 2:
        return SingleProcess()
    MPI, obstacle = extras.find("mpi4py.MPI")
    if MPI is None:
        raise UserError(
            f"mpirun started {started} processes, but mpi4py {obstacle}: "
            f"{extras.install_hint('mpi4py.MPI')}"
        )
    if MPI.COMM_WORLD.size < 2:
        raise UserError(
            f"mpirun started {started} processes, but mpi4py sees only one, because it was built "
            "for another MPI: reinstall mpi4py"
        )
    patience = os.environ.get(PATIENCE_VARIABLE) or PATIENCE
    try:
        _joined = ProcessGroup(MPI, float(patience))
    except ValueError:
        raise UserError(
            f"{PATIENCE_VARIABLE} must be a number of seconds, not {patience!r}"
        ) from None
    return _joined


def command_to_resume(out: str | Path) -> str:
    """Return the command that resumes the run in this folder, in the same number of processes."""
    size = join().size
    several = ["mpirun", "-n", str(size)] if size > 1 else []
    return command(*several, "minimtp", "train", "--out", Path(out), "--resume")


def refuse_several(command: str) -> None:
    """Reject a command in several processes.

    Raises UserError in the first of several processes, and ends the others without a message.
    """
    if _max_of(SIZE_VARIABLES, default=1) < 2:
        return
    if _max_of(RANK_VARIABLES, default=0):
        raise SystemExit(2)
    raise UserError(
        f"{command} runs in one process, and only train uses several: start it without mpirun"
    )


def use_own_gpu(group: SingleProcess, device: Device) -> None:
    """Give each process of a machine its own GPU, before anything is created on it.

    If there are more processes than GPUs, several processes share a GPU.
    """
    if device.name == "cuda" and group.size > 1:
        count = device.xp.cuda.runtime.getDeviceCount()
        device.xp.cuda.Device(group.local_rank % count).use()


def _max_of(variables: tuple[str, ...], default: int) -> int:
    """Return the largest number among these environment variables."""
    values = [os.environ.get(name, "") for name in variables]
    return max(
        (int(value) for value in values if value.isascii() and value.isdigit()), default=default
    )
