"""`minimtp evaluate`: measure a model on held-out text."""

import argparse
import json
import sys

from minimtp.cli.options.values import whole_number
from minimtp.cli.parser import (
    Commands,
    add_context,
    add_corpus,
    add_device,
    add_kernels,
    add_kv_cache,
    add_model,
    add_threads,
    note_unused,
    note_unused_threads,
    use_kernels,
)


def add_parser(commands: Commands) -> None:
    parser = commands.add(
        "evaluate",
        run,
        usage="MODEL [options]",
        summary="measure a model on text that it was not trained on",
        example="minimtp evaluate runs/mine --corpus notes.txt",
    )
    add_model(parser)
    add_corpus(parser)
    parser.add_argument(
        "--tokens",
        type=whole_number,
        metavar="N",
        help="maximum number of tokens to predict (default: the run's setting evaluation_tokens)",
    )
    add_context(
        parser, "tokens per window of text (default: the model's context, but at most 2,048)"
    )
    parser.add_argument(
        "--against",
        metavar="MODEL",
        help="compare the predictions with those of this model, such as the one before rounding",
    )
    add_kv_cache(parser, "float16 and int8 round keys and values as a decoder with this cache does")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    add_device(parser)
    add_threads(parser)
    add_kernels(parser)


def run(options: argparse.Namespace) -> int:
    import minimtp
    from minimtp.training.evaluate import corpus_for

    use_kernels(options)
    note_unused_threads(options)
    loaded = minimtp.load(options.model, device=options.device)
    against = minimtp.load(options.against, device=options.device) if options.against else None
    corpus = corpus_for(loaded, options.corpus or None, options.encoding)
    if not corpus.encoding:
        note_unused(options, ["--encoding"], "it is for the text files of --corpus")
    result = minimtp.evaluate(
        loaded,
        corpus,
        tokens=options.tokens,
        threads=options.threads,
        context_length=options.context,
        against=against,
        kv_cache=options.kv_cache,
    )
    print(f"corpus    {corpus.describe()}", file=sys.stderr)
    if warning := corpus.warning(loaded.corpus):
        print(warning, file=sys.stderr)
    figures = result.to_dict() | {"perplexity": result.perplexity}
    print(json.dumps(figures) if options.json else result.describe())
    return 0
