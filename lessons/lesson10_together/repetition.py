"""How much of a text was to be expected because the text has said it before, and how slow writing can be made."""

from collections.abc import Sequence

from lessons.lesson04_generating.generate import recompute_with_training_code, sampler, timed
from minimtp.backend import Device
from minimtp.backend import numpy as np
from minimtp.decode.decoder import deploy
from minimtp.decode.drafters.ngram import NgramDrafter
from minimtp.decode.options import start_generation
from minimtp.decode.sampling import GREEDY, SamplingParams
from minimtp.training.checkpoint import LoadedRun


def looked_up(texts: Sequence[Sequence[int]], start: int) -> float:
    """The share of the tokens from `start` on that are what followed when the text last said the same three tokens."""
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


def written(
    run: LoadedRun, prompts: Sequence[np.ndarray], count: int, sampling: SamplingParams
) -> list[list[int]]:
    """The model's own texts, prompts included."""
    target, _ = deploy(run.model)
    return [
        [
            *map(int, p),
            *start_generation(target, None, p, max_new_tokens=count, sampling=sampling, seed=s),
        ]
        for s, p in enumerate(prompts)
    ]


def rereading_speed(run: LoadedRun, prompt: np.ndarray, count: int, device: Device) -> float:
    """Tokens a second of lesson 4's first way to write."""
    writer = recompute_with_training_code(run.model.trunk, device, prompt.tolist(), sampler(GREEDY))
    next(writer)
    return (count - 1) / sum(timed(writer, count - 1)[1])
