"""Fixtures of the GGUF tests: trained runs and a small BPE tokenizer."""

import json

import pytest

from minimtp.cli import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a poem, a run in full precision with heads, and a run trained with QAT."""
    folder = tmp_path_factory.mktemp("gguf")
    (folder / "poem.txt").write_bytes(
        b"roses are red, violets are blue, sugar is sweet and so are you.\n" * 60
    )
    small = [
        "--preset",
        "tiny",
        "--tokens",
        "6k",
        "--evaluation-tokens",
        "256",
        "--corpus",
        str(folder / "poem.txt"),
    ]
    assert (
        main(
            [
                "train",
                *small,
                "--heads",
                "parallel",
                "--draft-depth",
                "2",
                "--out",
                str(folder / "float"),
            ]
        )
        == 0
    )
    assert main(["train", *small, "--quantization", "qat", "--out", str(folder / "qat")]) == 0
    return folder


@pytest.fixture(scope="module")
def bpe():
    """The content of a byte-level BPE tokenizer file.

    One id is unused, and one added token is not special.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer, trained.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
    )
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    trained.train_from_iterator(
        ["the cat sat on the mat, and the cät's 1234 hats are it's"] * 10, trainer
    )
    trained.add_tokens([AddedToken("<tab>", normalized=False)])
    content = json.loads(trained.to_str())
    content["model"]["vocab"]["<tab>"] = content["added_tokens"][-1]["id"] + 2
    return content
