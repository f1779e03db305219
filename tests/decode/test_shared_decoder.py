"""Several texts at the same time on one decoder: each is the text that is generated alone."""

import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from random import Random
from time import sleep

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimtp.backend import numpy as np
from minimtp.decode import cache, model_runner
from minimtp.decode.decoder import Decoder
from minimtp.decode.drafters.config import DraftConfig
from minimtp.decode.drafters.deploy import deploy
from minimtp.decode.drafters.heads import block_heads, eagle3
from minimtp.decode.model_runner import ModelRunner
from minimtp.decode.options import GenerationOptions, start_generation
from minimtp.decode.sampling.params import SamplingParams
from minimtp.decode.states import DecodingStates
from minimtp.errors import UserError
from minimtp.model.loaded import LoadedModel
from minimtp.model.rotary import Rotary
from tests.decode.drafters.helpers import SHAPE, model_with
from tests.decode.test_decoder import ByteNumbers
from tests.helpers.heads import KINDS

DRAFTS = [*KINDS, "ngram", "none", "model", "function", "tree"]
PROMPTS = [bytes([7 * n % SHAPE.vocabulary_size, n, 3]) for n in range(8)]


def made(draft, dtype=np.float32):
    kind = draft if draft in KINDS else "token_conditioned"
    loaded = LoadedModel("nowhere", model_with(kind, dtype), ByteNumbers())
    config = {
        "ngram": DraftConfig("ngram", length=3),
        "none": DraftConfig("none"),
        "model": DraftConfig(loaded, length=2),
        "function": DraftConfig(lambda tokens, depth, rule: ([3] * depth, None), length=2),
        "tree": DraftConfig(length=3, tree=4),
    }.get(draft, DraftConfig(length=3))
    return Decoder(loaded, config)


@pytest.fixture(scope="module", params=DRAFTS)
def decoder(request):
    return made(request.param)


def started(decoder, number):
    return decoder.generate(
        PROMPTS[number], sampling=SamplingParams(0.9 * (number % 2)), seed=number, max_new_tokens=12
    )


def alone(decoder):
    return [list(started(decoder, number)) for number in range(len(PROMPTS))]


def unused(decoder):
    return len(decoder._states._unused)


@settings(max_examples=6)
@given(seed=st.integers(0, 10**6))
def test_texts_that_take_turns_are_the_texts_generated_alone(decoder, seed):
    """Some are abandoned or closed half-way, some begin when others have ended."""
    random, expected = Random(seed), alone(decoder)
    running, found = {}, {}
    for _ in range(150):
        number = random.randrange(len(PROMPTS))
        if number not in running:
            running[number], found[number] = started(decoder, number), []
        elif random.random() < 0.05:
            if random.random() < 0.5:
                running[number].close()
                assert list(running[number]) == [] and running[number].reason is not None
            del running[number], found[number]
        else:
            found[number] += [token for _, token in zip(range(3), running[number], strict=False)]
            assert found[number] == expected[number][: len(found[number])]
    for number, generation in running.items():
        assert found[number] + list(generation) == expected[number]
    running.clear()
    assert unused(decoder) == 1


def test_texts_of_several_threads_are_the_texts_generated_alone(decoder):
    expected = alone(decoder)
    with ThreadPoolExecutor(4) as pool:
        numbers = list(range(len(PROMPTS))) * 6
        found = list(pool.map(lambda number: list(started(decoder, number)), numbers))
    assert found == [expected[number] for number in numbers]
    assert unused(decoder) == 1


def test_a_batch_and_single_texts_may_take_turns(decoder):
    expected = alone(decoder)
    rows = [list(row) for row in decoder.generate_batch(PROMPTS, max_new_tokens=8).rows]
    batch, found = decoder.generate_batch(PROMPTS, max_new_tokens=8), [[] for _ in PROMPTS]
    single = started(decoder, 3)
    text = []
    for row, token in batch:
        found[row].append(token)
        text += [token for _, token in zip(range(1), single, strict=False)]
    assert found == rows and text + list(single) == expected[3]


def test_an_abandoned_text_gives_its_cache_back_at_once_without_the_garbage_collector():
    decoder, clones = made("token_conditioned"), []
    clone = decoder.target.clone
    decoder.target.clone = lambda: (clones.append(1), clone())[1]
    gc.disable()
    try:
        for number in range(len(PROMPTS)):
            next(started(decoder, number))
            next(started(decoder, number).rounds())
            for _ in started(decoder, number):
                break
    finally:
        gc.enable()
    assert not clones and unused(decoder) == 1


class Stumbles(Exception):
    pass


@pytest.mark.parametrize("error", [Stumbles, KeyboardInterrupt, StopIteration, GeneratorExit])
@pytest.mark.parametrize("at", range(1, 4))
def test_after_an_error_in_a_callback_the_text_has_ended_and_others_are_unaffected(error, at):
    calls = []

    def function(tokens, depth, rule):
        calls.append(1)
        if len(calls) == at:
            raise error
        return [3] * depth, None

    decoder = made("function")
    decoder.drafter.function = function
    expected = list(made("function").generate(PROMPTS[0], max_new_tokens=12))
    generation = decoder.generate(PROMPTS[0], max_new_tokens=12)
    other = decoder.generate(PROMPTS[0], max_new_tokens=12)
    with pytest.raises(RuntimeError if error is StopIteration else error):
        list(generation)
    assert generation.reason == "error" and generation.tokens[3:] == expected[:at]
    for _ in range(2):
        with pytest.raises(UserError, match="ended with an error: start a new generation"):
            next(generation)
    assert list(other) == expected
    assert list(decoder.generate(PROMPTS[0], max_new_tokens=12)) == expected


def test_a_callback_may_generate_another_text_but_not_continue_its_own():
    inner, refused = [], []

    def function(tokens, depth, rule):
        inner.append(list(decoder.generate(PROMPTS[1], max_new_tokens=3)) if len(tokens) < 9 else 0)
        for again in (lambda: next(outer), outer.close):
            try:
                again()
            except UserError as error:
                refused.append(str(error))
        return [3] * depth, None

    decoder = made("function")
    expected = [list(decoder.generate(prompt, max_new_tokens=9)) for prompt in PROMPTS[:2]]
    depth = 0

    def guarded(tokens, depth_, rule):
        nonlocal depth
        depth += 1
        try:
            return function(tokens, depth_, rule) if depth == 1 else ([3] * depth_, None)
        finally:
            depth -= 1

    decoder.drafter.function = guarded
    outer = decoder.generate(PROMPTS[0], max_new_tokens=9)
    assert list(outer) == expected[0]
    assert inner[0] == expected[1][:3]
    assert refused and all("in the middle of a round" in sentence for sentence in refused)


def test_two_threads_that_share_one_text_get_its_tokens_or_an_error_that_says_how():
    entered, leave = threading.Event(), threading.Event()

    def function(tokens, depth, rule):
        entered.set()
        assert leave.wait(10)
        return [3] * depth, None

    decoder = made("function")
    expected = list(decoder.generate(PROMPTS[0], max_new_tokens=6))
    decoder.drafter.function = function
    generation = decoder.generate(PROMPTS[0], max_new_tokens=6)
    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(list, generation)
        assert entered.wait(10)
        for use in (lambda: next(generation), generation.close):
            with pytest.raises(UserError, match="start a generation of its own"):
                use()
        leave.set()
        assert result.result() == expected


def test_on_a_gpu_the_rounds_of_threads_do_not_overlap_and_a_round_may_contain_another():
    running, most = 0, 0

    def function(tokens, depth, rule):
        nonlocal running, most
        running += 1
        most = max(most, running)
        sleep(0.001)
        running -= 1
        return [3] * depth, None

    decoder = made("function")
    expected = list(decoder.generate(PROMPTS[0], max_new_tokens=6))
    decoder.drafter.function = function
    decoder._states.lock = DecodingStates(None, None, one_at_a_time=True).lock
    with ThreadPoolExecutor(4) as pool:
        found = list(
            pool.map(lambda _: list(decoder.generate(PROMPTS[0], max_new_tokens=6)), range(8))
        )
    assert found == [expected] * 8 and most == 1
    decoder, inner = made("function"), []
    decoder._states.lock = DecodingStates(None, None, one_at_a_time=True).lock

    def nested(tokens, depth, rule):
        if not inner:
            inner.append(None)
            inner[0] = list(decoder.generate(PROMPTS[0], max_new_tokens=6))
        return [3] * depth, None

    decoder.drafter.function = nested
    assert list(decoder.generate(PROMPTS[0], max_new_tokens=6)) == expected == inner[0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_that_is_cloned_while_its_original_grows_is_whole(kind, monkeypatch):
    """Another thread may ask for a clone between any two steps of growing."""
    monkeypatch.setattr(cache, "FIRST_ROOM", 4)
    target, drafter = deploy(model_with(kind))
    options = GenerationOptions(max_new_tokens=20, draft_depth=3)
    clones = []

    def cloning(function):
        def step(*arguments):
            clones.append((target.clone(), drafter.clone()))
            result = function(*arguments)
            clones.append((target.clone(), drafter.clone()))
            return result

        return step

    with monkeypatch.context() as patched:
        for module in (model_runner, block_heads, eagle3):
            for name in ("enlarged", "with_rows"):
                if hasattr(module, name):
                    patched.setattr(module, name, cloning(getattr(module, name)))
        patched.setattr(Rotary, "tables", cloning(Rotary.tables))
        text = list(start_generation(target, drafter, [1, 2, 3], options))
    assert clones
    for clone in clones:
        assert list(start_generation(*clone, [1, 2, 3], options)) == text


def test_the_passes_that_load_kernels_wait_for_other_threads_where_rounds_do(monkeypatch):
    decoder, forward, held = made("token_conditioned"), ModelRunner.forward, []
    decoder._states.lock = threading.RLock()  # as on a GPU

    def recorded(self, tokens):
        held.append(decoder._states.lock._is_owned())
        return forward(self, tokens)

    monkeypatch.setattr(ModelRunner, "forward", recorded)
    list(started(decoder, 0))
    assert held and all(held)


def test_without_a_seed_every_sampled_text_is_another_one():
    decoder = made("none", np.float64)
    texts = {
        tuple(decoder.generate(PROMPTS[0], max_new_tokens=12, sampling=SamplingParams(1.0)))
        for _ in range(4)
    }
    assert len(texts) > 1
