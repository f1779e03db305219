"""`minimtp train`: options, resuming, fine-tuning and Ctrl-C."""

import dataclasses
import re
import signal
from pathlib import Path

import pytest

from minimtp.cli import main
from minimtp.training.run import checkpoint
from minimtp.training.trainer import Trainer
from tests.cli.helpers import SMALL, refused


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
            "heads must be one of none, parallel, sequential, token_conditioned, eagle3",
        ),
        (["--draft-depth", "3"], "draft_depth 3 needs prediction heads"),
        (["--warmup-fraction", "0.7"], "together they must not exceed 1"),
        (["--freeze-trunk"], "nothing to train"),
        (["--distill-weight", "0.5"], "distill_weight needs a teacher"),
        (["--threads", "0"], "threads must be a whole number from 1"),
        (["--threads", "-1"], "threads must be a whole number from 1 to 1024, not -1"),
        (["--continue-schedule"], "name that run with --from"),
        (["--kernels", "fast"], "--kernels must be one of auto, plain, not 'fast'"),
        (["--device", "gpu"], "--device must be one of auto, cpu, cuda, not 'gpu'"),
        (["--preset", "quik"], "--preset must be one of tiny, quick, laptop, gpu, not 'quik'"),
        (["--learning-rat", "1"], "unknown option '--learning-rat': did you mean --learning-rate?"),
        (["--tokens"], "argument --tokens: expected one argument"),
        (["--stop-at-step", "0"], "stop_at_step must be a whole number of at least 1"),
        (["--tokenizer", "missing.json"], "missing.json does not exist"),
        (["--resume"], "there is no run to resume in out"),
        (["stray"], "unexpected argument 'stray': see minimtp train -h"),
        (["--", "--resume"], "unexpected argument '--resume': see minimtp train -h"),
    ],
    ids=str,
)
def test_an_option_that_is_out_of_range_misspelled_or_contradictory_is_refused(
    capsys, options, words
):
    assert words in refused(
        capsys, "train", *SMALL, "--corpus", "poem.txt", "--out", "out", *options
    )


def test_a_recipe_file_with_an_unknown_key_or_no_json_is_refused(capsys):
    misspelled = "recipe.json: unknown recipe key 'hiden_size': did you mean hidden_size?"
    for content, words in {
        '{"recipe": {"hiden_size": 32}}': misspelled,
        "{": "recipe.json is not valid JSON at line 1, column 2",
        "[1]": "recipe.json: the file holds a list of 1, but must be an object",
        '{"hidden_size": "wide"}': "hidden_size must be a whole number, not 'wide'",
    }.items():
        Path("recipe.json").write_text(content)
        assert words in refused(capsys, "train", "--recipe", "recipe.json", "--out", "out")
    assert "use one of them" in refused(
        capsys, "train", *SMALL, "--recipe", "recipe.json", "--out", "out"
    )


def test_options_that_start_a_run_are_refused_if_it_is_resumed(capsys, run):
    for option, value in (("--from", "run"), ("--tokenizer", "tokenizer.json")):
        sentence = refused(capsys, "train", "--out", "run", "--resume", option, value)
        assert f"run holds a run that has already started: omit {option} to resume it" in sentence


def test_an_existing_run_is_refused_unless_it_is_resumed(capsys, run):
    options = "--corpus poem.txt --heads token_conditioned --draft-depth 3 --out run".split()
    assert "run already holds a finished run" in refused(capsys, "train", *SMALL, *options)
    assert "has seed 0, not 1" in refused(
        capsys, "train", *SMALL, *options, "--resume", "--seed", "1"
    )
    assert main(["train", *SMALL, *options, "--resume"]) == 0
    assert main(["train", "--out", "run", "--resume"]) == 0


def test_an_evaluation_of_an_earlier_step_is_printed_with_its_step(capsys):
    command = ["train", *SMALL, "--corpus", "poem.txt", "--out", "new", "--checkpoint-every", "4"]
    assert main([*command, "--stop-at-step", "6"]) == 0
    said = capsys.readouterr().out
    assert re.match(
        r"evaluated at step 4:\n[\d.]+ bits per byte .*saved at step 6;", said, re.DOTALL
    )
    assert main(["train", "--out", "new", "--resume"]) == 0
    said = capsys.readouterr().out
    assert "bits per byte" in said and "evaluated at" not in said


def test_fine_tuning_starts_from_the_settings_of_the_other_run(capsys, run):
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


def test_fine_tuning_without_a_corpus_uses_the_text_of_the_other_run(run):
    assert main(["train", "--from", "run", "--tokens", "128", "--out", "tuned"]) == 0
    record, tuned = checkpoint.read("run").corpus, checkpoint.read("tuned").corpus
    assert tuned == record | {"folder": str(Path("tuned").resolve())}


def test_all_settings_and_the_reason_for_each_choice_are_printed(capsys):
    options = "--corpus poem.txt --threads 1 --device cpu --out out".split()
    assert main(["train", *SMALL, *options]) == 0
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


def test_ctrl_c_exits_with_130_after_saving_and_prints_how_to_resume(capsys, monkeypatch):
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


def test_ctrl_c_in_the_last_step_exits_with_130_and_reports_a_finished_run(capsys, monkeypatch):
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


def test_training_from_the_codes_of_a_rounding_method_is_packed_and_resumed(capsys):
    """The commands of the manual, one after the other."""
    assert main(["train", *SMALL, "--corpus", "poem.txt", "--out", "full"]) == 0
    calibration = ["--method", "gptq", "--calibration", "poem.txt"]
    assert main(["quantize", "full", *calibration, "--out", "gptq"]) == 0
    options = (
        "--from full --quantized-start gptq --teacher full --quantization qat --weight-scales "
        "learned-from-start --distill-weight 1 --freeze-embeddings --step-learning-rate-factor 20"
    ).split()
    assert main(["train", *options, "--out", "qat", "--stop-at-step", "3"]) == 0
    capsys.readouterr()
    words = refused(capsys, "train", "--out", "qat", "--resume", "--quantized-start", "gptq")
    assert "omit --quantized-start to resume it" in words
    assert main(["train", "--out", "qat", "--resume"]) == 0
    assert main(["quantize", "qat", "--out", "int4"]) == 0
    packed = checkpoint.read("int4")
    assert packed.packed["scales"] == "learned-from-start"
    assert not any("steps" in name for name in packed.parameters)
    heads = "--heads parallel --freeze-trunk --distill-weight 0".split()
    assert main(["train", "--from", "qat", *heads, "--out", "heads"]) == 0
    before, after = checkpoint.read("qat").parameters, checkpoint.read("heads").parameters
    assert all((after[f"trunk.{name}"] == array).all() for name, array in before.items())
