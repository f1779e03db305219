"""Decoding on a device launches recorded graphs, and the host waits once per draft and per check.

The strict stand-in for CuPy counts the reads, uploads and launches. CuPy does not count them.
"""

import itertools
from types import SimpleNamespace

import pytest

from minimtp.decode.drafters.deploy import deploy
from minimtp.decode.options import GenerationOptions, start_generation
from minimtp.decode.policy.plan import DraftPlan
from minimtp.decode.sampling.params import SamplingParams
from tests import strict_cupy
from tests.on_gpu.cases import count_traffic, in_format, model_with, moved

GREEDY, SAMPLED, TRUNCATED = (
    SamplingParams(0.0),
    SamplingParams(0.8),
    SamplingParams(0.8, 20, 0.9),
)
READS = {  # sampling, rule, heads, draft depth, reads per round
    "plain, greedy": (GREEDY, "shared-noise", "none", 0, 1),
    "plain, sampled": (SAMPLED, "shared-noise", "none", 0, 1),
    "plain, truncated": (TRUNCATED, "shared-noise", "none", 0, 1),
    "plain, match": (SAMPLED, "match", "none", 0, 1),
    "plain, token": (SAMPLED, "token", "none", 0, 1),
    "greedy": (GREEDY, "shared-noise", "token_conditioned", 3, 2),
    "sampled": (SAMPLED, "shared-noise", "token_conditioned", 3, 2),
    "match": (SAMPLED, "match", "token_conditioned", 3, 2),
    "parallel, greedy": (GREEDY, "shared-noise", "parallel", 3, 2),
    "parallel, sampled": (SAMPLED, "shared-noise", "parallel", 3, 2),
    "parallel, truncated": (TRUNCATED, "shared-noise", "parallel", 3, 2),
    "sequential, sampled": (SAMPLED, "shared-noise", "sequential", 3, 2),
}
greedy_and_sampled = pytest.mark.parametrize(
    "sampling", [SamplingParams(0.0), SamplingParams(0.7)], ids=["greedy", "sampled"]
)


@pytest.mark.parametrize("case", READS)
def test_a_round_reads_the_device_once_to_verify_and_once_to_draft(
    monkeypatch, device, choose_kernels, case
):
    sampling, rule, heads, depth, reads = READS[case]
    choose_kernels("auto", device)
    target, drafter = deploy(in_format(moved(model_with(heads), device), "int4"))
    rounds = start_generation(
        target,
        drafter,
        [3, 1, 4],
        GenerationOptions(max_new_tokens=40, sampling=sampling, rule=rule, draft_depth=depth),
    ).rounds()
    for _ in range(4):
        next(rounds)
    traffic = count_traffic(monkeypatch)
    lengths = [len(next(rounds).drafts) for _ in range(3)]
    assert lengths == [depth] * 3
    if device.xp is strict_cupy:
        assert traffic.reads == 3 * reads
        # the tokens that are fed, and those that were committed
        uploads = 1 if heads in ("none", "token_conditioned") else 2
        assert traffic.uploads <= 3 * uploads


@greedy_and_sampled
def test_a_plain_round_launches_one_graph_and_reads_the_device_once(
    monkeypatch, device, choose_kernels, sampling
):
    choose_kernels("auto", device)
    target, _ = deploy(in_format(moved(model_with("none"), device), "int4"))
    rounds = start_generation(
        target, None, [3, 1, 4], GenerationOptions(max_new_tokens=40, sampling=sampling)
    ).rounds()
    for _ in range(4):
        next(rounds)
    traffic = count_traffic(monkeypatch)
    next(rounds)
    assert target._trunk.graphs.recorded() == 1
    if device.xp is strict_cupy:
        # The token and its position to the graph, the graph, its two results, the choice.
        assert (traffic.uploads, traffic.launches, traffic.reads) == (1, 5, 1)


@greedy_and_sampled
def test_each_draft_depth_is_recorded_as_one_graph_to_draft_and_one_to_verify(
    monkeypatch, device, choose_kernels, sampling
):
    choose_kernels("auto", device)
    target, drafter = deploy(moved(model_with("token_conditioned"), device))
    plans = itertools.cycle([DraftPlan(depth) for depth in (1, 2, 3) for _ in range(4)])
    policy = SimpleNamespace(choose=lambda max_depth, length, statistics: next(plans))
    rounds = start_generation(
        target, drafter, [3, 1, 4], GenerationOptions(max_new_tokens=44, sampling=sampling), policy
    ).rounds()
    drafted = {len(next(rounds).drafts) for _ in range(13)}
    assert drafted == {0, 1, 2, 3}  # the round of the prompt drafts nothing
    assert drafter._step.graphs.recorded() == 3
    assert target._trunk.graphs.recorded() == 3
    traffic = count_traffic(monkeypatch)
    next(rounds)
    if device.xp is strict_cupy:
        assert traffic.reads == 2 and traffic.uploads == 1
        assert traffic.launches <= 14  # the graphs hold hundreds


@greedy_and_sampled
def test_the_longest_draft_is_recorded_and_its_replay_gives_the_tokens_of_the_host(
    device, choose_kernels, sampling, capsys
):
    choose_kernels("auto", device)
    model = model_with("token_conditioned")
    (host, host_drafter), (target, drafter) = deploy(model), deploy(moved(model, device))
    texts = []
    for one, other in ((host, host_drafter), (target, drafter)):
        rounds = start_generation(
            one,
            other,
            [3, 1, 4],
            GenerationOptions(max_new_tokens=44, sampling=sampling, seed=3, draft_depth=15),
        ).rounds()
        texts.append([next(rounds) for _ in range(3)])
    assert len(texts[1][1].drafts) == 15 and drafter._step.graphs.recorded() == 1
    assert [[r.drafts, r.tokens] for r in texts[1]] == [[r.drafts, r.tokens] for r in texts[0]]
    assert "cannot be recorded" not in capsys.readouterr().err
