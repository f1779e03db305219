"""Lesson 4: python -m lessons.lesson04_generating"""

from lessons import course
from lessons.lesson04_generating.generate import (
    generators,
    logits_difference,
    measure,
    sampler,
    settings,
    timed,
    with_cache,
)
from lessons.lesson04_generating.plot import draw
from minimtp.decode.model_runner import ModelRunner
from minimtp.formats.load import load

PROMPT = "def "


def main(lesson: course.Lesson) -> None:
    """How does a model generate text without processing the whole text again for each byte?"""
    run = load(lesson.trained(3), lesson.device.name)
    prompt = [int(token) for token in run.tokenizer.encode(PROMPT)]
    # The plot shows longer sequences than the model was trained on.
    runner = ModelRunner(run.model, 4 * run.recipe.context_length)
    count = run.recipe.context_length - len(prompt)
    print(f'{count} bytes after "{PROMPT}"')
    ways = generators(run.model, runner, lesson.device, prompt)
    texts, seconds = measure(ways, count, turns=10)
    speeds = {name: count / sum(times) for name, times in seconds.items()}
    for name, speed in speeds.items():
        print(f"  {name:<41}{speed:>7,.0f} tokens/s")
    print(f"  all three generate the same text: {len(set(map(tuple, texts.values()))) == 1}")
    samples = {
        name: timed(with_cache(runner, prompt, sampler(sampling)), count)[0]
        for name, sampling in settings().items()
    }
    sampled = prompt + samples["temperature 1"]
    difference = logits_difference(run.model, runner, lesson.device, sampled)
    print(f"  logits with and without the cache differ by at most {difference:.1e}")
    cache_bytes = ModelRunner(run.model).cache.nbytes
    print(f"  the cache takes {cache_bytes:,} bytes for {run.recipe.context_length} positions")

    for name, text in samples.items():
        print(f"\n{name}\n" + course.quoted(PROMPT + run.tokenizer.decode(text)))
    _, seconds = measure(ways, runner.context_length - len(prompt), turns=3)
    lesson.save_plot(draw, seconds, len(prompt), run, "import ", size=(11, 4))
    _, before, now = (f"{speed:,.0f} tokens/s" for speed in speeds.values())  # both: decoding code
    lesson.result("generation speed", ("without a cache", before), ("with a KV cache", now))


if __name__ == "__main__":
    course.run(4, main)
