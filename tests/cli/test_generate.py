"""`minimtp generate`: prompts, drafts, display and streaming."""

import argparse
import io
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimtp.cli import main, make_parser
from minimtp.cli.text import stream
from minimtp.decode import decoder as decoding
from minimtp.decode.drafters.config import DraftConfig
from minimtp.training.tokenizers.tokenizer import ByteTokenizer
from tests.cli.helpers import refused


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--temperature", "-1"], "temperature"),
        (["--top-p", "0"], "top"),
        (["--top-k", "-1"], "top"),
        (["--max-new-tokens", "0"], "at least 1"),
        (["--prompt", ""], "the prompt is empty"),
        (["--prompt", "x" * 17], "the prompt has 17 tokens, but the context holds 16"),
        (["--draft-length", "-1"], "length must be a draft length"),
        (["--draft-length", "3", "--draft", "none"], "there is no drafter"),
        (["--draft-length", "often"], "'often' is not a number"),
        (["--draft-confidence", "2"], "must be a draft confidence"),
        (["--seed", "-1"], "seed"),
        (
            ["--draft", "nrgam"],
            "unknown draft 'nrgam': use auto, heads, ngram, combined, none, or the path of another "
            "model or of a draft head",
        ),
        (["--draft", "model:"], "unknown draft 'model:'"),
        (["--draft", "model:missing"], "there is no run folder missing"),
        (["--stop", ""], "a stop string is empty"),
        (["--repetition-penalty", "0"], "penalty must be from 0.001 to 1000"),
        (["--prompts", "missing.txt"], "the prompts missing.txt cannot be read"),
        (["--prompts", "empty.txt"], "empty.txt holds no prompts: write one per line"),
        (
            ["--prompt", "a", "--prompt", "b", "--show"],
            "--show and --trace follow one text: give a single --prompt",
        ),
    ],
    ids=str,
)
def test_an_option_that_cannot_be_used_is_refused_with_the_reason(capsys, run, options, words):
    assert words in refused(capsys, "generate", "run", *options)


@pytest.mark.parametrize("command", ["generate", "chat"])
def test_the_options_of_drafting_have_the_defaults_of_the_library(command, capsys):
    options, library = make_parser().parse_args([command, "run"]), DraftConfig()
    assert options.draft == library.drafter and options.rule == library.rule
    assert options.draft_length == library.length and options.tree == library.tree
    assert options.draft_confidence == library.min_confidence
    with pytest.raises(SystemExit):
        main([command, "-h"])
    said = " ".join(capsys.readouterr().out.split())
    assert f"falls below P (default: {library.min_confidence})" in said


def test_each_of_several_prompts_is_continued_as_if_it_were_alone(capsys, run):
    options = ["--max-new-tokens", "9", "--temperature", "0.8", "--seed", "5"]
    assert main(["generate", "run", "--prompt", "roses ", *options]) == 0
    alone = capsys.readouterr().out.rstrip("\n")
    Path("prompts.txt").write_text("violets\n\nsugar \n")
    texts = []
    for draft in ("heads", "none"):
        prompts = ["--prompt", "roses ", "--prompts", "prompts.txt"]
        assert main(["generate", "run", *prompts, "--draft", draft, *options]) == 0
        said = capsys.readouterr()
        texts.append(said.out)
        assert re.search(
            r"27 tokens in 3 texts, [\d,]+ tokens/s, \d\.\d\d tokens per step", said.err
        )
    assert texts[0] == texts[1]
    assert texts[0].startswith(f"[1] {alone}\n[2] violets") and "\n[3] sugar " in texts[0]


def test_a_stop_string_and_a_repetition_penalty_change_the_text(capsys, run):
    def said(*options):
        assert (
            main(["generate", "run", "--prompt", "roses ", "--max-new-tokens", "9", *options]) == 0
        )
        return capsys.readouterr()

    text = said().out.rstrip("\n")
    stopped = said("--stop", text[8:10], "--stop", "never said")
    end = text.index(text[8:10], len("roses ")) + 2
    assert stopped.out.rstrip("\n") == text[:end] and "the text ended" in stopped.err
    penalized = said("--repetition-penalty", "100").out
    assert penalized == said("--repetition-penalty", "100", "--draft", "none").out
    assert penalized.rstrip("\n") != text


def test_show_prints_the_tokens_per_step_and_a_dash_reads_the_prompt_from_standard_input(
    capsys, run, monkeypatch
):
    options = "--max-new-tokens 9 --show --draft-confidence 0".split()
    assert main(["generate", "run", "--prompt", "roses ", *options]) == 0
    assert "tokens per step" in capsys.readouterr().out
    monkeypatch.setattr("sys.stdin", argparse.Namespace(buffer=io.BytesIO(b"sugar ")))
    assert main(["generate", "run", "--prompt", "-", "--max-new-tokens", "2"]) == 0
    assert capsys.readouterr().out.startswith("sugar ")


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_streaming_never_splits_a_character(text):
    tokenizer = ByteTokenizer()
    pieces = list(stream(tokenizer.encode(text).tolist(), tokenizer))
    assert "".join(pieces) == text
    assert all("\ufffd" not in piece or "\ufffd" in text for piece in pieces)


def test_invalid_bytes_are_streamed_as_replacement_characters():
    tokenizer = ByteTokenizer()
    assert set("".join(stream([0x80] * 20, tokenizer))) == {"\ufffd"}


def test_of_several_prompts_the_one_that_is_too_long_is_named(capsys, run):
    Path("prompts.txt").write_text("a\nb\n" + "x" * 300 + "\nc\n")
    said = refused(capsys, "generate", "run", "--prompts", "prompts.txt")
    assert "prompt 3 of 4: the prompt has 300 tokens" in said


def test_the_trace_compares_with_plain_decoding_on_as_many_threads_and_the_same_cache(
    run, monkeypatch
):
    made, decoder = [], decoding.Decoder

    def watched(*arguments, **options):
        made.append(decoder(*arguments, **options))
        return made[-1]

    monkeypatch.setattr(decoding, "Decoder", watched)
    options = ["--draft", "ngram", "--threads", "1", "--kv-cache", "float16", "--context", "16"]
    assert main(["generate", "run", "--trace", "page.html", "--max-new-tokens", "4", *options]) == 0
    drafting, plain = made
    assert (drafting._threads, drafting._kv_cache) == (plain._threads, plain._kv_cache)
    assert plain._threads == 1 and plain._kv_cache == "float16"
    assert plain.target.context_length == drafting.target.context_length == 16
