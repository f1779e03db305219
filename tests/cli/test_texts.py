"""Texts as people have them: in any encoding, beside their runs, moved, with any line ends."""

import argparse
import io
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from minimtp.cli import main
from minimtp.training.run import checkpoint
from tests.cli.helpers import SMALL, TEXT, refused

RUSSIAN = "Мороз и солнце; день чудесный! Ещё ты дремлешь, друг прелестный.\r\n" * 40


def test_train_evaluate_quantize_and_compare_read_a_text_in_its_encoding(capsys):
    Path("utf-8.txt").write_bytes(RUSSIAN.encode())
    Path("old.txt").write_bytes(RUSSIAN.encode("cp1251"))
    for command in ("train --out new", "compare --preset tiny --out new", "bench quality --bits 4"):
        sentence = refused(capsys, *command.split(), "--corpus", "old.txt")
        assert "old.txt is not UTF-8 (byte 0xcc at position 0): give its encoding" in sentence
    old = ["--corpus", "old.txt", "--encoding", "windows-1251"]
    assert main(["train", *SMALL, "--corpus", "utf-8.txt", "--out", "one"]) == 0
    assert main(["train", *SMALL, *old, "--out", "two", "--stop-at-step", "4"]) == 0
    assert main(["train", "--out", "two", "--resume"]) == 0  # the encoding is part of the run
    one, two = checkpoint.read("one"), checkpoint.read("two")
    assert two.corpus["encoding"] == "cp1251"
    assert all((two.parameters[name] == array).all() for name, array in one.parameters.items())
    capsys.readouterr()
    results = []
    for options in ([], ["--corpus", "utf-8.txt"], old):
        assert main(["evaluate", "two", *options]) == 0
        results.append(capsys.readouterr())
    bits = [said.out.split()[0] for said in results]
    assert bits[0] == bits[1] == bits[2]
    assert "files read: 1 in cp1251" in results[0].err and "files read: 1 in" in results[2].err
    quantize = ["quantize", "two", "--method", "gptq", "--out", "small", "--calibration", "old.txt"]
    assert "old.txt is not UTF-8" in refused(capsys, *quantize)
    assert main([*quantize, "--encoding", "cp1251"]) == 0
    capsys.readouterr()
    assert "unknown encoding 'cp12511'" in refused(
        capsys, "evaluate", "two", "--corpus", "old.txt", "--encoding", "cp12511"
    )


def test_an_encoding_that_nothing_is_read_in_is_reported(capsys, run):
    for words in (
        ["train", *SMALL, "--out", "new", "--stop-at-step", "1"],
        ["evaluate", "run", "--corpus", "stdlib"],
        ["quantize", "run", "--out", "small"],
        ["generate", "run", "--prompt", "x", "--max-new-tokens", "1"],
    ):
        assert main([*words, "--encoding", "cp1251"]) == 0
        assert "--encoding has no effect: " in capsys.readouterr().err


def test_an_empty_path_is_no_folder(capsys):
    assert "--corpus is empty" in refused(capsys, "train", "--corpus", "", "--out", "new")


def test_what_a_folder_leaves_out_is_printed_by_every_command_that_reads_it(capsys, run):
    folder = Path("texts")
    folder.mkdir()
    (folder / "poem.txt").write_bytes(TEXT)
    (folder / "old.txt").write_bytes(RUSSIAN.encode("cp1251"))
    (folder / "picture.png").write_bytes(b"\x89PNG\0")
    line = (
        "          skipped: 1 not UTF-8 (old.txt), 1 not text (picture.png); --encoding NAME reads"
    )
    for command in (
        ["train", *SMALL, "--out", "new", "--stop-at-step", "1"],
        ["evaluate", "run"],
        ["quantize", "run", "--method", "gptq", "--out", "small"],
    ):
        option = "--calibration" if command[0] == "quantize" else "--corpus"
        capsys.readouterr()
        assert main([*command, option, "texts"]) == 0
        said = capsys.readouterr()
        assert line in said.out + said.err, command[0]


@pytest.mark.parametrize("out", ["texts/runs/mine", "texts/mine", "texts", "texts/below"])
def test_a_corpus_folder_may_hold_the_run_that_trains_on_it(capsys, out):
    below = Path("texts/below")
    below.mkdir(parents=True)
    Path("texts/poem.txt").write_bytes(TEXT)
    (below / "more.txt").write_bytes(TEXT.replace(b"roses", b"peonies"))
    command = ["train", *SMALL, "--corpus", "texts", "--checkpoint-every", "2", "--out"]
    assert main([*command, "outside"]) == 0
    assert main([*command, out, "--stop-at-step", "4"]) == 0
    capsys.readouterr()
    assert main(["train", "--out", out, "--resume"]) == 0
    assert main(["evaluate", out]) == 0
    assert "warning" not in capsys.readouterr().err
    record, other = checkpoint.read(out).corpus, checkpoint.read("outside").corpus
    assert record["fingerprint"] == other["fingerprint"]
    assert main([*command, "texts/another"]) == 0  # a second run does not read the first one
    assert checkpoint.read("texts/another").corpus["fingerprint"] == record["fingerprint"]


def test_a_moved_run_finds_the_text_that_it_generated_itself(capsys, run):
    heads = "--heads parallel --draft-depth 2 --freeze-trunk".split()
    command = ["train", "--from", "run", *heads, "--tokens", "256", "--self-generated", "2k"]
    assert main([*command, "--out", "heads", "--stop-at-step", "1"]) == 0
    Path("elsewhere").mkdir()
    shutil.move("heads", "elsewhere/moved")
    assert main(["train", "--out", "elsewhere/moved", "--resume"]) == 0
    assert main(["evaluate", "elsewhere/moved"]) == 0
    assert main("quantize elsewhere/moved --method gptq --out elsewhere/small".split()) == 0
    shutil.move("elsewhere", "further")
    capsys.readouterr()
    assert main(["evaluate", "further/small"]) == 0
    assert "warning" not in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["part-00000.json", "self-generated.json"])
def test_a_copied_run_whose_text_is_damaged_uses_the_first_one_or_names_the_damage(
    capsys, run, damage
):
    heads = "--heads parallel --draft-depth 2 --freeze-trunk".split()
    command = ["train", "--from", "run", *heads, "--tokens", "256", "--self-generated", "2k"]
    assert main([*command, "--out", "heads", "--stop-at-step", "1"]) == 0
    shutil.copytree("heads", "copied")
    Path("copied/self-generated", damage).write_text("{")
    shutil.copytree("copied", "resumed")
    assert main(["train", "--out", "resumed", "--resume", "--stop-at-step", "2"]) == 0
    shutil.rmtree("heads")
    capsys.readouterr()
    sentence = refused(capsys, "evaluate", "copied")
    assert f"copied/self-generated/{damage} is not valid JSON" in sentence
    shutil.rmtree("copied/self-generated")
    assert "is no longer at" in refused(capsys, "evaluate", "copied")


def test_a_project_that_is_moved_with_its_texts_and_runs_still_works(capsys):
    Path("project/texts").mkdir(parents=True)
    Path("project/texts/poem.txt").write_bytes(TEXT)
    command = ["train", *SMALL, "--corpus", "project/texts", "--out", "project/runs/a"]
    assert main([*command, "--stop-at-step", "3"]) == 0
    shutil.move("project", "renamed")
    assert main(["train", "--out", "renamed/runs/a", "--resume"]) == 0
    shutil.move("renamed", "project")
    for other in (b"", TEXT.replace(b"roses", b"lilac")):  # another text at the same place
        Path("project/texts/poem.txt").write_bytes(other)
        capsys.readouterr()
        sentence = refused(capsys, "evaluate", "project/runs/a")
        assert "the text of project/runs/a is no longer at " in sentence
    shutil.rmtree("project/texts")
    shutil.move("project", "renamed")
    capsys.readouterr()
    for words in (["evaluate", "renamed/runs/a"], ["train", "--from", "renamed/runs/a", "--out=b"]):
        sentence = refused(capsys, *words)
        assert "the text of renamed/runs/a is no longer at " in sentence
        assert sentence.endswith("/texts: give it with --corpus\n") and len(sentence) < 300


@pytest.mark.parametrize("name", ["a b", "it's", "$HOME", "new\nline", '"', "-x", "~", "猫;ls"])
def test_every_printed_command_can_be_pasted(capsys, name):
    options = ["--corpus", "poem.txt", f"--out={name}"]
    assert main(["train", *SMALL, *options, "--stop-at-step", "1"]) == 0
    said = capsys.readouterr().out
    resume = re.search(r"(?s)resume with: (.*?)\ntry: ", said)[1]
    script = f"minimtp() {{ printf '%s\\0' \"$@\"; }}\n{resume}"
    words = subprocess.run(["sh", "-c", script], capture_output=True, check=True).stdout
    assert main(words.decode().split("\0")[:-1]) == 0
    generate = re.search(r"(?s)try: minimtp (.*)\n", capsys.readouterr().out)[1]
    assert main([*shlex.split(generate), "--max-new-tokens", "2"]) == 0
    assert main(["export", f"./{name}", "--out", "-x model.gguf"]) == 0
    command = re.search(r"llama.cpp: (.*)\n", capsys.readouterr().out)[1]
    assert shlex.split(command)[:3] == ["llama-completion", "-m", "./-x model.gguf"]


def test_the_same_prompt_gives_the_same_text_however_it_is_given(capsys, run, monkeypatch):
    """As an option, in a file and on standard input, with any line ends and byte order marks."""
    text = "roses\nare"

    def said(*options: str, prompts: str = "--prompt") -> str:
        assert main(["generate", "run", *options, "--max-new-tokens", "4"]) == 0
        return capsys.readouterr().out

    expected = said("--prompt", text)
    for changed in ("roses\r\nare", "roses\rare", "\ufeffroses\nare", "roses\nare\0"):
        if "\0" not in changed:
            assert said("--prompt", changed) == expected
        for encoding in ("utf-8", "utf-16", "utf-8-sig"):
            content = io.BytesIO(changed.encode(encoding))
            monkeypatch.setattr("sys.stdin", argparse.Namespace(buffer=content))
            assert said("--prompt", "-") == expected
    russian = said("--prompt", "мороз").rstrip("\n")
    for name in ("cp1251", "utf-16", "koi8-r", "utf-8", "utf-16-le"):
        content = "мороз".encode(name)
        monkeypatch.setattr("sys.stdin", argparse.Namespace(buffer=io.BytesIO(content)))
        assert said("--prompt", "-", "--encoding", name).rstrip("\n") == russian
        Path("prompts.txt").write_bytes("мороз\r\n\r\nмороз\r\n".encode(name))
        both = said("--prompts", "prompts.txt", "--encoding", name)
        assert both == f"[1] {russian}\n[2] {russian}\n"


def test_a_stop_string_has_the_line_ends_of_the_text(capsys, run):
    def said(stop: str) -> str:
        assert main(["generate", "run", "--prompt", "you.", "--stop", stop]) == 0
        return capsys.readouterr().out

    assert said("\n") == said("\r\n") == said("\r")


def test_prompts_that_are_not_text_are_refused_with_the_way_to_read_them(capsys, run, monkeypatch):
    monkeypatch.setattr("sys.stdin", argparse.Namespace(buffer=io.BytesIO(b"caf\xe9 ")))
    assert "standard input is not UTF-8 (byte 0xe9 at position 3): give its encoding" in refused(
        capsys, "generate", "run", "--prompt", "-"
    )
    Path("old.txt").write_bytes("мороз".encode("cp1251"))
    assert "old.txt is not UTF-8 (byte 0xec at position 0): give its encoding" in refused(
        capsys, "generate", "run", "--prompts", "old.txt"
    )
    Path("folder").mkdir()
    monkeypatch.setattr("minimtp.cli.options.prompts.MAX_PROMPT_BYTES", 1000)
    with open("/dev/zero", "rb") as zeros:
        monkeypatch.setattr("sys.stdin", argparse.Namespace(buffer=zeros))
        assert "standard input has more than 1,000 bytes: give shorter" in refused(
            capsys, "generate", "run", "--prompt", "-"
        )
    Path("long.txt").write_bytes(b"x\n" * 600)
    assert "long.txt has more than 1,000 bytes" in refused(
        capsys, "generate", "run", "--prompts", "long.txt"
    )
    for name in ("folder", "/dev/zero", "missing"):
        sentence = refused(capsys, "generate", "run", "--prompts", name)
        assert f"the prompts {name} cannot be read" in sentence
