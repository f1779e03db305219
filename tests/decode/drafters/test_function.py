"""A function drafter receives the text and nothing else."""

from minimtp.decode.drafters.function import FunctionDrafter
from minimtp.decode.model_runner import ModelRunner
from minimtp.decode.options import GenerationOptions, start_generation
from minimtp.decode.sampling.params import GREEDY
from tests.decode.drafters.helpers import model_with


def test_a_function_drafter_receives_the_whole_text_and_is_reset_for_a_new_text():
    seen = []
    drafter = FunctionDrafter(
        lambda tokens, depth, rule: (seen.append(list(tokens)), ([0] * depth, None))[1], 2
    )
    runtime = ModelRunner(model_with("parallel").trunk)
    for prompt in ([5, 6, 7], [8]):
        run = start_generation(
            runtime, drafter, prompt, GenerationOptions(max_new_tokens=6, sampling=GREEDY)
        )
        seen.clear()
        states = [list(run.tokens) for _ in run.rounds()]
        assert seen == states[: len(seen)] and seen[0][: len(prompt)] == prompt


def test_a_function_drafter_receives_no_hidden_states():
    told = []
    drafter = FunctionDrafter(lambda tokens, depth, rule: ([0] * depth, None), 2)
    commit = drafter.commit
    drafter.commit = lambda hidden, tokens: (told.append(hidden), commit(hidden, tokens))
    list(
        start_generation(
            ModelRunner(model_with("parallel").trunk),
            drafter,
            [5, 6, 7],
            GenerationOptions(max_new_tokens=6),
        )
    )
    assert told and all(hidden is None for hidden in told)
