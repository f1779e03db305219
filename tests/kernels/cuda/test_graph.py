"""A recorded step gives the results of the step itself at every position, with one launch."""

import pytest

from minimtp.backend import numpy as np
from minimtp.backend import to_device, to_numpy
from minimtp.decode.drafters.deploy import deploy
from minimtp.kernels.cuda.graph import MAX_KEPT, Graphs
from minimtp.quant import packing
from tests.grid_properties import GRIDS
from tests.on_gpu.cases import in_format, model_with, moved
from tests.vectors.ggml_cases import bell


def logits_of(runtime, feeds):
    """Return the logits of these lists of tokens, fed one after another."""
    runtime.truncate(0)
    return [to_numpy(runtime.forward(np.array(feed)).logits) for feed in feeds]


@pytest.mark.usefixtures("cuda_sources")
def test_a_recorded_step_gives_the_same_bits_at_every_position(device):
    model = moved(model_with("none"), device)
    recorded, plain = (deploy(in_format(model, "int4"))[0] for _ in range(2))
    plain._trunk.graphs._usable = False
    feeds = [[1, 2, 3], [4], [5, 6, 7], [8], [9], [1, 1, 1], [2]]
    for ours, theirs in zip(logits_of(recorded, feeds), logits_of(plain, feeds), strict=True):
        assert ours.tobytes() == theirs.tobytes()
    assert recorded._trunk.graphs.recorded() == 2 and plain._trunk.graphs.recorded() == 0


def test_the_next_replay_does_not_change_a_returned_result(device):
    graphs, xp = Graphs(), device.xp
    double = lambda x: (x * 2,)  # noqa: E731
    results = [graphs.run("key", double, xp.full(3, float(i)))[0] for i in range(4)]
    assert [to_numpy(r).tolist() for r in results] == [[2.0 * i] * 3 for i in range(4)]


def test_the_least_recently_used_graphs_are_dropped_and_recorded_again_when_needed(device):
    graphs, xp = Graphs(), device.xp
    results = {}
    for turn in range(3):
        for key in range(2 * MAX_KEPT if turn < 2 else 2):
            for repeat in range(2):
                x = xp.full(2, float(key + repeat))
                (found,) = graphs.run(key, lambda x: (x + 1,), x)
                results[turn, key, repeat] = to_numpy(found).tolist()
        assert graphs.recorded() <= MAX_KEPT
    assert graphs.recorded() == MAX_KEPT
    assert all(found == [key + repeat + 1.0] * 2 for (_, key, repeat), found in results.items())


def test_a_step_that_cannot_be_recorded_runs_unrecorded_with_one_message(device, capsys):
    graphs, xp = Graphs(), device.xp

    def reads(x):
        return (x * float(x[0]),)

    results = [to_numpy(graphs.run("key", reads, xp.full(1, 3.0 + i))[0])[0] for i in range(4)]
    assert results == [9.0, 16.0, 25.0, 36.0]
    assert capsys.readouterr().err.count("cannot be recorded") == 1


def test_a_number_of_the_host_is_recorded_as_a_constant(device):
    numbers = iter([1.0, 2.0, 3.0, 4.0])
    graphs = Graphs()
    results = [
        float(graphs.run("key", lambda x: (x + next(numbers),), device.xp.zeros(1))[0][0])
        for _ in range(3)
    ]
    assert results == [1.0, 3.0, 3.0]


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_rows_of_a_packed_table_can_be_looked_up_in_a_recording(grid, device, capsys):
    packed = packing.quantize(grid, bell(5, (4, 512)))
    table, graphs = to_device(packed, device), Graphs()
    for row in (2, 0, 3):
        (found,) = graphs.run(
            "key", lambda rows: (packing.dequantize(grid, table[rows]),), device.xp.asarray([row])
        )
        assert np.array_equal(to_numpy(found), packing.dequantize(grid, packed[row : row + 1]))
    assert graphs.recorded() == 1 and "cannot be recorded" not in capsys.readouterr().err
