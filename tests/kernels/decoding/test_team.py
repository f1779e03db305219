"""Threads that compute a pass together give the bits of one thread."""

import gc
import multiprocessing
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from minimtp.backend import numpy as np
from minimtp.kernels.plain.decoding.block import TreeArrays, stretches
from tests.kernels.both import (
    CHANNELS,
    FAMILIES,
    FORMATS,
    GROUPS,
    HAS_NUMBA,
    MIXTURE,
    ROOM,
    cpu,
    needs_numba,
    random_trunk,
    trunk_step_input,
)

if HAS_NUMBA:
    from minimtp.kernels.cpu.decoding.team import Team, meet

pytestmark = needs_numba
DEPTHS = [0, 1, 2, 2, 1, 2]  # of a draft tree
SIZES = [2, 3, 5]  # of teams; there are fewer groups of keys than threads in the last


def step(trunk, rows, with_tree=False):
    """Return the bits of everything that a step returns or writes."""
    x, keys, values, start, cosine, sine = trunk_step_input(rows)
    tree = None
    if with_tree:
        kept = (len(keys), rows, GROUPS, CHANNELS)
        rows_kept = np.zeros(kept, np.float32), np.zeros(kept, np.float32)
        tree = TreeArrays(stretches(DEPTHS, start), *rows_kept)
    found = cpu.trunk_step(x, trunk, keys, values, start, cosine, sine, tree)
    return [array.tobytes() for array in (*found, keys, values, *(tree[:3] if tree else ()))]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("format_", [*FORMATS, MIXTURE], ids=str)
@pytest.mark.parametrize("rows", [1, 6, 16])
def test_a_step_has_the_same_bits_with_any_number_of_threads(format_, rows, size):
    alone = cpu.prepare_trunk(*random_trunk(cpu, [format_] * 3))
    team = cpu.with_threads(alone, size)
    assert team.team.size == size
    for _ in range(3):
        assert step(team, rows) == step(alone, rows)
    if rows == len(DEPTHS):
        assert step(team, rows, with_tree=True) == step(alone, rows, with_tree=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_biases_and_norms_of_queries_and_keys_are_applied_once(family):
    alone = cpu.prepare_trunk(*random_trunk(cpu, ["q4_0"] * 3, family=family))
    for size in SIZES:
        assert step(cpu.with_threads(alone, size), 3) == step(alone, 3)


def test_a_second_pass_at_the_same_time_is_computed_alone_with_the_same_bits():
    team = cpu.with_threads(cpu.prepare_trunk(*random_trunk(cpu, ["q4_0"] * 3)), 2)
    expected = step(team, 2)
    with ThreadPoolExecutor(4) as pool:
        assert all(found == expected for found in pool.map(lambda _: step(team, 2), range(200)))
    entered, leave = threading.Event(), threading.Event()

    def occupy(rank, size, meeting):
        entered.set()
        leave.wait(10)

    occupant = threading.Thread(target=team.team.run, args=(occupy,))
    occupant.start()
    entered.wait(10)
    assert not team.team.run(occupy) and step(team, 2) == expected
    leave.set()
    occupant.join()
    assert team.team.run(lambda *given: None)


def test_arguments_that_do_not_fit_are_an_error_after_which_the_team_goes_on(capfd):
    team = cpu.with_threads(cpu.prepare_trunk(*random_trunk(cpu, ["q4_0"] * 2)), 2)
    x, keys, values, _, cosine, sine = trunk_step_input(1)
    with pytest.raises(ValueError, match="one for each block"):
        cpu.trunk_step(x, team, keys, values, 0, cosine, sine)
    with pytest.raises(ValueError, match="do not fit the cache"):
        cpu.trunk_step(x, team, keys[:2], values[:2], ROOM, cosine, sine)
    x = trunk_step_input(1)[0]
    logits, _ = cpu.trunk_step(x, team, keys[:2], values[:2], 0, cosine, sine)
    assert np.isfinite(logits).all()
    assert "Traceback" not in capfd.readouterr().err


def test_a_failure_of_any_thread_is_raised_and_nobody_waits_for_it():
    """The other threads would wait forever, and so would the next pass."""
    team = Team(3)
    for failing in range(3):

        def work(rank, size, meeting, failing=failing):
            if rank == failing:
                raise MemoryError(f"thread {rank}")
            meet(meeting, size)
            meet(meeting, size)

        with pytest.raises(MemoryError, match=f"thread {failing}"):
            team.run(work)
        assert team.run(lambda rank, size, meeting: meet(meeting, size))


def test_an_interrupted_pass_does_not_leave_a_thread_behind_that_waits_or_writes():
    before = set(threading.enumerate())
    team, written = Team(2), []

    def work(rank, size, meeting):
        if rank == 0:
            raise KeyboardInterrupt
        meet(meeting, size)
        written.append(rank)

    with pytest.raises(KeyboardInterrupt):
        team.run(work)
    assert written == [1] and set(threading.enumerate()) <= before
    assert team.run(lambda rank, size, meeting: meet(meeting, size))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system copies no processes")
def test_a_copy_of_the_process_gets_threads_of_its_own():
    """A copy has none of the threads, and would wait for them forever."""
    trunk = cpu.with_threads(cpu.prepare_trunk(*random_trunk(cpu, ["q4_0"] * 3)), 2)
    expected = step(trunk, 2)
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=lambda: sender.send(step(trunk, 2)), daemon=True)
    process.start()
    try:
        assert receiver.poll(30) and receiver.recv() == expected
    finally:
        process.kill()
        process.join()
    assert step(trunk, 2) == expected


def test_a_system_without_more_threads_computes_a_pass_in_one(monkeypatch):
    alone = cpu.prepare_trunk(*random_trunk(cpu, ["q4_0"] * 3))
    team = cpu.with_threads(alone, 3)

    def refused(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refused)
    assert step(team, 2) == step(alone, 2)
    monkeypatch.undo()
    assert step(team, 2) == step(alone, 2) and team.team.run(lambda *given: None)


def test_the_threads_of_a_team_start_with_its_first_pass_and_end_with_it():
    before = set(threading.enumerate())
    trunk = cpu.with_threads(cpu.prepare_trunk(*random_trunk(cpu, ["q4_0"] * 3)), 3)
    assert set(threading.enumerate()) <= before
    step(trunk, 1)
    own = set(threading.enumerate()) - before
    assert len(own) == 2
    del trunk
    gc.collect()
    for thread in own:
        thread.join(10)
        assert not thread.is_alive()
