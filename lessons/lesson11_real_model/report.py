"""Lesson 11's output: what int4 costs, what drafting gains, and the files.

`show` needs only the results. So the lesson's text shows its output for data/results/smollm2.json.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from lessons import course
from minimtp.backend import Device
from minimtp.compare.pretrained.configurations import LLAMA
from minimtp.compare.result_cache import Figures
from minimtp.decode.drafters.deploy import deploy
from minimtp.decode.options import GenerationOptions, start_generation
from minimtp.formats.export import export
from minimtp.formats.load import load
from minimtp.training.run.folder import LoadedRun
from minimtp.training.self_generated.requests import conversation_tokens

QUESTION = "Why is the sky blue?"
NEW_TOKENS = 48
GGUF, FOLDER = "mtp_qat_int4.gguf", "transformers"
Results = Sequence[Figures]  # of the configurations, in the order of compare.json


def show(lesson: course.Lesson, found: Results) -> None:
    """Print the tables, and the result of the lesson."""
    by_name = {c["name"]: c for c in found}
    rounded = [c for c in found if any(c["kl"].values())]
    float32 = by_name["standard"]
    kinds = tuple(float32["nats"])
    show_table(
        "increase of nats over float32", rounded, kinds, lambda c, kind: f"{lost(c, kind):.2f} %"
    )
    show_table(
        "KL divergence from float32", rounded, kinds, lambda c, kind: f"{c['kl'][kind]:.3f} nats"
    )
    show_table(
        "next tokens that change",
        rounded,
        kinds,
        lambda c, kind: f"{100 * (1 - c['agreement'][kind]):.1f} %",
    )
    kinds = tuple(float32["speedup"])
    show_table("speed-up", found, kinds, lambda c, kind: f"{c['speedup'][kind]:.2f} x")
    drafting = [c for c in found if c.get("greedy_texts")]
    show_table(
        "speed-up by drafts alone",
        drafting,
        kinds,
        lambda c, kind: f"{c['speedup_over_plain'][kind]:.2f} x",
    )
    show_table(
        "tokens per second", found, kinds, lambda c, kind: f"{c['tokens_per_second'][kind]:,.0f}"
    )
    show_table(
        "tokens per forward pass",
        drafting,
        kinds,
        lambda c, kind: f"{c['tokens_per_step'][kind]:.2f}",
    )
    show_table(
        "repeated 4-grams", found, kinds, lambda c, kind: f"{100 * c['repetition'][kind]:.0f} %"
    )
    print(f"\n{'size':<30}{'weights':>12}{'bits each':>12}{'memory':>12}")
    for c in found:
        size, memory = (f"{c[key] / 1e6:,.1f} MB" for key in ("weight_bytes", "memory_bytes"))
        # The file of llama.cpp also holds the tokenizer.
        bits = "-" if c["name"] == LLAMA else f"{c['bits_per_weight']:.2f}"
        print(f"  {c['title']:<28}{size:>12}{bits:>12}{memory:>12}")
    before, now = (f"{lost(by_name[n], 'chat'):.2f} %" for n in ("int4_rtn", "mtp_qat_int4"))
    title = "increase of nats per token on conversations with 4-bit weights"
    lesson.result(title, ("rounded to nearest", before), ("GPTQ, then training", now))


def show_table(
    title: str, found: Results, kinds: Sequence[str], cell: Callable[[Figures, str], str]
) -> None:
    """Print a row per configuration and a column per kind of text."""
    print(f"\n{title:<30}" + "".join(f"{kind:>12}" for kind in kinds))
    for c in found:
        print(f"  {c['title']:<28}" + "".join(f"{cell(c, kind):>12}" for kind in kinds))


def lost(configuration: Figures, kind: str) -> float:
    """Return by how many percent the nats per token exceed those of the float model."""
    return 100.0 * (100.0 / configuration["quality_percent"][kind] - 1.0)


def show_answers(out: Path, reference: LoadedRun, device: Device) -> None:
    """Print what three of the configurations answer to the same question."""
    print(course.quoted(QUESTION))
    for name in ("standard", "int4_rtn", "mtp_qat_int4"):
        loaded = reference if name == "standard" else load(out / name, device.name)
        print(course.quoted(f"{name:<14}{answer(loaded)}"))


def answer(loaded: LoadedRun) -> str:
    """Return the beginning of a model's answer to the question."""
    tokenizer = loaded.tokenizer
    prompt = conversation_tokens(tokenizer, [[{"role": "user", "content": QUESTION}]])[0]
    target, _ = deploy(loaded.model)
    options = GenerationOptions(NEW_TOKENS, stop_tokens=tokenizer.end_tokens)
    text = tokenizer.decode([*start_generation(target, None, prompt, options)])
    return " ".join(text.split())


def show_files(out: Path) -> None:
    """Write the int4 model for llama.cpp and for transformers, and print where."""
    packed = load(out / "mtp_qat_int4")
    print(course.quoted(f"for llama.cpp: {export(packed, out / GGUF).path}"))
    if not (out / FOLDER).exists():
        export(packed, out / FOLDER)
    print(course.quoted(f"for transformers and vLLM: {out / FOLDER}"))
