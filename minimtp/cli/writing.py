"""`minimtp generate`: one text as it grows, or several."""

import argparse
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from minimtp.cli.values import use_kernels
from minimtp.errors import UserError


def generate(options: argparse.Namespace) -> int:
    import minimtp
    from minimtp.decode.display.terminal import show, visible
    from minimtp.decode.display.trace import Trace, require_place

    use_kernels(options)
    prompts = _prompts(options)
    if len(prompts) > 1 and (options.trace or options.show):
        raise UserError("--show and --trace follow one text: give one --prompt")
    if options.trace:
        require_place(options.trace)
    run = minimtp.load(options.run, device=options.device)
    decoder = _decoder(run, options, options.draft)
    settings = dict(max_new_tokens=options.max_new_tokens, temperature=options.temperature, top_k=options.top_k, top_p=options.top_p,
                    seed=options.seed, rule=options.rule, stop=options.stop,
                    repetition_penalty=options.repetition_penalty)  # fmt: skip
    if len(prompts) > 1:
        _write_batch(decoder.generate_batch(prompts, **settings), prompts, run)
        return 0
    prompt = prompts[0]
    generation = decoder.generate(prompt, **settings)
    if options.trace:
        generation = Trace(generation)
    if options.show:
        show(generation, run.tokenizer)
    else:
        safe = (
            visible if sys.stdout.isatty() else str
        )  # a terminal obeys control characters, a file keeps them
        print(
            prompt.decode("utf-8", "replace") if isinstance(prompt, bytes) else prompt,
            end="",
            flush=True,
        )
        for text in stream(generation, run.tokenizer):
            print(safe(text), end="", flush=True)
    statistics = generation.statistics
    print(
        f"\n{statistics.emitted} tokens, {statistics.tokens_per_second:,.0f} tokens/s, "
        f"{statistics.tokens_per_step:.2f} tokens/step; {_ending(generation, run)}",
        file=sys.stderr,
    )
    if options.trace:
        _write_trace(options, run, generation, prompt, settings)
    return 0


def _prompts(options: argparse.Namespace) -> list[str | bytes]:
    """The texts to continue: each --prompt, then each line of --prompts."""
    prompts = [sys.stdin.buffer.read() if prompt == "-" else prompt for prompt in options.prompt]
    if options.prompts:
        try:
            lines = Path(options.prompts).read_bytes().splitlines()
        except OSError as error:
            raise UserError(
                f"the prompts {options.prompts} cannot be read: {error.strerror}"
            ) from None
        prompts += [line for line in lines if line]
        if not prompts:
            raise UserError(f"{options.prompts} holds no prompts: write one a line")
    return prompts or ["import "]


def _decoder(run: object, options: argparse.Namespace, draft: str) -> object:
    import minimtp
    from minimtp.decode.decoder import Decoder

    kind, _, folder = draft.partition(":")
    drafting = minimtp.load(folder, device=options.device) if kind == "model" and folder else draft
    return Decoder(run, drafting, options.draft_length, options.draft_confidence, options.tree)


def _write_batch(batch: object, prompts: list[str | bytes], run: object) -> None:
    """Each text under its number as soon as it and those before it are finished; what they cost together at the end."""
    from minimtp.decode.display.terminal import visible

    safe = visible if sys.stdout.isatty() else str
    printed = 0
    for _ in batch.rounds():
        while printed < len(batch.rows) and batch.rows[printed].reason is not None:
            row = batch.rows[printed]
            printed += 1
            print(f"[{printed}] {safe(run.tokenizer.decode(row.tokens))}", flush=True)
            print(
                f"[{printed}] {row.statistics.emitted} tokens; {_ending(row, run)}", file=sys.stderr
            )
    counts = [row.statistics for row in batch.rows]
    seconds = sum(count.seconds_draft + count.seconds_verify for count in counts)
    after, steps = sum(count.emitted - 1 for count in counts), sum(count.steps for count in counts)
    print(
        f"{after + len(counts)} tokens in {len(counts)} texts, {after / seconds if steps else 0:,.0f} tokens/s, "
        f"{after / steps if steps else 1:.2f} tokens/step",
        file=sys.stderr,
    )


def _ending(generation: object, run: object) -> str:
    return {
        "stop": "the text ended", "length": "--max-new-tokens reached", "context": f"the context of {run.recipe.context_length} is full"
    }[generation.reason]  # fmt: skip


def _write_trace(
    options: argparse.Namespace, run: object, trace: object, prompt: str | bytes, settings: dict
) -> None:
    """The page of a text that has just been written, and, to compare, the speed of writing it plainly."""
    import minimtp
    from minimtp import kernels
    from minimtp.backend import choose_device
    from minimtp.decode.display.trace import describe, page
    from minimtp.files import write_text

    kernel, _ = kernels.describe(choose_device(options.device).name)
    drafts = dict(drafter=options.draft, draft_length=options.draft_length, tree=options.tree)
    described = describe(run, **drafts, kernels=kernel, **settings)
    plain = trace.statistics.tokens_per_second
    if options.draft != "none":
        generation = minimtp.generate(run, prompt, draft="none", **settings)
        for _ in generation:
            pass
        plain = generation.statistics.tokens_per_second
    html = page(
        trace,
        run.tokenizer.decode_bytes,
        title=str(options.run),
        settings=described,
        plain_tokens_per_second=plain,
    )
    write_text(Path(options.trace), html)
    print(
        f"saved {options.trace}: open it in a browser; space plays it, the arrow keys step",
        file=sys.stderr,
    )


def stream(tokens: Iterable[int], tokenizer: object) -> Iterator[str]:
    """Text as soon as it is whole: the tokens of a character that is not finished are kept back."""
    pending = []
    for token in tokens:
        pending.append(token)
        text = tokenizer.decode(pending)
        if (
            not text.endswith("\ufffd") or len(pending) >= 8
        ):  # no character is that long: it is no character
            yield text
            pending = []
    yield tokenizer.decode(pending)
