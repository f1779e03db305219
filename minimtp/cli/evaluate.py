"""`minimtp evaluate`: measure a model on held-out text."""

import argparse
import json
import sys

from minimtp.cli.parser import (
    Commands,
    add_corpus,
    add_device,
    add_kernels,
    add_run,
    add_threads,
    use_kernels,
)
from minimtp.cli.values import whole_number


def add_parser(commands: Commands) -> None:
    parser = commands.add(
        "evaluate",
        run,
        usage="RUN [options]",
        summary="measure a model on text that it was not trained on",
        example="minimtp evaluate runs/mine --corpus notes.txt",
    )
    add_run(parser)
    add_corpus(parser)
    parser.add_argument(
        "--tokens",
        type=whole_number,
        metavar="N",
        help="maximum number of tokens to predict (default: the run's setting evaluation_tokens)",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    add_device(parser)
    add_threads(parser)
    add_kernels(parser)


def run(options: argparse.Namespace) -> int:
    import minimtp
    from minimtp.training.evaluate import corpus_for

    use_kernels(options)
    loaded = minimtp.load(options.run, device=options.device)
    corpus = corpus_for(loaded, options.corpus or None)
    result = minimtp.evaluate(loaded, corpus, tokens=options.tokens, threads=options.threads)
    print(f"corpus    {corpus.describe()}", file=sys.stderr)
    if warning := corpus.warning(loaded.corpus):
        print(warning, file=sys.stderr)
    print(json.dumps(result.to_dict()) if options.json else result.describe())
    return 0
