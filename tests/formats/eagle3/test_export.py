"""`minimtp export --draft` and `--draft PATH`: both outputs or neither, and the command line."""

import re
from contextlib import contextmanager

import pytest

import minimtp
from minimtp.bench.decode.variants import all_variants
from minimtp.cli import main
from minimtp.errors import UserError
from minimtp.formats.eagle3.settings import other_layers
from minimtp.formats.gguf import writer as gguf_writer
from minimtp.formats.huggingface import writer as huggingface_writer
from minimtp.training.recipe_checks import chosen_layers
from tests.cli.helpers import SMALL, TEXT, refused
from tests.formats.eagle3.cases import loaded, model_of
from tests.formats.gguf.helpers import needs_gguf

MODEL = loaded(model_of("draft vocabulary"))


def full_disk_for_drafts(written):
    """Return a writer that fails when the draft is complete but not yet in its place."""

    @contextmanager
    def fails(path, content):
        with written(path, content):
            if path.name.startswith("draft"):
                raise UserError("the disk is full")
            yield

    return fails


@needs_gguf
@pytest.mark.parametrize("out", ["model", "model.gguf"])
@pytest.mark.parametrize("draft", ["draft", "draft.gguf"])
def test_if_the_draft_cannot_be_written_the_model_is_not_either(out, draft, tmp_path, monkeypatch):
    for writer in (gguf_writer, huggingface_writer):
        monkeypatch.setattr(writer, "written", full_disk_for_drafts(writer.written))
    with pytest.raises(UserError, match="the disk is full"):
        minimtp.export(MODEL, tmp_path / out, draft=tmp_path / draft)
    assert list(tmp_path.iterdir()) == []


@needs_gguf
def test_an_earlier_export_stays_if_the_new_draft_cannot_be_written(tmp_path, monkeypatch):
    minimtp.export(MODEL, tmp_path / "model.gguf", draft=tmp_path / "draft.gguf")
    before = [(tmp_path / name).read_bytes() for name in ("model.gguf", "draft.gguf")]
    monkeypatch.setattr(gguf_writer, "written", full_disk_for_drafts(gguf_writer.written))
    other = loaded(model_of("draft vocabulary", seed=5))
    with pytest.raises(UserError, match="the disk is full"):
        minimtp.export(other, tmp_path / "model.gguf", draft=tmp_path / "draft.gguf")
    assert before == [(tmp_path / name).read_bytes() for name in ("model.gguf", "draft.gguf")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a run that has eagle3 heads, and one that has others."""
    made = tmp_path_factory.mktemp("eagle3")
    (made / "poem.txt").write_bytes(TEXT)
    small = [*SMALL, "--corpus", str(made / "poem.txt"), "--draft-depth", "2"]
    options = "--num-layers 2 --head-layers 0,1,1".split()
    assert main(["train", *small, *options, "--heads", "eagle3", "--out", str(made / "run")]) == 0
    assert main(["train", *small, "--heads", "parallel", "--out", str(made / "other")]) == 0
    return made


@needs_gguf
@pytest.mark.parametrize(
    ("draft", "options"),
    [("d.gguf", []), ("d", []), ("d", ["--draft-format", "speculators", "--dtype", "bfloat16"])],
)
def test_a_run_is_exported_and_its_head_drafts_for_it(
    draft, options, folder, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    run = str(folder / "run")
    assert main(["export", run, "--out", "m.gguf", "--draft", draft, *options]) == 0
    said = capsys.readouterr().out
    assert said.startswith("m.gguf: ") and f"\n{draft}: " in said
    assert ("draft-eagle3" in said) == draft.endswith(".gguf")
    assert "not in the file" not in said
    for model in (run, "m.gguf"):
        texts = []
        for source in ("none", draft, f"model:{draft}"):
            length = ["--draft-length", "2"] if source != "none" else []
            options = ["--draft", source, "--max-new-tokens", "8", *length]
            assert main(["generate", model, "--prompt", "roses", *options]) == 0
            texts.append(capsys.readouterr().out)
        assert len(set(texts)) == 1


@needs_gguf
@pytest.mark.parametrize(
    ("run", "options", "words"),
    [
        ("other", ["--out", "m.gguf", "--draft", "d.gguf"], "has no eagle3 heads"),
        ("run", ["--out", "m.gguf", "--draft", "m.gguf"], "choose another draft"),
        ("run", ["--out", "m.gguf", "--draft", "d.gguf", "--dtype", "bfloat16"], "dtype bfloat16"),
        (
            "run",
            ["--out", "m.gguf", "--draft", "d.gguf", "--draft-format", "llama"],
            "is for a folder of heads",
        ),
        ("run", ["--out", "m.gguf", "--draft-format", "llama"], "is for a folder of heads"),
    ],
)
def test_options_that_cannot_be_used_get_one_sentence_and_nothing_is_written(
    run, options, words, folder, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert words in refused(capsys, "export", str(folder / run), *options)


@needs_gguf
def test_an_export_without_the_draft_says_how_to_write_it(folder, tmp_path, capsys):
    for out in ("m.gguf", "m"):
        assert main(["export", str(folder / "run"), "--out", str(tmp_path / out)]) == 0
        assert "--draft PATH writes them" in capsys.readouterr().out


@pytest.mark.parametrize("heads", ["run", "trunk"])
def test_measurements_draft_with_a_head_from_a_folder_in_place_of_the_models_own(heads, tmp_path):
    minimtp.export(MODEL, tmp_path / "model", draft=tmp_path / "draft")
    model = MODEL if heads == "run" else loaded(MODEL.model.trunk)
    variants, _ = all_variants(model, minimtp.load_draft(tmp_path / "draft", model))
    names = [variant.name for variant in variants]
    assert "heads, 7 drafts" in names and not any("another run" in name for name in names)


@needs_gguf
@pytest.mark.parametrize(
    ("out", "draft"), [("m", "m/d"), ("m/d", "m"), ("m/d.gguf", "m"), ("m.gguf", "m.gguf/d")]
)
def test_an_output_in_the_other_output_is_refused_and_nothing_is_written(
    out, draft, folder, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    options = "--out", out, "--draft", draft
    assert "lies in the other" in refused(capsys, "export", str(folder / "run"), *options)
    assert not any(tmp_path.iterdir())


def test_the_layers_that_a_note_advises_can_be_trained():
    assert "--head-layers" not in other_layers(1) and "more layers" in other_layers(1)
    for count in range(2, 40):
        advised = re.search(r"--head-layers \(([\d,]+) for example\)", other_layers(count))[1]
        recipe = minimtp.Recipe(
            heads="eagle3", draft_depth=1, num_layers=count, head_layers=advised
        )
        assert max(chosen_layers(recipe)) < count


@needs_gguf
def test_a_name_that_ends_in_gguf_becomes_a_file_whatever_comes_before(tmp_path):
    done = minimtp.export(MODEL, tmp_path / "M.GGUF", draft=tmp_path / ".gguf")
    assert done.path.is_file() and done.draft.path.is_file()
