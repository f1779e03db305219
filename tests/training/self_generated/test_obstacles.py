"""What is in the way in a folder of self-generated text, and numbers that cannot be used."""

import json
import shutil

import pytest

from minimtp.cli import main
from minimtp.errors import UserError
from minimtp.training.data.corpus import open_corpus
from minimtp.training.self_generated import generate
from minimtp.training.self_generated.mixture import parse_mixture
from minimtp.training.self_generated.stored import Part, part_path, read_texts, write_part
from minimtp.training.tokenizers.byte_tokenizer import ByteTokenizer
from tests.cli.helpers import SMALL, TEXT
from tests.files.obstacles import OBSTACLES, plant
from tests.training.self_generated import helpers
from tests.training.self_generated.helpers import contents, model_with

MODEL = model_with(ByteTokenizer())
CODE = parse_mixture("code=1")


def generated(out, tokens=100, **options):
    return helpers.generated(MODEL, out, tokens, mixture=CODE, **options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, few_files):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(generate_sources(), "stdlib", lambda: few_files)
        out = tmp_path_factory.mktemp("self-generated") / "own"
        assert len(generated(out).parts) == 2
    return out


def generate_sources():
    from minimtp.training.data import texts

    return texts.NAMED_SOURCES


@pytest.fixture
def own(whole, tmp_path):
    """A copy of a folder with two parts."""
    shutil.copytree(whole, tmp_path / "own")
    return tmp_path / "own"


NO_PARTS = (
    "part-\u00b2.json", "part-\u0663\u0663\u0663\u0663\u0663.json", "part-1.json",
    "part-+0001.json", "part-000007.json", "part-.json", "part-00001.json.1",
    "part-00001 (copy).json", "part-9999999999999999999.json",
)  # fmt: skip


@pytest.mark.parametrize("name", NO_PARTS)
def test_only_a_name_that_selfgen_writes_is_that_of_a_part(own, name):
    (own / name).write_text("{}")
    before = contents(own)
    parts = len(read_texts(own, MODEL.tokenizer).parts)
    assert len(generated(own).parts) == parts
    assert contents(own) == before


@pytest.mark.parametrize("content", ["{}", "", "my notes", "a part"])
def test_a_stray_part_of_any_number_is_refused_instead_of_generating_all_before_it(
    own, content, monkeypatch
):
    number = 99_999_999
    content = part_path(own, 0).read_text() if content == "a part" else content
    part_path(own, number).write_text(content)
    before = contents(own)
    monkeypatch.setattr(generate.TextGenerator, "generate", must_not_run)
    with pytest.raises(UserError, match=f"part-{number}.json .*move"):
        generated(own)
    assert contents(own) == before


def test_a_deleted_part_is_generated_again_if_the_last_one_is_there(tmp_path):
    generated(tmp_path / "own", 400)
    whole = contents(tmp_path / "own")
    assert len(whole) > 2
    part_path(tmp_path / "own", 0).unlink()
    generated(tmp_path / "own", 400)
    assert contents(tmp_path / "own") == whole


@pytest.mark.parametrize("obstacle", OBSTACLES)
def test_whatever_is_in_the_way_of_a_part_is_found_before_any_text_is_generated(
    own, obstacle, monkeypatch
):
    part_path(own, 0).unlink()
    part_path(own, 1).unlink()
    plant(obstacle, part_path(own, 1))
    monkeypatch.setattr(generate.TextGenerator, "generate", must_not_run)
    with pytest.raises(UserError, match="part-00001.json"):
        generated(own)


def must_not_run(*arguments, **options):
    raise AssertionError("text was generated")


@pytest.mark.parametrize("change", ["no texts", "empty texts", "other kind", "more", "no kinds"])
def test_a_part_whose_numbers_are_not_those_of_its_texts_is_refused_and_generated_again(
    own, change
):
    before = contents(own)
    part = read_texts(own, MODEL.tokenizer).parts[0]
    texts, kinds = part.texts, part.kinds
    if change == "no texts":
        texts = []
    elif change == "empty texts":
        for text in texts:
            text.tokens = []
    elif change == "other kind":
        texts[0].kind = "poems"
    elif change == "more":
        kinds["code"].kept += 10**15
    else:
        kinds = {}
    from minimtp.training.self_generated.stored import read_setting

    write_part(own, read_setting(own), 0, kinds, texts, {})
    with pytest.raises(UserError, match="does not hold the texts that it counts"):
        read_texts(own, MODEL.tokenizer)
    lines = []
    generated(own, report=lines.append)
    assert contents(own) == before and "it is generated again" in lines[0]


@pytest.mark.parametrize("seed", [-1, 2**63])
@pytest.mark.parametrize("threads", [0, 1025])
def test_numbers_that_the_folder_could_not_hold_are_refused_before_it_is_made(
    tmp_path, seed, threads
):
    for options in ({"seed": seed}, {"threads": threads}):
        with pytest.raises(UserError, match="must be a whole number"):
            generated(tmp_path / "new", **options)
    assert not (tmp_path / "new").exists()


def test_parts_without_their_setting_are_no_text_to_train_on(own):
    (own / "self-generated.json").unlink()
    with pytest.raises(UserError, match="holds no text files .*part of a run or model"):
        open_corpus([own])
    (own / "note.txt").write_bytes(TEXT)
    assert open_corpus([own]).files == 1
    part = json.loads(part_path(own, 0).read_bytes())
    assert set(part) == set(Part.__struct_fields__)


def test_too_little_generated_text_is_refused_with_the_option_that_gives_more(
    own, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "poem.txt").write_bytes(TEXT)
    assert main(["train", *SMALL, "--corpus", "poem.txt", "--out", "run"]) == 0
    heads = ["train", "--from", "run", "--heads", "parallel", "--draft-depth", "2"]
    for options, advice in (
        (["--corpus", "own"], "raise --tokens of its minimtp selfgen command"),
        (["--corpus", "poem.txt", "--self-generated", "20"], "raise --self-generated"),
    ):
        assert main([*heads, *options, "--out", "new"]) == 2
        said = capsys.readouterr().err
        assert "is too short" in said and advice in said, said
    again = ["--corpus", "poem.txt", "--self-generated", "3000", "--evaluation-tokens", "0"]
    assert main([*heads, *again, "--out", "new"]) == 0
