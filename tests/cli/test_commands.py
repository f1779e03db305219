"""The commands train, evaluate, quantize and generate work together, and from Python."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

import minimtp
from minimtp.cli import main
from minimtp.decode.decoder import Decoder
from minimtp.decode.drafters.config import DraftConfig
from minimtp.training.presets import preset
from minimtp.training.run import checkpoint
from minimtp.training.tokenizers.byte_tokenizer import ByteTokenizer
from tests.cli.helpers import SMALL, TEXT, refused


def test_greedy_text_with_drafts_equals_plain_text_before_and_after_quantizing(capsys, run):
    for name, words in (("run", "held-out bytes"), ("int4", "held-out bytes")):
        if name == "int4":
            assert main(["quantize", "run", "--bits", "4", "--out", "int4"]) == 0
            assert "bits per weight (before: " in capsys.readouterr().out
        assert main(["evaluate", name, "--corpus", "poem.txt"]) == 0
        assert words in capsys.readouterr().out
        texts = set()
        for options in (
            [],
            ["--draft", "none"],
            ["--draft-length", "1"],
            ["--draft", "ngram"],
            ["--draft", "model:run", "--draft-length", "2"],
        ):
            assert (
                main(["generate", name, "--prompt", "roses ", "--max-new-tokens", "9", *options])
                == 0
            )
            said = capsys.readouterr()
            assert said.out.startswith("roses ")
            assert re.search(
                r"9 tokens, [\d,]+ tokens/s, \d\.\d\d tokens per step; reached --max-new-tokens",
                said.err,
            )
            texts.add(said.out)
        assert len(texts) == 1  # drafts never change greedy text


def test_evaluate_names_its_text_and_warns_if_the_run_was_trained_on_another(capsys, run):
    def said(*options):
        assert main(["evaluate", "run", "--json", *options]) == 0
        said = capsys.readouterr()
        assert json.loads(said.out)["bits_per_byte"] > 0
        return [line for line in said.err.splitlines() if "compiling kernels" not in line]

    fingerprint = checkpoint.read(run).corpus["fingerprint"][:16]
    for options in ((), ("--corpus", "poem.txt")):
        (line,) = said(*options)
        assert re.fullmatch(
            rf"corpus    .*poem.txt: 1 file, .* held out by position, fingerprint {fingerprint}",
            line,
        )
    Path("poem.txt").write_bytes(TEXT + b"one line more\n")
    line, warning = said("--corpus", "poem.txt")
    assert line.startswith("corpus    poem.txt: 1 file, ") and fingerprint not in line
    assert warning == (
        f"warning: the run was trained on the text with fingerprint {fingerprint}, not on this "
        "one: it may have seen what is held out here"
    )


def test_an_evaluation_can_be_printed_as_json(capsys, run):
    assert main(["evaluate", "run", "--tokens", "64", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tokens"] == 64


def test_a_run_with_rows_that_do_not_fill_groups_is_not_quantized(capsys):
    assert (
        main(["train", *SMALL, "--intermediate-size", "40", "--corpus", "poem.txt", "--out", "odd"])
        == 0
    )
    capsys.readouterr()
    for grid in ("int4-restricted-channel", "nf4-g8"):
        sentence = refused(capsys, "quantize", "odd", "--grid", grid, "--out", "new")
        assert "feed_forward.down.weight has rows of 40" in sentence and "groups of 32" in sentence
    assert main(["quantize", "odd", "--grid", "f16", "--out", "new"]) == 0
    assert main(["evaluate", "new", "--tokens", "64"]) == 0


def test_a_function_can_draft_but_a_run_with_another_tokenizer_is_rejected_as_a_draft_model(run):
    loaded = minimtp.load("run")

    def text(drafter):
        draft = DraftConfig(drafter)
        return list(minimtp.generate(loaded, "roses ", max_new_tokens=9, draft=draft))

    plain = text("none")
    assert text(lambda tokens, depth, rule: ([97] * depth, None)) == plain
    assert text(loaded) == plain

    class OtherTokenizer(ByteTokenizer):
        vocabulary_size = 300

    other = replace(loaded, path=Path("other"), tokenizer=OtherTokenizer())
    with pytest.raises(minimtp.UserError, match="other has another tokenizer than run"):
        text(other)


def test_a_decoder_generates_several_texts_and_stores_the_cost_of_passes(
    run, tmp_path, monkeypatch
):
    monkeypatch.setenv("MINIMTP_CACHE", str(tmp_path / "costs"))
    # More rows do not fit the context of this small model.
    monkeypatch.setattr("minimtp.decode.policy.cost.MEASURED", (1, 2, 3))
    decoder = Decoder(minimtp.load("run"))
    first = list(decoder.generate("roses ", max_new_tokens=9))
    assert list(decoder.generate("violets ", max_new_tokens=9))
    assert list(decoder.generate("roses ", max_new_tokens=9)) == first
    (stored,) = (tmp_path / "costs").iterdir()
    identity = json.loads(stored.read_text())["identity"]
    assert {"processor", "kernels", "model", "context_length"} <= identity.keys()


def test_train_generate_evaluate_and_quantize_can_be_called_from_python(run):
    loaded = minimtp.load("run")
    tokens = list(minimtp.generate(loaded, "roses ", max_new_tokens=5))
    assert len(tokens) == 5
    assert minimtp.evaluate(loaded, ["poem.txt"]) == minimtp.evaluate(minimtp.load("run"))
    assert minimtp.quantize(minimtp.load("run"), "int8", "q8_0").packed.weights == "q8_0"
    halves = minimtp.quantize(minimtp.load("run"), "halves", "f16").packed
    assert {halves.weights, halves.embedding, halves.output_grid, halves.heads} == {"f16"}
    recipe = preset("tiny", context_length=16, tokens=640)
    assert minimtp.train(recipe, ["poem.txt"], "python", report=lambda line: None).finished


def test_compare_passes_its_options_to_run(monkeypatch):
    received = {}

    def compare(preset, out=None, **options):
        received.update(options, preset=preset, out=out)

    monkeypatch.setattr("minimtp.compare.run.compare", compare)
    options = "--out x --corpus a b --encoding gbk --seed 3 --threads 2"
    assert main(f"compare --preset tiny {options}".split()) == 0
    assert received == {
        "preset": "tiny",
        "out": "x",
        "corpus": ["a", "b"],
        "encoding": "gbk",
        "device": "auto",
        "threads": 2,
        "seed": 3,
    }
