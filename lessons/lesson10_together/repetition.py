"""How repetitive texts are, and the speed of the slowest way to generate text."""

from collections.abc import Sequence

from lessons.lesson04_generating.generate import recompute_with_training_code, sampler, timed
from minimtp.backend import Device
from minimtp.backend import numpy as np
from minimtp.decode.drafters.deploy import deploy
from minimtp.decode.drafters.ngram import NgramDrafter
from minimtp.decode.options import GenerationOptions, start_generation
from minimtp.decode.sampling.params import GREEDY, SamplingParams
from minimtp.training.run.folder import LoadedRun


def repetition_rate(texts: Sequence[Sequence[int]], start: int) -> float:
    """Return the fraction of the tokens from `start` on that a repetition predicts.

    The prediction is the token that followed the last earlier occurrence of the longest match of 3
    to 12 tokens (`NgramDrafter`).
    """
    right = total = 0
    for text in texts:
        drafter = NgramDrafter()
        drafter.reset(text[0])
        drafter.commit(None, np.array(text[1:start]))
        for token in text[start:]:
            right += drafter.draft(1, None)[0] == [token]
            total += 1
            drafter.commit(None, np.array([token]))
    return right / total


def generate_texts(
    run: LoadedRun, prompts: Sequence[np.ndarray], count: int, sampling: SamplingParams
) -> list[list[int]]:
    """Return one text of the model per prompt, including the prompt."""
    target, _ = deploy(run.model)
    texts = []
    for seed, prompt in enumerate(prompts):
        options = GenerationOptions(count, sampling, seed)
        tokens = start_generation(target, None, prompt, options)
        texts.append([*map(int, prompt), *tokens])
    return texts


def recompute_speed(run: LoadedRun, prompt: np.ndarray, count: int, device: Device) -> float:
    """Return the tokens per second of lesson 4's slowest method, in greedy decoding."""
    generator = recompute_with_training_code(
        run.model.trunk, device, prompt.tolist(), sampler(GREEDY)
    )
    next(generator)
    return (count - 1) / sum(timed(generator, count - 1)[1])
