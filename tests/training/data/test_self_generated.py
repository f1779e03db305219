"""Heads added to a frozen trunk learn from text that the trunk generated."""

import itertools
import shutil
from pathlib import Path

import pytest

import minimtp
from minimtp.backend import numpy as np
from minimtp.cli import main
from minimtp.errors import UserError
from minimtp.training.data import self_generated
from minimtp.training.data.corpus import open_corpus
from minimtp.training.data.self_generated import generate_training_text, is_repetitive
from minimtp.training.run import checkpoint, distributed

SMALL = [
    "--preset",
    "tiny",
    "--context-length",
    "16",
    "--hidden-size",
    "16",
    "--intermediate-size",
    "32",
    "--batch-size",
    "2",
]
POEM = b"roses are red, violets are blue, sugar is sweet, and so are you\n" * 120


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    (folder / "poem.txt").write_bytes(POEM)
    assert (
        main(
            [
                "train",
                *SMALL,
                "--tokens",
                "16k",
                "--corpus",
                str(folder / "poem.txt"),
                "--out",
                str(folder / "run"),
            ]
        )
        == 0
    )
    return folder


@pytest.fixture
def run(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("minimtp.training.run.loop.draw_losses", lambda folder: None)
    shutil.copytree(trained / "run", "run")
    shutil.copy(trained / "poem.txt", "poem.txt")


def test_self_generated_text_is_reproducible_and_at_least_as_long_as_requested(run):
    loaded, corpus = minimtp.load("run"), open_corpus(["poem.txt"])
    texts = []
    for out in ("a", "a", "b"):
        folder = generate_training_text(loaded, corpus, out, 1500, seed=1)
        texts.append({path.name: path.read_bytes() for path in folder.iterdir()})
        assert not folder.with_name("self-generated.partial").exists()
    assert texts[0] == texts[1] == texts[2] and sum(map(len, texts[0].values())) >= 1500
    other = generate_training_text(loaded, corpus, "c", 1500, seed=2)
    assert {path.name: path.read_bytes() for path in other.iterdir()} != texts[0]


def test_texts_that_run_in_a_loop_are_left_out_unless_most_texts_do(run, monkeypatch):
    loaded, corpus = minimtp.load("run"), open_corpus(["poem.txt"])
    generate, new = self_generated.generate_texts, 15  # tokens of a text: 16 + 1 without the prompt

    def text_of(folder):
        return "".join(path.read_text() for path in sorted(folder.iterdir()))

    def with_loops(share):
        numbers = itertools.count()

        def some_loops(*arguments, **options):
            for text in generate(*arguments, **options):
                tokens = [ord("Q")] * new if next(numbers) * 37 % 100 < share else text.tokens
                yield text._replace(tokens=tokens)

        monkeypatch.setattr(
            self_generated, "generate_texts", lambda *a, **k: list(some_loops(*a, **k))
        )
        return text_of(generate_training_text(loaded, corpus, f"loops-{share}", 1500, seed=1))

    assert "QQQQ" not in with_loops(50) and len(with_loops(50)) >= 1500
    assert "QQQQ" in with_loops(100)


def test_a_text_is_repetitive_if_few_of_its_runs_of_four_tokens_are_distinct():
    rng = np.random.default_rng(0)
    assert not is_repetitive(rng.integers(0, 100, 200).tolist())
    assert not is_repetitive([]) and not is_repetitive([1, 1, 1])
    assert is_repetitive([1, 2, 3] * 40)
    begin = rng.integers(0, 100, 90).tolist()
    assert not is_repetitive(begin + [7] * 100) and is_repetitive(begin + [7] * 200)


def test_heads_join_a_frozen_trunk_on_self_generated_text_and_the_run_can_be_resumed(run, capsys):
    heads = [
        "--heads",
        "token_conditioned",
        "--draft-depth",
        "3",
        "--freeze-trunk",
        "--head-targets",
        "trunk",
    ]
    command = [
        "train",
        "--from",
        "run",
        *heads,
        "--head-loss-weight",
        "1",
        "--tokens",
        "4k",
        "--self-generated",
        "3k",
        "--out",
        "heads",
    ]
    assert main([*command, "--stop-at-step", "60"]) == 0
    assert main(["train", "--out", "heads", "--resume"]) == 0
    before, after = checkpoint.read("run").parameters, checkpoint.read("heads").parameters
    assert all(np.array_equal(array, after[f"trunk.{name}"]) for name, array in before.items())
    assert checkpoint.read("heads").corpus["sources"][0].endswith("heads/self-generated")
    capsys.readouterr()
    assert main([*command, "--resume"]) == 2
    assert "omit --from to resume it" in capsys.readouterr().err
    # The heads draft a memorized poem almost without errors, although they were not trained on it.
    generation = minimtp.generate(
        minimtp.load("heads"),
        "roses",
        max_new_tokens=12,
        draft=minimtp.DraftConfig(length=3, min_confidence=0.0),
    )
    assert list(generation) == list(
        minimtp.generate(minimtp.load("run"), "roses", max_new_tokens=12)
    )
    assert generation.statistics.tokens_per_step > 1.5


def test_self_generated_text_without_a_source_run_or_tokens_is_refused(run, capsys):
    assert (
        main(["train", *SMALL, "--corpus", "poem.txt", "--self-generated", "100", "--out", "new"])
        == 2
    )
    assert "name that model with --from" in capsys.readouterr().err
    with pytest.raises(UserError, match="self_generated must be at least 1 token, not 0"):
        generate_training_text(minimtp.load("run"), open_corpus(["poem.txt"]), "new", 0, seed=0)


def test_a_corpus_shorter_than_a_prompt_is_refused(run, capsys):
    with open("two.txt", "wb") as file:
        file.write(b"x")
    command = [
        "train",
        "--from",
        "run",
        "--corpus",
        "two.txt",
        "--self-generated",
        "100",
        "--out",
        "new",
    ]
    assert main(command) == 2
    assert capsys.readouterr().err.endswith(
        "minimtp: two.txt is too short: a prompt needs 3 tokens, but there are 2 to train on: "
        "give more text with --corpus\n"
    )
    assert not Path("new").exists()


def test_self_generated_text_is_refused_in_several_processes(run, capsys, monkeypatch):
    several = distributed.SingleProcess()
    several.size = 2
    command = ["train", "--from", "run", "--tokens", "4k", "--self-generated", "3k", "--out", "new"]
    with monkeypatch.context() as patched:
        patched.setattr("minimtp.training.run.train.join", lambda: several)
        assert main(command) == 2
    said = capsys.readouterr().err
    assert "self_generated text is generated by one process: " in said and not Path("new").exists()
    assert main([*command, "--stop-at-step", "1"]) == 0  # as the message recommends
    assert main(["train", "--out", "new", "--resume", "--stop-at-step", "2"]) == 0
    assert checkpoint.read("new").corpus["sources"][0].endswith("new/self-generated")
