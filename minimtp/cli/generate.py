"""`minimtp generate`: continue one prompt and print the text while it is generated, or continue
several prompts.
"""

import argparse
import sys
from typing import TYPE_CHECKING

from minimtp.cli.options.generation import (
    add_draft_options,
    add_prompt_options,
    add_sampling_options,
    chosen_drafting,
    decoding_settings,
    note_one_thread,
    note_unused_choices,
)
from minimtp.cli.options.prompts import read_prompts
from minimtp.cli.parser import (
    Commands,
    add_context,
    add_device,
    add_kernels,
    add_kv_cache,
    add_model,
    add_threads,
    note_unused_threads,
    use_kernels,
)
from minimtp.cli.text import printable, stream
from minimtp.errors import UserError

if TYPE_CHECKING:
    from minimtp.backend import Array
    from minimtp.decode.batch import Batch
    from minimtp.decode.decoder import Decoder
    from minimtp.decode.display.trace import Trace
    from minimtp.decode.drafters.drafter import Drafter
    from minimtp.decode.generation import Generation
    from minimtp.decode.sampling.params import SamplingParams
    from minimtp.training.run.folder import LoadedRun


def add_parser(commands: Commands) -> None:
    parser = commands.add(
        "generate",
        run,
        usage="MODEL [options]",
        summary="continue a text",
        example='minimtp generate runs/mine --prompt "import " --temperature 0.7 --show',
    )
    add_model(parser)
    add_prompt_options(parser)
    add_sampling_options(parser)
    add_draft_options(parser)
    parser.add_argument(
        "--show",
        action="store_true",
        help="mark the accepted, the rejected and the corrected tokens in colour",
    )
    parser.add_argument(
        "--trace",
        metavar="FILE",
        help="write an HTML page that replays the generation step by step",
    )
    add_context(
        parser, "maximum length of prompt and new text in tokens (default: the model's context)"
    )
    add_device(parser)
    add_threads(parser, "as many as are fastest, which is measured")
    add_kv_cache(parser)
    add_kernels(parser)


def run(options: argparse.Namespace) -> int:
    import minimtp
    from minimtp.decode.decoder import Decoder
    from minimtp.decode.display.trace import TRACE
    from minimtp.files import check_file

    use_kernels(options)
    note_unused_threads(options)
    prompts = read_prompts(options)
    if len(prompts) > 1 and (options.trace or options.show):
        raise UserError("--show and --trace follow one text: give a single --prompt")
    if options.trace:
        check_file(options.trace, TRACE)
    loaded = minimtp.load(options.model, device=options.device)
    prompt, echo = prompts[0], prompts[0]
    if options.chat is not None:
        from minimtp.model.chat import chat_tokens
        from minimtp.training.data.encoding import normalized

        message = {"role": "user", "content": normalized(options.chat)}
        prompt, echo = chat_tokens(loaded.tokenizer, [[message]])[0], ""
    drafting = chosen_drafting(options, loaded)
    decoder = Decoder(loaded, drafting, options.context, options.threads, options.kv_cache)
    note_one_thread(options, decoder)
    if len(prompts) > 1:
        _generate_batch(decoder, prompts, loaded, options)
    else:
        _generate_one(decoder, prompt, echo, loaded, options)
    return 0


def _title(drafter: "Drafter | None", loaded: "LoadedRun", chosen: str) -> str:
    """Return what the page of a trace says about the drafter."""
    from minimtp.decode.drafters.combined import CombinedDrafter

    if isinstance(drafter, CombinedDrafter):
        return f"n-gram and {loaded.recipe.heads}" if loaded.model.depth else "n-gram"
    return loaded.recipe.heads if chosen in ("auto", "heads") else chosen


def _generate_one(
    decoder: "Decoder",
    prompt: "str | Array",
    echo: str,
    loaded: "LoadedRun",
    options: argparse.Namespace,
) -> None:
    """Print the text as it is generated, after `echo`, then its speed; write the trace."""
    from minimtp.decode.display.terminal import show
    from minimtp.decode.display.trace import Trace

    generation = decoder.generate(prompt, **decoding_settings(options))
    note_unused_choices(options, decoder)
    if options.trace:
        generation = Trace(generation)
    if options.show:
        show(generation, loaded.tokenizer)
    else:
        shown = printable()
        print(echo, end="", flush=True)
        for text in stream(generation, loaded.tokenizer):
            print(shown(text), end="", flush=True)
    counts = generation.statistics
    print(
        f"\n{counts.emitted} tokens, {counts.tokens_per_second:,.0f} tokens/s{_threads(decoder)}, "
        f"{counts.tokens_per_step:.2f} tokens per step; {_ending(generation, decoder)}",
        file=sys.stderr,
    )
    if options.trace:
        _write_trace(options, decoder, generation, prompt)


def _generate_batch(
    decoder: "Decoder", prompts: list[str], loaded: "LoadedRun", options: argparse.Namespace
) -> None:
    """Print each text with its number as soon as it and all texts before it are complete. Then
    print the speed of all.
    """
    batch = decoder.generate_batch(prompts, **decoding_settings(options))
    note_unused_choices(options, decoder)
    shown = printable()
    printed = 0
    for _ in batch.rounds():
        while printed < len(batch.rows) and batch.rows[printed].reason is not None:
            row = batch.rows[printed]
            printed += 1
            print(f"[{printed}] {shown(loaded.tokenizer.decode(row.tokens))}", flush=True)
            ending = _ending(row, decoder)
            print(f"[{printed}] {row.statistics.emitted} tokens; {ending}", file=sys.stderr)
    print(_batch_speed(batch, _threads(decoder)), file=sys.stderr)


def _batch_speed(batch: "Batch", threads: str) -> str:
    """Describe the speed of all texts together. Prefill, which emits each text's first token, does
    not count. threads: as described by `_threads`.
    """
    counts = [row.statistics for row in batch.rows]
    seconds = sum(count.seconds_draft + count.seconds_verify for count in counts)
    tokens = sum(count.emitted for count in counts)
    after_prefill = tokens - len(counts)
    steps = sum(count.steps for count in counts)
    speed = after_prefill / seconds if steps else 0
    per_step = after_prefill / steps if steps else 1
    return (
        f"{tokens} tokens in {len(counts)} texts, {speed:,.0f} tokens/s{threads}, "
        f"{per_step:.2f} tokens per step"
    )


def _threads(decoder: "Decoder") -> str:
    count = decoder.target.threads
    return f" on {count} threads" if count > 1 else ""


def _ending(generation: "Generation", decoder: "Decoder") -> str:
    return {
        "stop": "the text ended",
        "length": "reached --max-new-tokens",
        "context": f"the context of {decoder.target.context_length} tokens is full",
    }[generation.reason]


def _write_trace(
    options: argparse.Namespace, decoder: "Decoder", trace: "Trace", prompt: "str | Array"
) -> None:
    """Write the page of the text just generated, with the speed of plain decoding for
    comparison.
    """
    from minimtp.decode.decoder import Decoder
    from minimtp.decode.display.trace import TRACE, page
    from minimtp.decode.drafters.config import DraftConfig
    from minimtp.files import write_text

    settings, loaded = decoding_settings(options), decoder.loaded
    plain = trace
    if options.draft != "none":
        no_draft = DraftConfig("none", rule=decoder.draft.rule)
        plain = Decoder(loaded, no_draft, options.context, options.threads, options.kv_cache)
        plain = plain.generate(prompt, **settings)
        for _ in plain:
            pass
    html = page(
        trace,
        loaded.tokenizer.decode_bytes,
        title=str(options.model),
        settings=_trace_settings(options, decoder, settings["sampling"]),
        plain_tokens_per_second=plain.statistics.tokens_per_second,
    )
    write_text(options.trace, html, TRACE)
    print(
        f"saved {options.trace}: open it in a browser; space plays, the arrow keys step",
        file=sys.stderr,
    )


def _trace_settings(
    options: argparse.Namespace, decoder: "Decoder", sampling: "SamplingParams"
) -> dict[str, object]:
    """Return the settings that the page shows, by name. Options with their default value are left
    out.
    """
    from minimtp import kernels
    from minimtp.backend import choose_device
    from minimtp.model.matrix import bits_per_weight

    loaded = decoder.loaded
    settings: dict[str, object] = {
        "parameters": f"{loaded.recipe.trunk_parameters():,}",
        "bits per weight": f"{bits_per_weight(loaded.model):.2f}",
        "drafter": _title(decoder.drafter, loaded, options.draft),
        "temperature": f"{sampling.temperature:g}",
    }
    optional = {
        "top-k": (sampling.top_k, 0),
        "top-p": (sampling.top_p, 1.0),
        "draft-length": (options.draft_length, "auto"),
        "repetition-penalty": (options.repetition_penalty, 1.0),
        "tree": (options.tree, 0),
    }
    settings |= {name: value for name, (value, default) in optional.items() if value != default}
    if sampling.temperature:
        seed = "random" if options.seed is None else options.seed
        settings |= {"rule": decoder.rule_for(options.seed), "seed": seed}
    kernel, _ = kernels.describe(choose_device(options.device).name)
    return settings | {"kernels": kernel}
