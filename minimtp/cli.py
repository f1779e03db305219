"""The command line: minimtp train | generate | evaluate | quantize | compare | bench | doctor.

Each command is a thin function: it turns options into arguments, calls the library, and prints. What the library does not
accept arrives here as a UserError and becomes one line on standard error and exit code 2; Ctrl-C is exit code 130.

Results go to standard output, everything about the work (settings, choices, progress) to standard error.

The options of `train` are made from the fields of the recipe. Nothing heavy is imported before a command runs, so that `-h`
answers at once.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from minimtp import __version__
from minimtp.errors import UserError
from minimtp.training.presets import PRESETS
from minimtp.training.recipe import GROUPS, SETTINGS, Recipe, check_known, kind_of

DESCRIPTION = "Multi-token prediction, quantization-aware training and exact speculative decoding, from scratch."


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a model may write what the terminal cannot show
    parser = make_parser()
    try:
        options = parser.parse_args(arguments)
        if options.command is None:
            parser.print_help()
            return 0
        return options.command(options)
    except UserError as error:
        print(f"minimtp: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stopped:
        print(f"\nminimtp: {str(stopped) or 'stopped'}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has seen enough
        sys.stderr.close()
        return 0
    except OSError as error:  # a full disk, a missing right: where nobody closer to it knew better
        what, why = error.filename or "the system", error.strerror or error
        print(f"minimtp: {what}: {why}; make room, or give another path", file=sys.stderr)
        return 2


def train(options: argparse.Namespace) -> int:
    from minimtp.training.loop import train as run_training
    from minimtp.training.tokenizer import open_tokenizer

    _use_kernels(options)
    out = options.out or _default_out(options)
    _refuse_what_would_be_ignored(options, out)
    tokenizer = open_tokenizer(options.tokenizer) if options.tokenizer else None
    result = run_training(
        _recipe(options), options.corpus, out, resume=options.resume, start_from=options.start_from,
        continue_schedule=options.continue_schedule, stop_at_step=options.stop_at_step, teacher=options.teacher,
        own_text=options.own_text, device=options.device, threads=options.threads, tokenizer=tokenizer,
    )  # fmt: skip
    if result.evaluation:
        print(result.evaluation.describe())
    if not result.finished:
        print(f"saved at step {result.step}; go on with: minimtp train --out {out} --resume")
    print(f'try: minimtp generate {out} --prompt "import "')
    return 0


def generate(options: argparse.Namespace) -> int:
    import minimtp
    from minimtp.decode.show import show, visible
    from minimtp.decode.trace import Trace, require_place

    _use_kernels(options)
    prompts = _prompts(options)
    if len(prompts) > 1 and (options.trace or options.show):
        raise UserError("--show and --trace follow one text: give one --prompt")
    if options.trace:
        require_place(options.trace)
    run = minimtp.load(options.run, device=options.device)
    decoder = _decoder(run, options, options.draft)
    settings = dict(max_new=options.max_new, temperature=options.temperature, top_k=options.top_k, top_p=options.top_p,
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
        safe = visible if sys.stdout.isatty() else str  # a terminal obeys control characters, a file keeps them
        print(prompt.decode("utf-8", "replace") if isinstance(prompt, bytes) else prompt, end="", flush=True)
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
            raise UserError(f"the prompts {options.prompts} cannot be read: {error.strerror}") from None
        prompts += [line for line in lines if line]
        if not prompts:
            raise UserError(f"{options.prompts} holds no prompts: write one a line")
    return prompts or ["import "]


def _decoder(run: object, options: argparse.Namespace, draft: str) -> object:
    import minimtp
    from minimtp.decode.deploy import Decoder

    kind, _, folder = draft.partition(":")
    drafting = minimtp.load(folder, device=options.device) if kind == "model" and folder else draft
    return Decoder(run, drafting, options.draft_length, options.draft_confidence, options.tree)


def _write_batch(batch: object, prompts: list[str | bytes], run: object) -> None:
    """Each text under its number as soon as it and those before it are finished; what they cost together at the end."""
    from minimtp.decode.show import visible

    safe = visible if sys.stdout.isatty() else str
    printed = 0
    for _ in batch.rounds():
        while printed < len(batch.rows) and batch.rows[printed].reason is not None:
            row = batch.rows[printed]
            printed += 1
            print(f"[{printed}] {safe(run.tokenizer.decode(row.tokens))}", flush=True)
            print(f"[{printed}] {row.statistics.emitted} tokens; {_ending(row, run)}", file=sys.stderr)
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
        "stop": "the text ended", "length": "--max-new reached", "context": f"the context of {run.recipe.context} is full"
    }[generation.reason]  # fmt: skip


def _write_trace(options: argparse.Namespace, run: object, trace: object, prompt: str | bytes, settings: dict) -> None:
    """The page of a text that has just been written, and, to compare, the speed of writing it plainly."""
    import minimtp
    from minimtp import kernels
    from minimtp.backend import choose_device
    from minimtp.decode.trace import describe, page
    from minimtp.training.checkpoint import write_text

    kernel, _ = kernels.describe(choose_device(options.device).name)
    drafts = dict(drafter=options.draft, draft_length=options.draft_length, tree=options.tree)
    described = describe(run, **drafts, kernels=kernel, **settings)
    plain = trace.statistics.tokens_per_second
    if options.draft != "none":
        generation = minimtp.generate(run, prompt, draft="none", **settings)
        for _ in generation:
            pass
        plain = generation.statistics.tokens_per_second
    html = page(trace, run.tokenizer.decode_bytes, title=str(options.run), settings=described, plain_tokens_per_second=plain)
    write_text(Path(options.trace), html)
    print(f"saved {options.trace}: open it in a browser; space plays it, the arrow keys step", file=sys.stderr)


def stream(tokens: Iterable[int], tokenizer: object) -> Iterator[str]:
    """Text as soon as it is whole: the tokens of a character that is not finished are kept back."""
    pending = []
    for token in tokens:
        pending.append(token)
        text = tokenizer.decode(pending)
        if not text.endswith("\ufffd") or len(pending) >= 8:  # no character is that long: it is no character
            yield text
            pending = []
    yield tokenizer.decode(pending)


def evaluate(options: argparse.Namespace) -> int:
    import minimtp

    _use_kernels(options)
    run = minimtp.load(options.run, device=options.device)
    result = minimtp.evaluate(run, options.corpus or None, tokens=options.tokens, threads=options.threads)
    print(json.dumps(result.to_dict()) if options.json else result.describe())
    return 0


def quantize(options: argparse.Namespace) -> int:
    import minimtp
    from minimtp.quant.packed import bits_per_weight, weight_bytes

    run = minimtp.load(options.run)
    packed = minimtp.quantize(
        run, options.out, options.grid, method=options.method, head_grid=options.head_grid, calibration=options.calibration,
        report=print,
    )  # fmt: skip
    print(
        f"{options.out}: {weight_bytes(packed.model):,} bytes of weights, {bits_per_weight(packed.model):.2f} bits each "
        f"(before: {weight_bytes(run.model):,}, {bits_per_weight(run.model):.2f})"
    )
    return 0


def compare(options: argparse.Namespace) -> int:
    from minimtp import compare as comparison

    _use_kernels(options)
    try:
        comparison.run(
            options.preset, options.out, corpus=options.corpus, device=options.device, threads=options.threads,
            seed=options.seed,
        )  # fmt: skip
    except comparison.Disagreement as error:
        print(f"minimtp: {error}", file=sys.stderr)
        return 1
    return 0


def bench(options: argparse.Namespace) -> int:
    raise UserError("say what to measure: see minimtp bench -h")


def bench_train(options: argparse.Namespace) -> int:
    from minimtp.bench import train as measurement

    measurement.train(
        options.preset, steps=options.steps, rounds=options.rounds, threads=options.threads, kernel_choice=options.kernels,
        out=options.out,
    )  # fmt: skip
    return 0


def bench_quality(options: argparse.Namespace) -> int:
    from minimtp.bench import quality as measurement

    _use_kernels(options)
    measurement.run(
        options.bits, options.seeds, options.preset, options.out, corpus=options.corpus, threads=options.threads
    )  # fmt: skip
    return 0


def bench_kernels(options: argparse.Namespace) -> int:
    from minimtp.bench.kernels import kernel_speeds

    kernel_speeds(largest=options.largest, rounds=options.rounds, out=options.out)
    return 0


def bench_decode(options: argparse.Namespace) -> int:
    from minimtp.bench import decode as measurement

    _use_kernels(options)
    measurement.measure(
        options.run, small=options.small, device=options.device, seed=options.seed, out=options.out,
        sizes=measurement.Sizes(options.prompts, options.prompt, options.max_new, options.repeats),
        **({"temperatures": options.temperatures} if options.temperatures else {}),
        **({"texts": options.texts} if options.texts else {}),
    )  # fmt: skip
    return 0


def doctor(options: argparse.Namespace) -> int:
    from minimtp.doctor import describe

    _use_kernels(options)
    for topic, finding in describe():
        print(f"{topic:<10} {finding}")
    return 0


class Parser(argparse.ArgumentParser):
    """argparse with errors of one sentence, and the closest spelling for an unknown option or command."""

    def __init__(self, **settings: object) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **settings)

    def parse_args(self, arguments: list[str] | None = None) -> argparse.Namespace:
        options, unknown = self.parse_known_args(arguments)
        for name in unknown:
            if name.startswith("-"):
                check_known("option", name.partition("=")[0], options.known_options)
            raise UserError(f"unexpected argument {name!r}: see minimtp -h")
        return options

    def _check_value(self, action: argparse.Action, value: object) -> None:
        if action.choices is None or value in action.choices:
            return
        if not action.option_strings:
            check_known("command", str(value), action.choices)
        raise UserError(f"{action.option_strings[0]} must be one of {', '.join(action.choices)}, not {value!r}")

    def error(self, message: str) -> None:
        raise UserError(f"{message}: see {self.prog} -h")


def make_parser() -> Parser:
    """All commands and options."""
    parser = Parser(prog="minimtp", description=DESCRIPTION, epilog="example: minimtp compare")
    parser.set_defaults(command=None, known_options=["--help", "--version"])
    parser.add_argument("--version", action="version", version=f"minimtp {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="")

    def command(function: object, usage: str, summary: str, example: str) -> Parser:
        *above, name = words = function.__name__.split("_")
        usage, epilog = f"minimtp {' '.join(words)} {usage}", f"example:\n  {example}"
        new = (measurements if above else commands).add_parser(
            name, usage=usage, help=summary, description=summary, epilog=epilog
        )
        new.set_defaults(command=function)
        return new

    new = command(train, "[options]", "train a model", "minimtp train --preset quick --heads token_conditioned --out runs/mine")
    new.add_argument("--preset", choices=PRESETS, help="start from these settings; options below change single ones")
    new.add_argument("--recipe", metavar="FILE", help="start from the settings in a JSON file, such as a run's recipe.json")
    _add_corpus(new)
    new.add_argument("--tokenizer", metavar="FILE", help="a file of the tokenizers library (default: --from's, else bytes)")
    new.add_argument("--out", metavar="DIR", help="the run folder to write (default: runs/PRESET)")
    new.add_argument("--resume", action="store_true", help="go on with the run in --out")
    new.add_argument("--from", dest="start_from", metavar="RUN", help="start from the weights and settings of another run")
    new.add_argument("--continue-schedule", action="store_true", help="with --from: also from its step and its optimizer")
    new.add_argument("--stop-at-step", type=_whole, metavar="N", help="save and stop there, as if interrupted")
    new.add_argument("--own-text", type=_whole, metavar="N", help="train on N tokens that the run of --from writes first")
    new.add_argument("--teacher", metavar="RUN", help="the run whose probabilities --distill-weight follows")
    _add_machine(new)
    for group, title in GROUPS.items():
        section = new.add_argument_group(f"recipe: {title}")
        for setting in SETTINGS.values():
            if setting.metadata["group"] == group:
                _add_setting(section, setting)

    new = command(
        generate, "RUN [options]", "continue a text", 'minimtp generate runs/mine --prompt "import " --temperature 0.7 --show'
    )
    new.add_argument("run", metavar="RUN", help="a run folder")
    new.add_argument("--prompt", action="append", default=[], metavar="TEXT",
                     help='the text to continue, - for standard input; repeat it for several (default: "import ")')  # fmt: skip
    new.add_argument("--prompts", metavar="FILE", help="texts to continue, one a line; each is as if it were alone")
    new.add_argument("--max-new", type=_whole, default=256, metavar="N", help="tokens to write at most (default: 256)")
    new.add_argument("--temperature", type=_number, default=0.0, metavar="T", help="0: always the likeliest (default: 0)")
    new.add_argument("--top-k", type=_whole, default=0, metavar="K", help="choose among the K likeliest (default: 0, all)")
    new.add_argument("--top-p", type=_number, default=1.0, metavar="P", help="choose among the likeliest that make up P")
    new.add_argument("--seed", type=_whole, default=0, metavar="N", help="same seed, same text (default: 0)")
    new.add_argument("--stop", action="append", default=[], metavar="TEXT", help="end where the new text says this; repeatable")
    new.add_argument("--repetition-penalty", type=_number, default=1.0, metavar="X",
                     help="above 1 makes what was already said less likely (default: 1)")  # fmt: skip
    new.add_argument("--draft", default="heads", metavar="heads|ngram|model:RUN|none",
                     help="what drafts: the heads (default), the text's own repetitions, a smaller run")  # fmt: skip
    new.add_argument("--draft-length", type=_length, default="auto", metavar="auto|N",
                     help="tokens to draft at once: as many as pay (default: auto), or N at most")  # fmt: skip
    new.add_argument("--draft-confidence", type=float, default=0.2, metavar="P",
                     help="stop drafting where the heads give the draft less than this probability (default: 0.2)")  # fmt: skip
    new.add_argument("--tree", type=_whole, default=0, metavar="N",
                     help="draft a tree of N tokens a round instead of a chain, broad where the heads are unsure")  # fmt: skip
    new.add_argument("--rule", default="shared-noise", metavar="NAME",
                     help="how sampled drafts are verified: shared-noise (default; same seed, same text, whatever is drafted), "
                     "token, block (both: the same law, more drafts accepted) or match")  # fmt: skip
    new.add_argument("--show", action="store_true", help="colour what was drafted and accepted, and what was rejected")
    new.add_argument("--trace", metavar="FILE", help="write a page for a browser, in which the text grows round by round")
    _add_device(new)
    _add_kernels(new)

    new = command(
        evaluate, "RUN [options]", "measure a model on held-out text", "minimtp evaluate runs/mine --corpus notes.txt"
    )
    new.add_argument("run", metavar="RUN", help="a run folder")
    _add_corpus(new)
    new.add_argument("--tokens", type=_whole, metavar="N", help="how many to predict at most (default: the recipe's)")
    new.add_argument("--json", action="store_true", help="print JSON")
    _add_machine(new)

    new = command(
        quantize,
        "RUN --out DIR [options]",
        "round a model's weights",
        "minimtp quantize runs/mine --method gptq --out runs/mine-int4",
    )
    new.add_argument("run", metavar="RUN", help="a run folder")
    new.add_argument("--grid", metavar="NAME", help="grid of the matrices (default: q4_0, or what the run was trained for)")
    new.add_argument("--method", metavar="NAME",
                     help="rtn (the default), hqq, importance, awq or gptq, unless trained through rounding")  # fmt: skip
    new.add_argument("--head-grid", metavar="NAME",
                     help="of the prediction heads; measured: by their drafts' acceptance (default: as --grid)")  # fmt: skip
    new.add_argument("--calibration", nargs="+", default=[], metavar="PATH",
                     help="text for importance, awq and gptq (default: what the run was trained on)")  # fmt: skip
    new.add_argument("--out", required=True, metavar="DIR", help="the run folder to write")

    new = command(compare, "[options]", "train, decode and compare the three configurations", "minimtp compare --preset quick")
    new.add_argument("--preset", choices=PRESETS, default="quick", help="default: quick")
    new.add_argument("--out", metavar="DIR", default=None, help="where to write (default: runs/compare-PRESET)")
    new.add_argument("--seed", type=_whole, default=0, metavar="N", help="seed of everything random (default: 0)")
    _add_corpus(new)
    _add_machine(new)

    new = command(bench, "WHAT [options]", "measure speed, beside others where they are installed", "minimtp bench train")
    measurements = new.add_subparsers(title="what", metavar="")

    new = command(
        bench_train, "[options]", "training on the CPU, in turn with PyTorch where it is installed",
        "minimtp bench train --threads 1",
    )  # fmt: skip
    new.add_argument("--preset", choices=PRESETS, default="quick", help="whose standard model to train (default: quick)")
    new.add_argument("--steps", type=_whole, default=20, metavar="N", help="training steps a round (default: 20)")
    new.add_argument("--rounds", type=_whole, default=5, metavar="N", help="rounds of each side (default: 5)")
    new.add_argument("--threads", type=_whole, metavar="N", help="for each side (default: one for each core)")
    new.add_argument("--out", metavar="FILE", help="also write what was found as JSON")
    _add_kernels(new)

    new = command(
        bench_quality, "[options]", "what rounding costs, and what each method wins back",
        "minimtp bench quality --bits 4,2 --seeds 1",
    )  # fmt: skip
    new.add_argument("--preset", default="quick", metavar="quick|tiny", help="how much is trained (default: quick)")
    new.add_argument("--bits", type=_numbers, default=(8, 4, 3, 2), metavar="N,N", help="among 8,4,3,2 (default: all)")
    new.add_argument("--seeds", type=_whole, default=3, metavar="N", help="models of each kind (default: 3)")
    new.add_argument("--threads", type=_whole, metavar="N", help="default: one for each core")
    new.add_argument("--out", metavar="DIR", help="folder to work in, and to go on from (default: runs/quality-PRESET)")
    _add_corpus(new)
    _add_kernels(new)

    new = command(
        bench_kernels, "[options]", "products of 1 to 16 rows, beside the memory's speed and NumPy's product",
        "minimtp bench kernels --largest 64",
    )  # fmt: skip
    new.add_argument("--largest", type=_whole, default=512, metavar="MB",
                     help="of a matrix in float32; 512, the default, exceeds most caches even as int4")  # fmt: skip
    new.add_argument("--rounds", type=_whole, default=5, metavar="N", help="rounds of each product (default: 5)")
    new.add_argument("--out", metavar="FILE", help="also write what was found as JSON, and a picture beside it")

    new = command(
        bench_decode, "RUN [options]", "every way of drafting with every rule, on code, prose and random text",
        "minimtp bench decode runs/mine --out runs/bench",
    )  # fmt: skip
    new.add_argument("run", metavar="RUN", help="a run folder")
    new.add_argument("--small", metavar="RUN", help="a smaller run with the same tokens, to draft as well")
    new.add_argument("--temperatures", nargs="+", type=_number, metavar="T", help="default: 0 0.7 1")
    new.add_argument("--texts", nargs="+", choices=("code", "prose", "random"), help="default: all three")
    new.add_argument("--prompts", type=_whole, default=8, metavar="N", help="of each kind of text (default: 8)")
    new.add_argument("--prompt", type=_whole, default=32, metavar="N", help="tokens of a prompt (default: 32)")
    new.add_argument("--max-new", type=_whole, default=96, metavar="N", help="tokens to write at most (default: 96)")
    new.add_argument("--repeats", type=_whole, default=3, metavar="N", help="turns of every prompt (default: 3)")
    new.add_argument("--seed", type=_whole, default=0, metavar="N", help="seed of everything random (default: 0)")
    new.add_argument("--out", metavar="DIR", help="also write what was found as JSON, and draw it")
    _add_device(new)
    _add_kernels(new)

    new = command(doctor, "[options]", "say what would be used here, and why", "minimtp doctor")
    _add_kernels(new)
    for new in (*commands.choices.values(), *measurements.choices.values()):
        new.set_defaults(known_options=list(new._option_string_actions))
    return parser


def _add_corpus(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--corpus", nargs="+", default=[], metavar="PATH",
                        help="text files and folders, or stdlib (the default), shakespeare, bible")  # fmt: skip


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: auto")


def _add_machine(parser: argparse.ArgumentParser) -> None:
    _add_device(parser)
    parser.add_argument("--threads", type=_whole, metavar="N", help="default: one for each core")
    _add_kernels(parser)


def _add_kernels(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--kernels", choices=("auto", "plain"), help="plain: array code even where compiled code exists")


def _add_setting(section: object, setting: object) -> None:
    """One option for one field of the recipe; it appears among the parsed options only if it was given."""
    kind, allowed, text = kind_of(setting), setting.metadata["allowed"], setting.metadata["help"]
    name, destination = "--" + setting.name.replace("_", "-"), f"recipe.{setting.name}"
    if setting.default is not None:
        text += f" (default: {'yes' if setting.default is True else 'no' if setting.default is False else setting.default})"
    if kind is bool:
        section.add_argument(
            name, dest=destination, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=text
        )
    else:
        words = "|".join(allowed) if kind is str and allowed else "NAME"
        metavar = {int: "N", float: "X", str: words}[kind]
        convert = {int: _whole, float: _number, str: str}[kind]
        section.add_argument(name, dest=destination, type=convert, default=argparse.SUPPRESS, metavar=metavar, help=text)


def _recipe(options: argparse.Namespace) -> Recipe | None:
    """The recipe that the options describe: a preset, a file or another run's, changed by single options.

    None where nothing was said about it and a run is resumed, which has its own.
    """
    given = {name.removeprefix("recipe."): value for name, value in vars(options).items() if name.startswith("recipe.")}
    if options.resume and not (given or options.preset or options.recipe or options.start_from):
        return None
    if options.preset and options.recipe:
        raise UserError("--preset and --recipe both say where to start: give one of them")
    base = dict(PRESETS[options.preset]) if options.preset else _recipe_file(options.recipe) if options.recipe else {}
    if options.start_from:
        from minimtp.training.build import MODEL_SETTINGS
        from minimtp.training.checkpoint import read

        source = read(options.start_from, optimizer=False).recipe.to_dict()
        base = base | {name: source[name] for name in MODEL_SETTINGS} if base else source
    if "heads" in given and "draft_depth" not in given and (given["heads"] == "none" or not base.get("draft_depth")):
        base.pop("draft_depth", None)  # it belonged to other heads
    return Recipe.from_dict(base | given)


def _refuse_what_would_be_ignored(options: argparse.Namespace, out: str) -> None:
    """Raise UserError for options of `train` that say how a run begins when there is none to begin."""
    from minimtp.training import checkpoint

    if options.continue_schedule and not options.start_from:
        raise UserError("--continue-schedule goes on from another run's step: give that run with --from")
    if options.resume and checkpoint.exists(out):
        for name, value in (("--from", options.start_from), ("--tokenizer", options.tokenizer),
                            ("--own-text", options.own_text)):
            if value:
                raise UserError(f"{out} holds a run that has begun: leave {name} out to resume it, or choose another --out")


def _recipe_file(path: str) -> dict[str, object]:
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"the recipe {path} cannot be read ({error})") from None
    values = values.get("recipe", values) if isinstance(values, dict) else values
    if not isinstance(values, dict):
        raise UserError(f"the recipe {path} is not a JSON object of settings")
    return values


def _default_out(options: argparse.Namespace) -> str:
    if options.start_from:
        return f"{Path(options.start_from)}-next"
    return f"runs/{options.preset or 'run'}"


def _use_kernels(options: argparse.Namespace) -> None:
    if options.kernels:
        from minimtp import kernels

        kernels.use(options.kernels)


def _whole(text: str) -> int:
    """12, 1_000, 1e6 or 500k as an int."""
    scaled = {"k": 10**3, "M": 10**6, "G": 10**9}
    factor = scaled.get(text[-1:], 1)
    number = text[:-1] if factor > 1 else text
    try:
        value = int(number) * factor
    except ValueError:
        value = _number(number) * factor
    if value != int(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(value)


def _numbers(text: str) -> tuple[int, ...]:
    """8,4 as (8, 4)."""
    return tuple(_whole(part) for part in text.split(","))


def _length(text: str) -> int | str:
    return text if text == "auto" else _whole(text)


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if value in (float("inf"), -float("inf")) or value != value:
        raise argparse.ArgumentTypeError(f"{text!r} is not a finite number")
    return value
