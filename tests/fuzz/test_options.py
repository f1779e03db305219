"""Absurd values of every option give a result or one sentence, and end at once."""

import argparse

import pytest

from minimtp.cli import main, make_parser
from minimtp.errors import UserError
from tests.fuzz.mutate import check_sentence, time_limit

VALUES = (
    "1e300", "1" + "0" * 5000, "99999999999999999999", "-1", "0", "nan", "inf", "-inf", "1e15",
    "9223372036854775807", "-9223372036854775808", "1e-320", "1e308", "\u0663", "0x10", "", " ",
    "x" * 2000, "8," * 500 + "8", "1,9999999999999999999", "int4-restricted-g100000000000000000000",
    "nf4-g" + "9" * 5000, "int\u0664-restricted-g\u0663\u0662",
)  # fmt: skip
NOT_NUMBERS = {"--out", "--corpus", "--trace", "--recipe", "--from", "--teacher", "--tokenizer"}
NOT_NUMBERS |= {"--prompts", "--small", "--prompt", "--calibration", "--against", "--llama-cpp"}
BASES = {  # commands that end quickly
    "train": "train --preset tiny --corpus poem.txt --tokens 300 --out {out} --device cpu",
    "generate": "generate run --prompt def --max-new-tokens 2",
    "evaluate": "evaluate run --corpus poem.txt --tokens 64",
    "quantize": "quantize run --out {out}",
    "export": "export run --out {out}.gguf",
}
ENDLESS = {("train", "--tokens", "1e15")}  # a valid request


def options_of(parser, prefix=()):
    """Yield (words of the command, name of an option that takes a value)."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, below in action.choices.items():
                yield from options_of(below, (*prefix, name))
        elif action.option_strings and action.nargs != 0:
            if not isinstance(action, argparse.BooleanOptionalAction):
                yield prefix, action.option_strings[-1]


def test_every_option_refuses_an_absurd_value_in_one_sentence_or_reads_it():
    count, parser = 0, make_parser()
    for command, name in options_of(parser):
        for value in VALUES:
            try:
                parser.parse_args([*command, "run", f"{name}={value}"])
            except UserError as error:
                check_sentence(str(error), "")
            count += 1
    assert count > 1000


@pytest.mark.slow
def test_no_absurd_value_of_an_option_ends_a_command_with_a_traceback(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("minimtp.training.run.loop.draw_losses", lambda folder: None)
    (tmp_path / "poem.txt").write_text("roses are red, violets are blue\n" * 2000)
    warm_up = "train --preset tiny --corpus poem.txt --tokens 3000 --out run --device cpu"
    assert main(warm_up.split()) == 0
    for command, base in BASES.items():  # compiles the kernels
        assert main(base.format(out=f"warm-{command}").split()) == 0
    assert main("generate run --prompt def --max-new-tokens 20 --temperature 1".split()) == 0
    tried = 0
    for command, name in options_of(make_parser()):
        if command[0] not in BASES or name in NOT_NUMBERS:
            continue
        for value in VALUES:
            if (*command, name, value) in ENDLESS:
                continue
            tried += 1
            base = BASES[command[0]].format(out=f"out{tried}").split()
            with time_limit(30):
                code = main([*base, f"{name}={value}"])
            said = capsys.readouterr().err.strip().splitlines()
            assert code in (0, 2), (base, name, value, said)
            if code == 2:
                check_sentence(said[-1].removeprefix("minimtp: "), "")
    assert tried > 1200
