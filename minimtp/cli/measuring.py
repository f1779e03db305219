"""`minimtp evaluate`, `quantize`, `export`, `compare`, `bench` and `doctor`."""

import argparse
import json
import sys

from minimtp.cli.values import use_kernels
from minimtp.errors import UserError


def evaluate(options: argparse.Namespace) -> int:
    import minimtp
    from minimtp.training.evaluate import corpus_for

    use_kernels(options)
    run = minimtp.load(options.run, device=options.device)
    corpus = corpus_for(run, options.corpus or None)
    result = minimtp.evaluate(run, corpus, tokens=options.tokens, threads=options.threads)
    print(f"corpus    {corpus.describe()}", file=sys.stderr)
    if warning := corpus.warning(run.corpus):
        print(warning, file=sys.stderr)
    print(json.dumps(result.to_dict()) if options.json else result.describe())
    return 0


def quantize(options: argparse.Namespace) -> int:
    import minimtp
    from minimtp.quant.packed import bits_per_weight, weight_bytes

    if options.bits and options.grid:
        raise UserError("--bits is short for a --grid: give one of them")
    grid = f"q{options.bits}_0" if options.bits else options.grid
    run = minimtp.load(options.run)
    packed = minimtp.quantize(
        run, options.out, grid, method=options.method, head_grid=options.head_grid, calibration=options.calibration,
        report=print,
    )  # fmt: skip
    print(
        f"{options.out}: {weight_bytes(packed.model):,} bytes of weights, {bits_per_weight(packed.model):.2f} bits each "
        f"(before: {weight_bytes(run.model):,}, {bits_per_weight(run.model):.2f})"
    )
    return 0


def export(options: argparse.Namespace) -> int:
    from minimtp.formats.gguf import gguf

    done = gguf.export(options.run, options.out)
    held = ", ".join(f"{count} in {kind}" for kind, count in done.types.most_common())
    print(
        f"{done.path}: {done.size:,} bytes, the trunk's {done.types.total()} tensors ({held}) and the tokenizer"
    )
    for caveat in done.caveats:
        print(f"note: {caveat}")
    print(f'run it with llama.cpp: llama-completion -m {done.path} -no-cnv -p "import "')
    return 0


def compare(options: argparse.Namespace) -> int:
    from minimtp.compare import compare as comparison

    use_kernels(options)
    comparison.run(
        options.preset, options.out, corpus=options.corpus, device=options.device, threads=options.threads, seed=options.seed
    )  # fmt: skip
    return 0


def bench(options: argparse.Namespace) -> int:
    if "all" not in options:
        raise UserError("say what to measure, or --all: see minimtp bench -h")
    from minimtp.bench.everything import everything

    names = {"preset": "all_preset", "out": "all_out", "device": "all_device"}
    everything(
        **{name: getattr(options, given) for name, given in names.items() if given in options}
    )
    return 0


def bench_train(options: argparse.Namespace) -> int:
    from minimtp.bench.training import speed as measurement

    measurement.measure_training(
        options.preset, device=options.device, precision=options.precision, steps=options.steps, rounds=options.rounds,
        threads=options.threads, kernel_choice=options.kernels, out=options.out,
    )  # fmt: skip
    return 0


def bench_quality(options: argparse.Namespace) -> int:
    from minimtp.bench.quality import measure as measurement

    use_kernels(options)
    measurement.measure_quality(
        options.bits, options.seeds, options.preset, options.out, corpus=options.corpus, threads=options.threads
    )  # fmt: skip
    return 0


def bench_kernels(options: argparse.Namespace) -> int:
    from minimtp.bench.kernels.speed import measure_kernels

    measure_kernels(
        max_size=options.max_size, rounds=options.rounds, device=options.device, out=options.out
    )
    return 0


def bench_decode(options: argparse.Namespace) -> int:
    from minimtp.bench.decode import speed as measurement
    from minimtp.bench.decode.prompts import Sizes

    use_kernels(options)
    measurement.measure_decoding(
        options.run, small=options.small, device=options.device, seed=options.seed, out=options.out,
        sizes=Sizes(options.prompts, options.prompt, options.max_new_tokens, options.repeats),
        **({"temperatures": options.temperatures} if options.temperatures else {}),
        **({"texts": options.texts} if options.texts else {}),
    )  # fmt: skip
    return 0


def bench_rounds(options: argparse.Namespace) -> int:
    from minimtp.bench.decode import tokens_per_round as measurement

    use_kernels(options)
    measurement.measure_tokens_per_round(
        options.run, places=options.places, small=options.small, device=options.device, seed=options.seed, out=options.out,
        **({"temperatures": options.temperatures} if options.temperatures else {}),
        **({"texts": options.texts} if options.texts else {}),
    )  # fmt: skip
    return 0


def doctor(options: argparse.Namespace) -> int:
    from minimtp.cli.doctor import describe

    use_kernels(options)
    for topic, finding in describe():
        print(f"{topic:<10} {finding}")
    return 0
