"""Everything runs on arrays of a device other than the host, with the same results.

The device is the strict stand-in for CuPy (`strict_cupy.py`), so that these are tests on any machine, and the GPU itself
with `pytest -m gpu`.
"""

import importlib.util
import itertools
import subprocess
import sys
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimtp.backend import choose_device, gpu_pool_bytes, to_device, to_numpy
from minimtp.backend import numpy as np
from minimtp.decode.batch import start_batch
from minimtp.decode.decoder import deploy
from minimtp.decode.drafters.model import ModelDrafter
from minimtp.decode.drafters.ngram import NgramDrafter
from minimtp.decode.logits_processors import RepetitionPenalty
from minimtp.decode.options import start_generation
from minimtp.decode.policy.adaptive import AdaptivePolicy
from minimtp.decode.policy.cost import Costs
from minimtp.decode.policy.plan import DraftPlan
from minimtp.decode.rules.registry import make_rule
from minimtp.decode.sampling.gumbel_noise import GumbelNoise
from minimtp.decode.sampling.params import SamplingParams
from minimtp.engine.gradcheck import check_gradients
from minimtp.engine.module import map_parameters, replicate
from minimtp.engine.tensor import Op
from minimtp.errors import UserError
from minimtp.model.config import ModelConfig
from minimtp.model.heads import HEADS, MultiTokenModel
from minimtp.model.transformer import Transformer
from minimtp.quant import packing
from minimtp.quant.grids import GRIDS, MASKS
from minimtp.quant.ptq.methods import round_to_nearest
from minimtp.quant.qat.convert import convert
from minimtp.quant.qat.prepare import prepare_qat
from minimtp.quant.qat.spec import QuantizationSpec
from minimtp.training import presets
from minimtp.training.data.batches import Batches
from minimtp.training.data.corpus import Corpus
from minimtp.training.evaluate import evaluate_model
from minimtp.training.trainer import Trainer
from tests import cuda_on_host, strict_cupy
from tests.engine.test_engine import SAMPLES
from tests.tolerances import COMPARISONS, allowed, assert_close

SHAPE = ModelConfig(
    vocabulary_size=61,
    context_length=48,
    num_layers=2,
    hidden_size=64,
    num_heads=4,
    num_kv_heads=2,
    intermediate_size=64,
)


def on(device, value):
    """The value with its arrays, also those kept by an operation, moved to the device."""
    if isinstance(value, np.ndarray):
        return device.xp.asarray(value)
    if isinstance(value, (list, tuple)):
        return type(value)(on(device, member) for member in value)
    if isinstance(value, Op):
        vars(value).update({name: on(device, member) for name, member in vars(value).items()})
    return value


def assert_same(found, expected, kind):
    """The device's array and the host's, or several numbers of each."""
    assert_close(found, expected, COMPARISONS[kind], max(np.abs(expected).max(initial=0.0), 1.0))


def moved(model, device):
    """The same model on the device."""
    copy = replicate(model)
    map_parameters(copy, lambda array: to_device(array, device))
    return copy


def model_with(kind, seed=3):
    """A model whose every weight matters: blocks that start at zero are moved away from it."""
    rng = np.random.default_rng(seed)
    trunk = Transformer(SHAPE, rng)
    model = trunk if kind == "none" else MultiTokenModel(trunk, HEADS[kind](4, SHAPE, rng))
    map_parameters(
        model, lambda array: (array + 0.1 * rng.standard_normal(array.shape)).astype(np.float32)
    )
    return model


@pytest.mark.parametrize("name", SAMPLES)
def test_every_operation_gives_the_hosts_result_and_gradients(device, name):
    make, inputs = SAMPLES[name]
    host, ours = make(), on(device, make())
    expected, found = host.forward(*inputs), ours.forward(*on(device, inputs))
    assert_same(found, expected, "operation, float64")
    gradient = np.random.default_rng(5).standard_normal(expected.shape)
    parts = [op.backward(g) for op, g in ((host, gradient), (ours, on(device, gradient)))]
    parts = [part if isinstance(part, tuple) else (part,) for part in parts]
    for theirs, mine in zip(*parts, strict=True):
        assert_same(mine, theirs, "operation, float64")


@pytest.mark.parametrize("name", SAMPLES)
def test_gradients_are_checked_on_the_device_as_well(device, name):
    make, inputs = SAMPLES[name]
    check_gradients(
        lambda *tensors: on(device, make()).apply(*tensors),
        on(device, inputs),
        name=name,
        max_elements=8,
    )


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_grids_round_pack_and_mask_to_the_same_bits(device, grid, mask):
    weights = np.random.default_rng(1).standard_normal((6, 96)).astype(np.float32)
    there = on(device, weights)
    assert to_numpy(grid.fake_quantize(there)).tobytes() == grid.fake_quantize(weights).tobytes()
    assert (
        to_numpy(packing.quantize(grid, there)).tobytes()
        == packing.quantize(grid, weights).tobytes()
    )
    packed = packing.quantize(grid, weights)
    assert (
        to_numpy(packing.dequantize(grid, on(device, packed))).tobytes()
        == packing.dequantize(grid, packed).tobytes()
    )
    inside, ours = (
        grid.straight_through_mask(weights, mask),
        grid.straight_through_mask(there, mask),
    )
    assert (inside is None) == (ours is None)
    assert inside is None or np.array_equal(inside, to_numpy(ours))


TRAINING = {
    "standard": {},
    "frozen trunk": {"heads": "token_conditioned", "draft_depth": 2, "freeze_trunk": True},
    "parallel, reversed": {"heads": "parallel", "draft_depth": 2, "curriculum": "reverse"},
    "sequential, forward": {
        "heads": "sequential",
        "draft_depth": 2,
        "curriculum": "forward",
        "detach_until": 0.5,
    },
    "heads from the trunk": {
        "heads": "token_conditioned",
        "draft_depth": 3,
        "head_targets": "trunk",
        "head_stride": 2,
    },
    "distilled": {"distill_weight": 0.5},
    "rounded from the middle": {
        "heads": "token_conditioned",
        "draft_depth": 2,
        "quantization": "qat",
        "quantize_from": 0.5,
    },
    "untied, 8 bits": {
        "tied_embeddings": False,
        "quantization": "qat",
        "weight_grid": "q8_0",
        "quantize_from": 0.0,
    },
}


def text():
    rng = np.random.default_rng(0)
    return Corpus(
        "noise", [(str(i), bytes(rng.integers(97, 105, 3000, dtype=np.uint8))) for i in range(12)]
    )


def with_both_kernels(cases, quick):
    """Every case with the plain kernels and with those of the device; on the stand-in the latter are slow, so all but a few
    of them are for the slow tests."""
    return [pytest.param(*case, "plain", id="-".join([*case, "plain"])) for case in cases] + [
        pytest.param(*case, "auto", id="-".join([*case, "kernels"]), marks=() if case in quick else pytest.mark.slow)
        for case in cases
    ]  # fmt: skip


@pytest.fixture
def choose_kernels(monkeypatch):
    """Choose kernels for this test only. Without a C++ compiler the stand-in has none of the device's."""

    def choose(choice, device):
        if choice == "auto" and device.xp is strict_cupy and cuda_on_host.COMPILER is None:
            pytest.skip("there is no C++ compiler (g++) to run the CUDA sources on the host with")
        monkeypatch.setattr("minimtp.kernels._choice", choice)

    return choose


@pytest.mark.parametrize(
    ("feature", "choice"),
    with_both_kernels(
        [(name,) for name in TRAINING], quick=[("heads from the trunk",), ("untied, 8 bits",)]
    ),
)
def test_training_takes_the_hosts_steps(device, choose_kernels, feature, choice):
    choose_kernels(choice, device)
    recipe = presets.preset("tiny", tokens=4 * 4 * 32, **TRAINING[feature])
    corpus, losses, evaluations = text(), [], []
    for chosen in (choose_device("cpu"), device):
        teacher = (
            moved(Trainer(recipe, None, choose_device("cpu"), 1).model, chosen)
            if recipe.distill_weight
            else None
        )
        trainer = Trainer(recipe, None, chosen, 1, teacher=teacher)
        batches = [
            corpus.batch(
                i,
                seed=0,
                batch_size=recipe.batch_size,
                context_length=recipe.context_length,
                depth=recipe.draft_depth,
            )
            for i in range(4)
        ]
        losses.append([trainer.advance(batch)[0] for batch in batches])
        evaluations.append(evaluate_model(trainer.model, corpus, recipe.context_length, 512, 1))
        trainer.close()
    assert np.array_equal(np.isnan(losses[0]), np.isnan(losses[1]))
    kind = "loss, float32" if recipe.quantization == "none" else "loss through rounding, float32"
    assert_same(np.nan_to_num(losses[1]), np.nan_to_num(losses[0]), kind)
    assert_close(
        *(evaluation.bits_per_byte for evaluation in evaluations[::-1]),
        COMPARISONS["bits per byte, float32"],
    )


@pytest.mark.parametrize(
    "feature", ["standard", "parallel, reversed", "heads from the trunk", "untied, 8 bits"]
)
def test_a_training_step_stops_for_the_device_twice_and_uploads_its_tokens(
    monkeypatch, device, choose_kernels, feature
):
    choose_kernels("plain", device)
    recipe = presets.preset("tiny", tokens=4 * 4 * 32, **TRAINING[feature])
    trainer, corpus = Trainer(recipe, None, device, 1), text()
    batches = [
        corpus.batch(
            i,
            seed=0,
            batch_size=recipe.batch_size,
            context_length=recipe.context_length,
            depth=recipe.draft_depth,
        )
        for i in range(4)
    ]
    for batch in batches[:2]:
        trainer.advance(batch)
    monkeypatch.setattr(
        strict_cupy, "traffic", traffic := SimpleNamespace(reads=0, uploads=0, launches=0)
    )
    trainer.advance(batches[2])
    trainer.close()
    if device.xp is strict_cupy:  # CuPy does not count
        assert traffic.reads <= 2  # the losses of all heads, the norms of all gradients
        assert traffic.uploads <= 1


def test_the_next_batch_is_prepared_while_a_step_is_under_way_and_is_the_same(device):
    drawn, corpus = [], text()

    def batch_of(step):
        drawn.append(step)
        if step == 5:
            raise ValueError("no text")
        return corpus.batch(step, seed=1, batch_size=3, context_length=16, depth=2)

    batches = Batches(batch_of, device, 7)
    for step in (0, 1, 2, 4):  # a run may go on anywhere
        found = batches.at(step)
        assert isinstance(found, device.xp.ndarray)
        assert np.array_equal(
            to_numpy(found), corpus.batch(step, seed=1, batch_size=3, context_length=16, depth=2)
        )
    with pytest.raises(ValueError, match="no text"):
        batches.at(5)
    batches.at(6)
    batches.close()
    assert drawn == [0, 1, 2, 3, 4, 5, 6]  # each once, and none behind the last
    host = Batches(batch_of, choose_device("cpu"), 7)
    assert np.array_equal(
        host.at(0), corpus.batch(0, seed=1, batch_size=3, context_length=16, depth=2)
    ) and drawn[7:] == [0]
    host.close()


WAITS = {  # law, rule, heads, draft depth: how often the host waits in a round, for its draft and to verify
    "plain, greedy": (SamplingParams(0.0), "shared-noise", "none", 0, 1),
    "plain, sampled": (SamplingParams(0.8), "shared-noise", "none", 0, 1),
    "plain, truncated": (SamplingParams(0.8, 20, 0.9), "shared-noise", "none", 0, 1),
    "plain, match": (SamplingParams(0.8), "match", "none", 0, 1),
    "plain, token": (SamplingParams(0.8), "token", "none", 0, 1),
    "greedy": (SamplingParams(0.0), "shared-noise", "token_conditioned", 3, 2),
    "sampled": (SamplingParams(0.8), "shared-noise", "token_conditioned", 3, 2),
    "match": (SamplingParams(0.8), "match", "token_conditioned", 3, 2),
    "parallel, greedy": (SamplingParams(0.0), "shared-noise", "parallel", 3, 2),
    "parallel, sampled": (SamplingParams(0.8), "shared-noise", "parallel", 3, 2),
    "parallel, truncated": (SamplingParams(0.8, 20, 0.9), "shared-noise", "parallel", 3, 2),
    "sequential, sampled": (SamplingParams(0.8), "shared-noise", "sequential", 3, 2),
}


@pytest.mark.parametrize("case", WAITS)
def test_the_host_waits_once_a_verification_and_once_a_draft(
    monkeypatch, device, choose_kernels, case
):
    law, rule, heads, depth, waits = WAITS[case]
    choose_kernels("auto", device)
    target, drafter = deploy(in_form(moved(model_with(heads), device), "int4"))
    generation = start_generation(
        target, drafter, [3, 1, 4], max_new_tokens=40, sampling=law, rule=rule, draft_depth=depth
    )
    rounds = generation.rounds()
    for _ in range(4):
        next(rounds)
    monkeypatch.setattr(
        strict_cupy, "traffic", traffic := SimpleNamespace(reads=0, uploads=0, launches=0)
    )
    lengths = [len(next(rounds).drafts) for _ in range(3)]
    assert lengths == [depth] * 3
    if device.xp is strict_cupy:  # CuPy does not count
        assert traffic.reads == 3 * waits
        assert traffic.uploads <= 3 * (
            1 if heads in ("none", "token_conditioned") else 2
        )  # what is fed, what was committed


@pytest.mark.parametrize(
    "law", [SamplingParams(0.0), SamplingParams(0.7)], ids=["greedy", "sampled"]
)
def test_a_plain_round_is_a_replay_a_choice_and_a_read(monkeypatch, device, choose_kernels, law):
    choose_kernels("auto", device)
    target, _ = deploy(in_form(moved(model_with("none"), device), "int4"))
    rounds = start_generation(target, None, [3, 1, 4], max_new_tokens=40, sampling=law).rounds()
    for _ in range(4):
        next(rounds)
    monkeypatch.setattr(
        strict_cupy, "traffic", traffic := SimpleNamespace(reads=0, uploads=0, launches=0)
    )
    next(rounds)
    assert target._trunk.graphs.recorded() == 1
    if device.xp is strict_cupy:
        # The token and its position to the graph, the graph, its two results, the choice.
        assert (traffic.uploads, traffic.launches, traffic.reads) == (1, 5, 1)


@pytest.mark.parametrize(
    "law", [SamplingParams(0.0), SamplingParams(0.7)], ids=["greedy", "sampled"]
)
def test_every_draft_length_has_a_graph_for_its_draft_and_one_for_its_verification(
    monkeypatch, device, choose_kernels, law
):
    choose_kernels("auto", device)
    target, drafter = deploy(moved(model_with("token_conditioned"), device))
    plan = itertools.cycle([DraftPlan(depth) for depth in (1, 2, 3) for _ in range(4)])
    lengths = SimpleNamespace(choose=lambda most, length, statistics: next(plan))
    rounds = start_generation(
        target, drafter, [3, 1, 4], max_new_tokens=44, sampling=law, policy=lengths
    ).rounds()
    drafted = {len(next(rounds).drafts) for _ in range(13)}
    assert drafted == {0, 1, 2, 3}  # the prompt's round drafts nothing
    assert drafter._step.graphs.recorded() == 3
    assert target._trunk.graphs.recorded() == 3
    monkeypatch.setattr(
        strict_cupy, "traffic", traffic := SimpleNamespace(reads=0, uploads=0, launches=0)
    )
    next(rounds)
    if device.xp is strict_cupy:
        assert traffic.reads == 2 and traffic.uploads == 1
        assert traffic.launches <= 14  # of the hundreds that the graphs hold


@pytest.mark.parametrize(
    "law", [SamplingParams(0.0), SamplingParams(0.7)], ids=["greedy", "sampled"]
)
def test_the_longest_draft_is_recorded_and_replayed_as_it_is_computed(
    device, choose_kernels, law, capsys
):
    choose_kernels("auto", device)
    model = model_with("token_conditioned")
    (host, host_drafter), (target, drafter) = deploy(model), deploy(moved(model, device))
    texts = []
    for one, other in ((host, host_drafter), (target, drafter)):
        rounds = start_generation(
            one, other, [3, 1, 4], max_new_tokens=44, sampling=law, seed=3, draft_depth=15
        ).rounds()
        texts.append([next(rounds) for _ in range(3)])
    assert len(texts[1][1].drafts) == 15 and drafter._step.graphs.recorded() == 1
    assert [[r.drafts, r.tokens] for r in texts[1]] == [[r.drafts, r.tokens] for r in texts[0]]
    assert "cannot be recorded" not in capsys.readouterr().err


@pytest.mark.parametrize("choice", ["plain", "auto"])
@pytest.mark.parametrize(
    "law",
    [SamplingParams(0.0), SamplingParams(0.7), SamplingParams(0.7, 5), SamplingParams(0.7, 0, 0.9)],
    ids=str,
)
def test_logits_that_are_no_numbers_are_an_error_and_no_text(device, choose_kernels, choice, law):
    choose_kernels(choice, device)
    logits = device.xp.asarray(np.random.default_rng(0).standard_normal((2, 61)).astype(np.float32))
    rule = make_rule("shared-noise", law, 1, 61, 5)
    logits[1, 7] = np.nan
    first = rule.verify(logits[:1], [], None)[1]
    rule = make_rule("shared-noise", law, 1, 61, 5)
    assert rule.verify(logits, [first + 1], None) == (0, first)  # the broken row is not looked at
    with pytest.raises(UserError, match="not a number"):
        make_rule("shared-noise", law, 1, 61, 5).verify(logits, [first], None)


@given(position=st.integers(0, 300), count=st.integers(1, 140))
def test_noise_on_the_device_is_that_of_the_host(device, position, count):
    noise = GumbelNoise(3, 5)
    found = [to_numpy(noise.rows(position + shift, count, device.xp)) for shift in (0, 1)]
    assert np.array_equal(found[0], noise.rows(position, count)) and np.array_equal(
        found[1], noise.rows(position + 1, count)
    )


FORMS = ["float32", "int4", "trained int4"]


def in_form(model, form):
    if form == "int4":
        return round_to_nearest(model, QuantizationSpec())
    return convert(prepare_qat(model, QuantizationSpec())) if form == "trained int4" else model


def parted_at_a_tie(target, found, expected):
    """Whether the texts are equal, or part where the two best logits are equal up to rounding."""
    if found == expected:
        return True
    place = next(i for i, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b)
    target.truncate(0)
    logits = np.sort(to_numpy(target.forward(np.asarray(expected[:place])).logits[-1]))
    return logits[-1] - logits[-2] <= allowed(
        COMPARISONS["logits, float32"], max(1.0, np.abs(logits).max())
    )


@pytest.mark.parametrize(
    ("kind", "form", "choice"),
    with_both_kernels(
        [(kind, form) for kind in ("none", *HEADS) for form in FORMS],
        quick=[
            ("none", "trained int4"),
            ("token_conditioned", "float32"),
            ("parallel", "int4"),
            ("sequential", "int4"),
        ],
    ),
)
def test_decoding_reads_as_on_the_host(device, choose_kernels, kind, form, choice):
    choose_kernels(choice, device)
    model = model_with(kind)
    host, host_drafter = deploy(in_form(replicate(model), form))
    target, drafter = deploy(in_form(moved(model, device), form))
    greedy, narrow, wide = SamplingParams(0.0), SamplingParams(0.9, 20, 0.95), SamplingParams(0.8)
    cases = [
        (greedy, "token", 0),
        (narrow, "shared-noise", 0),
        (wide, "token", 0),
        (greedy, "token", 7),
    ]
    cases += [(wide, "shared-noise", 7), (wide, "block", 7)]
    for seed, (law, rule, tree) in enumerate(cases):
        runs = [
            start_generation(
                t,
                d,
                [3, 1, 4, 1, 5],
                max_new_tokens=12,
                sampling=law,
                rule=rule,
                seed=seed,
                tree=tree,
            )
            for t, d in ((host, host_drafter), (target, drafter))
        ]
        for run in runs:
            list(run)
        assert len(runs[1].tokens) == len(runs[0].tokens)
        if law.greedy:
            assert parted_at_a_tie(host, runs[1].tokens, runs[0].tokens)
        elif rule == "shared-noise":  # only a tie within 1e-6 of a random score could part them
            assert runs[1].tokens == runs[0].tokens


@pytest.mark.parametrize("choice", ["plain", "auto"])
@pytest.mark.parametrize("way", ["n-gram", "small model", "adaptive", "penalty", "batch"])
def test_every_way_to_write_reads_as_on_the_host(device, choose_kernels, way, choice):
    choose_kernels(choice, device)
    texts = []
    for chosen in (choose_device("cpu"), device):
        target, drafter = deploy(moved(model_with("token_conditioned"), chosen))
        options = dict(max_new_tokens=10, sampling=SamplingParams(0.8), seed=4)
        if way == "n-gram":
            drafter = NgramDrafter()
        elif way == "small model":
            drafter = ModelDrafter(
                deploy(moved(model_with("none", seed=5), chosen))[0], max_depth=3
            )
        elif way == "adaptive":
            options["policy"] = AdaptivePolicy(Costs(target, drafter.max_depth), drafter.max_depth)
        elif way == "penalty":
            options["logits_processors"] = [RepetitionPenalty(1.4)]
        if way == "batch":
            batch = start_batch(target, drafter, [[3, 1, 4], [1, 5]], **options)
            list(batch)
            texts.append([row.tokens for row in batch.rows])
        else:
            generation = start_generation(target, drafter, [3, 1, 4, 3, 1], **options)
            list(generation)
            texts.append(generation.tokens)
    assert texts[1] == texts[0]  # only a tie within 1e-6 of a random score could part them


def test_a_long_text_keeps_little_noise_on_the_device_and_no_more_graphs_than_it_has_lengths(
    device, choose_kernels
):
    choose_kernels("auto", device)
    target, drafter = deploy(moved(model_with("token_conditioned"), device), context_length=400)
    generation = start_generation(
        target, drafter, [3, 1, 4], max_new_tokens=300, sampling=SamplingParams(0.8), draft_depth=2
    )
    held = []
    for _ in generation:
        assert len(generation._rule.noise._blocks[device.xp]) <= 3
        held.append(gpu_pool_bytes())
    assert held[-1] - held[100] <= 3 * GumbelNoise.BLOCK * SHAPE.vocabulary_size * 8
    # Steps of 3 tokens, the prompt's as well, and of 1 or 2 at the end of the text.
    assert target._trunk.graphs.recorded() <= 3 and drafter._step.graphs.recorded() <= 2


def test_the_devices_pool_has_a_limit_below_its_memory(device):
    choose_device("cuda")
    assert (
        0 < device.xp.get_default_memory_pool().get_limit() < device.xp.cuda.runtime.memGetInfo()[1]
    )


def test_the_stand_in_refuses_what_a_gpu_refuses():
    array, host = strict_cupy.ones(3), np.ones(3)
    for attempt in (
        lambda: np.asarray(array), lambda: np.exp(array), lambda: array + host, lambda: host * array, lambda: array[[0, 1]],
        lambda: array.__setitem__(0, host), lambda: strict_cupy.concatenate([array, host]), lambda: array[array.argmax() :],
        lambda: strict_cupy.ones((2, 4))[:, :2].view(complex),
    ):  # fmt: skip
        with pytest.raises(TypeError):
            attempt()
    assert type(array.sum()) is type(array[0]) is strict_cupy.ndarray
    assert isinstance(np.float32(2) * array, strict_cupy.ndarray)


@pytest.mark.skipif(
    importlib.util.find_spec("cupy") is None,
    reason="CuPy is not installed: nothing to compare the names with",
)
def test_every_function_of_the_stand_in_exists_in_cupy():
    functions = {
        name
        for name, value in vars(strict_cupy).items()
        if callable(value) and not name.startswith("_")
    }
    functions -= {"Refused", "CaptureError", "SimpleNamespace"}
    methods = {name for name in vars(strict_cupy.ndarray) if not name.startswith("_")}
    code = (
        f"import cupy; print([n for n in {functions} if not hasattr(cupy, n)],"
        f" [n for n in {methods} if not hasattr(cupy.ndarray, n)])"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert output.split() == ["[]", "[]"]
