"""Measure a run folder for a plan: c(T), acceptance by depth, and the cost of drafting.

The prompts are held-out text, as in `minimtp bench decode`. Drafts have a fixed length. Shorter
ones are trials for the cost of drafting.
"""

from pathlib import Path

from minimtp.bench.decode.prompts import Sizes, choose_prompts, fit_to_context
from minimtp.bench.interleaved import Variant, measure_interleaved
from minimtp.decode.drafters.deploy import deploy
from minimtp.decode.policy import cost
from minimtp.decode.sampling.params import GREEDY
from minimtp.formats.load import load
from minimtp.machine import processor
from minimtp.model.matrix import bits_per_weight, weight_bytes
from minimtp.plan.candidates import Candidate
from minimtp.plan.costs.sizes import Hardware
from minimtp.plan.measured import MeasuredCost, PassTimes, acceptance_of, line_through, this_machine

PLAIN, DRAFTING = "without drafts", "with drafts"
SIZES = Sizes(prompts=4, prompt=32, max_new_tokens=96, repeats=2)
TEXTS = ("code",)


def from_run(path: str | Path) -> tuple[list[Candidate], Hardware, str, dict[str, int]]:
    """Return (configurations, machine, title, settings) of a run or a .gguf file, measured now.

    Raises UserError if it cannot be loaded.
    """
    loaded = load(path)
    sizes = fit_to_context(SIZES, loaded)
    prompts = choose_prompts(loaded, TEXTS, sizes, seed=0)[0]["code"]
    target, drafter = deploy(loaded.model)
    plain = Variant(PLAIN, target)
    lengths = sorted({1, 3, drafter.max_depth} if drafter else ())
    variants = [Variant(f"{n}", target, drafter, n) for n in lengths if n <= drafter.max_depth]
    speeds = measure_interleaved(
        [plain, *variants],
        prompts,
        max_new_tokens=sizes.max_new_tokens,
        sampling=GREEDY,
        repeats=sizes.repeats,
    )
    target.truncate(0)
    target.forward(prompts[0])
    passes = PassTimes(dict(zip(cost.MEASURED, cost.measure(target), strict=False)))
    loop = max(0.0, 1 / speeds[PLAIN].tokens_per_second - passes(1))
    trials = [speeds[v.name] for v in variants]
    start, each = line_through(
        [(speed.drafted_per_step, speed.drafting_seconds_per_step) for speed in trials]
    )
    drafted = tuple(trials[-1].drafted) if trials else ()
    measured = MeasuredCost(passes, loop, 0.0, start, each, drafted)
    weights, context = weight_bytes(loaded.model), target.context_length
    cache = target.cache_bytes(context) / context
    candidates = [Candidate(PLAIN, weights, cache, lambda devices: measured)]
    if trials:
        shares = [None if share != share else share for share in trials[-1].acceptance]
        accepted = acceptance_of(drafted, shares)
        candidates.append(
            Candidate(DRAFTING, weights, cache, lambda devices: measured, accepted, PLAIN)
        )
    title = (
        f"{path} ({bits_per_weight(loaded.model):.2f} bits per weight), measured on this machine"
    )
    lengths = {"prompt_tokens": sizes.prompt, "new_tokens": sizes.max_new_tokens}
    return candidates, this_machine(processor()), title, lengths
