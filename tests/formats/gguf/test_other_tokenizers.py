"""Models work together if their tokenizers do the same, whatever their files look like."""

import json

import pytest

import minimtp
from minimtp.cli import main
from minimtp.model.tokenizer import same_tokens
from tests.formats.gguf.helpers import needs_gguf, needs_tokenizers

pytestmark = [needs_gguf, needs_tokenizers]
TEXT = "the cat sat on the mat, and the hats are it's 1234 times. "


@pytest.fixture(scope="module")
def place(bpe, tmp_path_factory):
    """A folder with a run, its GGUF file, and a run with other tokens in an equal number."""
    place = tmp_path_factory.mktemp("tokens")
    (place / "text.txt").write_text(TEXT * 150)
    alphabet = sorted(bpe["model"]["vocab"], key=bpe["model"]["vocab"].get)
    spelt = {name for name in alphabet if len(name) == 1}
    from minimtp.training.tokenizers.spellings import byte_spellings

    whole = dict(bpe["model"]["vocab"])
    for spelling in byte_spellings():
        if spelling not in spelt:
            whole[spelling] = max(whole.values()) + 1
    bpe = bpe | {"model": bpe["model"] | {"vocab": whole}}
    swapped = dict(whole)
    swapped["t"], swapped["h"] = whole["h"], whole["t"]
    other = bpe | {"model": bpe["model"] | {"vocab": swapped}}
    size = max(*whole.values(), *(token["id"] for token in bpe["added_tokens"])) + 1
    for name, content in (("run", bpe), ("other", other)):
        (place / f"{name}.json").write_text(json.dumps(content))
        options = ["--tokenizer", str(place / f"{name}.json"), "--vocabulary-size", str(size)]
        assert train(place, place / name, *options) == 0
    assert main(["export", str(place / "run"), "--out", str(place / "run.gguf")]) == 0
    return place


def train(place, out, *options):
    return main(
        [
            "train", "--preset", "tiny", "--tokens", "1k", "--evaluation-tokens", "0", "--corpus",
            str(place / "text.txt"), "--out", str(out), *options,
        ]
    )  # fmt: skip


def test_a_run_and_its_gguf_file_have_the_same_tokenizer_and_draft_for_each_other(place):
    run, file = minimtp.load(place / "run"), minimtp.load(place / "run.gguf")
    assert same_tokens(run.tokenizer, file.tokenizer)
    plain = continued(run, "none")
    assert continued(run, file) == plain and continued(file, run) == plain


def continued(model, drafter):
    length = 0 if drafter == "none" else 3
    decoder = minimtp.Decoder(model, minimtp.DraftConfig(drafter, length=length))
    return list(decoder.generate("the cat", max_new_tokens=12))


def test_a_drafter_or_teacher_with_other_tokens_in_an_equal_number_is_refused(place, capsys):
    run, other = minimtp.load(place / "run"), minimtp.load(place / "other")
    assert run.config.vocabulary_size == other.config.vocabulary_size
    with pytest.raises(minimtp.UserError, match="has another tokenizer than"):
        continued(run, other)
    capsys.readouterr()
    options = ["--from", str(place / "run"), "--distill-weight", "0.5"]
    assert train(place, place / "no", *options, "--teacher", str(place / "other")) == 2
    assert "has another tokenizer than this model" in capsys.readouterr().err
    assert not (place / "no").exists()
    assert train(place, place / "yes", *options, "--teacher", str(place / "run")) == 0


def test_a_prompt_that_is_not_utf8_is_continued_from_its_bytes(place, capsys):
    prompt = b"the \xff\xc3 cat".decode("utf-8", "surrogateescape")
    run = minimtp.load(place / "run")
    assert run.tokenizer.decode_bytes(run.tokenizer.encode(prompt)) == b"the \xff\xc3 cat"
    assert main(["generate", str(place / "run"), "--draft", "none", "--prompt", prompt]) == 0
    assert (
        main(["generate", str(place / "run"), "--prompt", "\ud83d", "--max-new-tokens", "4"]) == 2
    )
    assert "half of a surrogate pair" in capsys.readouterr().err
