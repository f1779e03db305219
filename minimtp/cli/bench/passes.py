"""`minimtp bench passes`: the forward passes of one model."""

import argparse

from minimtp.cli.options.values import whole_number
from minimtp.cli.parser import Commands, add_model, add_seed
from minimtp.model.config import KV_CACHES


def add_parser(measurements: Commands) -> None:
    parser = measurements.add(
        "passes",
        run,
        usage="MODEL [options]",
        summary="time of a forward pass of 1 to 16 tokens, with one thread and with several, after "
        "short and long texts",
        example="minimtp bench passes smollm2 --cached 128 2048",
    )
    add = parser.add_argument
    add_model(parser)
    add(
        "--threads",
        nargs="+",
        type=whole_number,
        default=[],
        metavar="N",
        help="numbers of threads to compare with one (default: one per core)",
    )
    add(
        "--cached",
        nargs="+",
        type=whole_number,
        default=[],
        metavar="N",
        help="tokens that the text already has (default: 128 2048 8000, or what fits)",
    )
    add(
        "--kv-cache",
        nargs="+",
        choices=KV_CACHES,
        default=["float32"],
        metavar="FORMAT",
        help="number formats of the cache: float32 (the default), float16, int8",
    )
    add("--llama-cpp", action="store_true", help="also measure llama.cpp with the same weights")
    add(
        "--random-weights",
        metavar="GRID",
        help="measure a model of these sizes with random weights on this grid, such as q4_0; MODEL "
        "then needs no more than a config.json of transformers",
    )
    add(
        "--rounds",
        type=whole_number,
        default=9,
        metavar="N",
        help="passes for each figure (default: 9)",
    )
    add_seed(parser)
    add("--out", metavar="FILE", help="also write the results as JSON")


def run(options: argparse.Namespace) -> int:
    from minimtp.bench.decode.passes import measure_passes

    measure_passes(
        options.model,
        threads=options.threads,
        cached=options.cached,
        kv_caches=list(dict.fromkeys(options.kv_cache)),
        llama_cpp=options.llama_cpp,
        random_weights=options.random_weights,
        rounds=options.rounds,
        seed=options.seed,
        out=options.out,
    )
    return 0
