"""Lesson 4: python -m lessons.lesson04_generating"""

from lessons import course
from lessons.lesson04_generating.generate import drawn_from, remember, timed, ways
from lessons.lesson04_generating.plot import draw
from minimtp.decode.runtime import ModelRunner
from minimtp.decode.sampling import GREEDY, SamplingParams
from minimtp.training.checkpoint import load

PROMPT = "def "
PROPERTIES = {
    "temperature 0": GREEDY,
    "temperature 1": SamplingParams(),
    "temperature 0.7, top-p 0.9": SamplingParams(0.7, top_p=0.9),
}


def main(lesson: course.Lesson) -> None:
    """How does a model generate text without processing the whole text again for each byte?"""
    run = load(lesson.trained(3), lesson.device.name)
    prompt = [int(token) for token in run.tokenizer.encode(PROMPT)]
    runtime = ModelRunner(
        run.model, 4 * run.recipe.context_length
    )  # longer texts than it was trained on: only to see the time
    count = run.recipe.context_length - len(prompt)
    texts, seconds, speeds = {}, {}, []
    print(f'{count} bytes after "{PROMPT}"')
    for way, writer in ways(run.model, runtime, lesson.device, prompt).items():
        texts[way], seconds[way] = timed(writer, runtime.context_length - len(prompt) - 1)
        speeds.append((count - 1) / sum(seconds[way][: count - 1]))
        print(f"  {way:<41}{speeds[-1]:>7,.0f} tokens/s")
    print(f"  all three write the same text: {len(set(map(tuple, texts.values()))) == 1}")
    print(
        f"  the cache takes {ModelRunner(run.model).cache.nbytes:,} bytes for {run.recipe.context_length} positions"
    )

    for name, law in PROPERTIES.items():
        text, _ = timed(remember(runtime, prompt, drawn_from(law)), count)
        print(f"\n{name}\n" + course.quoted(PROMPT + run.tokenizer.decode(text)))
    lesson.save_plot(draw, seconds, run, "import ")
    lesson.result(
        "writing",
        ("rereading", f"{speeds[0]:,.0f} tokens/s"),
        ("a cache", f"{speeds[2]:,.0f} tokens/s"),
    )


if __name__ == "__main__":
    course.run(4, main)
