"""`minimtp selfgen` lets a model write, and `minimtp train` reads exactly its tokens."""

import re
import shutil
from pathlib import Path

import pytest

import minimtp
from minimtp.backend import numpy as np
from minimtp.cli import main
from minimtp.errors import UserError
from minimtp.training.data import texts as named_texts
from minimtp.training.data.corpus import open_corpus
from minimtp.training.run import checkpoint
from minimtp.training.self_generated.stored import read_texts
from tests.cli.helpers import refused
from tests.training.self_generated.helpers import ChatBytes

HEADS = "--heads parallel --draft-depth 2 --freeze-trunk --tokens 256 --evaluation-tokens 0".split()
CODE = ["--mix", "code=2,prose=1", "--tokens", "600"]


@pytest.fixture(autouse=True)
def few_files(monkeypatch):
    few = named_texts.standard_library()[:12]
    monkeypatch.setitem(named_texts.NAMED_SOURCES, "stdlib", lambda: few)


@pytest.fixture
def own(run):
    assert main(["selfgen", "run", *CODE, "--out", "own"]) == 0
    return Path("own")


def test_the_table_says_what_was_kept_and_the_same_command_finds_nothing_missing(capsys, own):
    said = capsys.readouterr()
    assert "minimtp train --from run --corpus own" in said.out
    rows = [line.split() for line in said.out.splitlines()]
    assert [row[0] for row in rows[:4]] == ["kind", "code", "prose", "all"]
    new = [int(row[2].replace(",", "")) for row in rows[1:4]]
    assert new[0] + new[1] == new[2] >= 600
    assert re.search(r"[\d,]+ new tokens in [\d,]+ s: [\d,]+ tokens/s with \d+ thread", said.out)
    assert main(["selfgen", "run", *CODE, "--out", "own"]) == 0
    assert "nothing was missing" in capsys.readouterr().out


def test_a_run_trains_on_exactly_the_generated_tokens_and_is_resumed_after_a_move(capsys, own):
    tokenizer = minimtp.load("run").tokenizer
    corpus, texts = open_corpus([own], tokenizer), read_texts(own, tokenizer).texts
    every = sorted(token for text in texts for token in text.prompt + text.tokens)
    assert sorted([*corpus.train, *corpus.validation]) == every and len(corpus.validation)
    command = ["train", "--from", "run", "--corpus", "own", *HEADS, "--out", "heads"]
    assert main([*command, "--stop-at-step", "1"]) == 0
    assert checkpoint.read("heads").corpus["fingerprint"] == corpus.fingerprint
    Path("moved").mkdir()
    shutil.move("heads", "moved/heads")
    shutil.move("own", "moved/own")
    assert main(["train", "--out", "moved/heads", "--resume"]) == 0
    assert main(["evaluate", "moved/heads", "--tokens", "32"]) == 0
    assert "warning" not in capsys.readouterr().err


def test_the_folder_is_no_text_for_a_corpus_around_it(own):
    Path("around").mkdir()
    shutil.copytree(own, "around/own")
    Path("around/note.txt").write_text("a note " * 200)
    corpus = open_corpus(["around"])
    assert corpus.files == 1 and "part of a run or model" in corpus.describe()


def test_an_encoding_beside_tokens_or_a_named_text_has_a_note_that_it_has_no_effect(own):
    for source in ("own", "stdlib"):
        described = open_corpus([source], minimtp.load("run").tokenizer, "latin-1").describe()
        assert "no effect of encoding" in described
        without = open_corpus([source], minimtp.load("run").tokenizer)
        assert "no effect" not in without.describe() and described.startswith(without.describe())


def test_tokens_of_another_tokenizer_and_mixed_sources_are_refused(capsys, own):
    with pytest.raises(UserError, match="own holds tokens of another tokenizer"):
        open_corpus([own], ChatBytes())
    Path("note.txt").write_text("a note " * 200)
    capsys.readouterr()
    sentence = refused(
        capsys, "train", "--from", "run", "--corpus", "own", "note.txt", *HEADS, "--out", "new"
    )
    assert "cannot be combined with other text" in sentence


def test_a_damaged_part_stops_training_with_its_name_and_selfgen_repairs_it(capsys, own):
    path = own / "part-00000.json"
    content = path.read_bytes()
    digit = content.index(b'"tokens":[') + 10
    path.write_bytes(content[:digit] + b"1" + content[digit:])
    capsys.readouterr()
    train = ["train", "--from", "run", "--corpus", "own", *HEADS, "--out", "new"]
    sentence = refused(capsys, *train)
    assert "own/part-00000.json is damaged" in sentence
    assert "repeat the command that wrote this folder" in sentence
    assert main(["selfgen", "run", *CODE, "--out", "own"]) == 0
    assert "part-00000.json is damaged" in capsys.readouterr().err
    assert path.read_bytes() == content
    (own / "self-generated.json").write_text("{}")
    assert "delete the folder" in refused(capsys, *train)


@pytest.mark.parametrize(
    "options, words",
    [
        (["--tokens", "0"], "--tokens must be at least 1, not 0"),
        (["--mix", "chat=44,cod=1"], "cod"),
        (["--mix", "code=x"], "must be a number"),
        (["--mix", "text=1"], "give it with --corpus"),
        (["--grid", "int3"], "int3"),
        (["--corpus", "nowhere"], "there is no file or folder nowhere"),
    ],
)
def test_options_that_cannot_be_used_are_refused(capsys, run, options, words):
    assert words in refused(capsys, "selfgen", "run", *options, "--out", "new")


def test_a_folder_of_another_command_is_refused(capsys, own):
    capsys.readouterr()
    for options, words in (
        (["--seed", "1"], "another --seed"),
        (["--mix", "code=1"], "another --mix"),
        (["--grid", "f16"], "another model and another --grid"),
    ):
        sentence = refused(capsys, "selfgen", "run", *CODE, *options, "--out", "own")
        assert words in sentence and "choose another --out" in sentence
    Path("other").mkdir()
    Path("other/note.txt").write_text("my notes")
    assert "holds other files" in refused(capsys, "selfgen", "run", *CODE, "--out", "other")
    Path("full").mkdir()
    Path("full/self-generated.json").write_text("my notes")
    assert "is not the setting" in refused(capsys, "selfgen", "run", *CODE, "--out", "full")


def test_own_text_is_continued_and_a_model_without_a_template_has_no_conversations(capsys, run):
    command = ["selfgen", "run", "--tokens", "200"]
    assert main([*command, "--corpus", "poem.txt", "--out", "own"]) == 0
    found = read_texts(Path("own"), minimtp.load("run").tokenizer)
    poem = Path("poem.txt").read_bytes()
    assert all(bytes(text.prompt) in poem for text in found.texts)
    assert main([*command, "--out", "default"]) == 0
    assert "45 % code, 34 % edit, 21 % prose" in capsys.readouterr().err
    sides = read_texts(Path("default"), minimtp.load("run").tokenizer).sides()
    assert np.concatenate(sides).max() <= 256
