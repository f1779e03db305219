"""The options of `minimtp generate` and `minimtp chat`: prompts, sampling and drafting."""

import argparse
from typing import TYPE_CHECKING

from minimtp.cli.options.values import draft_length, number, seed, whole_number
from minimtp.cli.parser import add_encoding, note_unused
from minimtp.errors import UserError, shown
from minimtp.files import kind_at

if TYPE_CHECKING:
    from minimtp.decode.decoder import Decoder
    from minimtp.decode.drafters.config import DraftConfig
    from minimtp.training.run.folder import LoadedRun


def add_prompt_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what is continued."""
    add = parser.add_argument
    add(
        "--prompt",
        action="append",
        default=[],
        metavar="TEXT",
        help="text to continue; - reads standard input; repeat for several prompts (default: "
        '"import ")',
    )
    add(
        "--prompts",
        metavar="FILE",
        help="file with one prompt per line; each prompt is continued independently",
    )
    add(
        "--chat",
        metavar="TEXT",
        help="message that a chat model answers, in the form of its chat template",
    )
    add_encoding(parser, "--prompts and standard input that")


def add_sampling_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the sampling and the end of the text."""
    add = parser.add_argument
    add(
        "--max-new-tokens",
        type=whole_number,
        default=256,
        metavar="N",
        help="maximum number of new tokens (default: 256)",
    )
    add(
        "--temperature",
        type=number,
        default=0.0,
        metavar="T",
        help="0: always the most likely token (the default); 1: the model's own probabilities; "
        "above 1: more random",
    )
    add(
        "--top-k",
        type=whole_number,
        default=0,
        metavar="K",
        help="sample from the K most likely tokens only (default: 0, from all)",
    )
    add(
        "--top-p",
        type=number,
        default=1.0,
        metavar="P",
        help="sample from the smallest set of most likely tokens whose probabilities sum to at "
        "least P "
        "(default: 1, from all)",
    )
    add(
        "--seed",
        type=seed,
        default=None,
        metavar="N",
        help="random seed: the same seed gives the same text (default: above temperature 0, "
        "another text each time)",
    )
    add(
        "--stop",
        action="append",
        default=[],
        metavar="TEXT",
        help="stop when the new text contains TEXT; repeat for several",
    )
    add(
        "--repetition-penalty",
        type=number,
        default=1.0,
        metavar="X",
        help="above 1: make tokens that have occurred before less likely (default: 1)",
    )


def add_draft_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of drafting and verification."""
    add = parser.add_argument
    add(
        "--draft",
        default="auto",
        metavar="auto|heads|ngram|combined|PATH|none",
        help="what proposes tokens, which the model then verifies: its prediction heads, "
        "repetitions in the text, repetitions combined with heads, the model or the EAGLE-3 head "
        "at PATH (or model:PATH), or nothing; "
        "auto (the default): combined if the model has heads, otherwise none",
    )
    add(
        "--draft-length",
        type=draft_length,
        default="auto",
        metavar="auto|N",
        help="maximum number of tokens to propose per round; auto (the default) picks the fastest",
    )
    add(
        "--draft-confidence",
        type=number,
        default=0.05,
        metavar="P",
        help="end a draft when its probability, as the heads estimate it, falls below P (default: "
        "0.05)",
    )
    add(
        "--tree",
        type=whole_number,
        default=0,
        metavar="N",
        help="propose a tree of up to N tokens, with alternatives where the heads are unsure "
        "(default: 0, no tree)",
    )
    add(
        "--rule",
        default="auto",
        metavar="NAME",
        help="how proposed tokens are verified when sampling; no rule changes the model's "
        "probabilities. "
        "auto (the default): block for chains on the CPU with Numba and without --seed, otherwise "
        "shared-noise; "
        "shared-noise: the same seed gives the same text for any proposals; "
        "token, block: accept more; match: accept tokens that equal the model's own samples",
    )


def chosen_drafting(options: argparse.Namespace, loaded: "LoadedRun") -> "DraftConfig":
    """Return how to draft for the loaded model. Raises UserError if --draft is neither the name nor
    the path of a drafter.
    """
    import minimtp
    from minimtp.decode.drafters.config import DraftConfig
    from minimtp.decode.drafters.registry import AUTO, TITLES

    kind, _, path = options.draft.partition(":")
    drafter = options.draft
    if kind == "model" and path:
        drafter = minimtp.load_draft(path, loaded)
    elif drafter not in (AUTO, *TITLES):
        if kind_at(drafter) == "nothing":
            names = ", ".join([AUTO, *TITLES])
            raise UserError(
                f"unknown draft {shown(drafter)!r}: use {names}, or the path of another model or "
                "of a draft head"
            )
        drafter = minimtp.load_draft(drafter, loaded)
    return DraftConfig(
        drafter, options.draft_length, options.draft_confidence, options.tree, options.rule
    )


def decoding_settings(options: argparse.Namespace) -> dict[str, object]:
    """Return the keyword arguments of `Decoder.generate`."""
    from minimtp.decode.sampling.params import SamplingParams
    from minimtp.training.data.encoding import normalized

    return {
        "max_new_tokens": options.max_new_tokens,
        "sampling": SamplingParams(options.temperature, options.top_k, options.top_p),
        "seed": options.seed,
        "stop": [normalized(text) for text in options.stop],
        "repetition_penalty": options.repetition_penalty,
    }


def note_one_thread(options: argparse.Namespace, decoder: "Decoder") -> None:
    """Say that --threads has no effect where only one thread computes a pass."""
    if decoder.target.threads == 1 < (options.threads or 1):
        reason = "only compiled kernels compute a pass of this model in several threads"
        note_unused(options, ["--threads"], reason)


def note_unused_choices(options: argparse.Namespace, decoder: "Decoder") -> None:
    """Say which options have no effect together with the others, and why."""
    if options.temperature == 0:
        names = ("--top-k", "--top-p", "--seed", "--rule")
        note_unused(options, names, "at temperature 0 the most likely token is always taken")
    if decoder.drafter is None:
        names, reason = ["--draft-confidence", "--tree"], "nothing is drafted with --draft none"
        if options.draft != "none":
            names.append("--draft")
            reason = "this model has no prediction heads to draft with (try --draft ngram)"
        note_unused(options, names, reason)
    elif options.draft_length == 0:
        reason = "nothing is drafted with --draft-length 0"
        note_unused(options, ("--draft-confidence", "--tree"), reason)
    elif not decoder.drafter.stops_early:
        reason = "this drafter never ends a draft early"
        note_unused(options, ["--draft-confidence"], reason)
