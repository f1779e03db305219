"""Lesson 4: python -m lessons.lesson04_generating"""

from lessons import course
from lessons.lesson04_generating.generate import generators, sampler, settings, timed, with_cache
from lessons.lesson04_generating.plot import draw
from minimtp.decode.model_runner import ModelRunner
from minimtp.formats.load import load

PROMPT = "def "


def main(lesson: course.Lesson) -> None:
    """How does a model generate text without processing the whole text again for each byte?"""
    run = load(lesson.trained(3), lesson.device.name)
    prompt = [int(token) for token in run.tokenizer.encode(PROMPT)]
    # Longer sequences than the model was trained on, only to measure the time.
    runner = ModelRunner(run.model, 4 * run.recipe.context_length)
    count = run.recipe.context_length - len(prompt)
    texts, seconds, speeds = {}, {}, []
    print(f'{count} bytes after "{PROMPT}"')
    for name, generator in generators(run.model, runner, lesson.device, prompt).items():
        texts[name], seconds[name] = timed(generator, runner.context_length - len(prompt) - 1)
        speeds.append((count - 1) / sum(seconds[name][: count - 1]))
        print(f"  {name:<41}{speeds[-1]:>7,.0f} tokens/s")
    print(f"  all three generate the same text: {len(set(map(tuple, texts.values()))) == 1}")
    cache_bytes = ModelRunner(run.model).cache.nbytes
    print(f"  the cache takes {cache_bytes:,} bytes for {run.recipe.context_length} positions")

    for name, sampling in settings().items():
        text, _ = timed(with_cache(runner, prompt, sampler(sampling)), count)
        print(f"\n{name}\n" + course.quoted(PROMPT + run.tokenizer.decode(text)))
    lesson.save_plot(draw, seconds, run, "import ", size=(11, 4))
    lesson.result(
        "generation speed",
        ("without a cache", f"{speeds[1]:,.0f} tokens/s"),  # the same code as with the cache
        ("with a KV cache", f"{speeds[2]:,.0f} tokens/s"),
    )


if __name__ == "__main__":
    course.run(4, main)
