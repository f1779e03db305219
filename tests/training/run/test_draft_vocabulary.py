"""The draft vocabulary of a run: chosen from its text, stored, and carried to other runs."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimtp.backend import numpy as np
from minimtp.errors import UserError
from minimtp.model.heads.draft_vocabulary import DraftVocabulary, most_frequent_tokens
from minimtp.training.data.corpus import Corpus
from minimtp.training.quantize import quantize
from minimtp.training.run import checkpoint
from minimtp.training.run.folder import load_run
from minimtp.training.run.start import Start
from minimtp.training.run.train import train
from tests.training.helpers import losses, quiet, recipe_of, stored

SIZE = 24
LIMITED = {
    "heads": "token_conditioned",
    "draft_depth": 2,
    "head_targets": "trunk",
    "draft_vocabulary_size": SIZE,
}


def ids_of(folder):
    return load_run(folder).model.heads.draft_vocabulary.ids.data.tolist()


@given(text=st.lists(st.integers(0, 19), max_size=60), size=st.integers(1, 20))
def test_no_token_outside_is_more_frequent_and_ties_go_to_the_lowest_id(text, size):
    ids = most_frequent_tokens(np.array(text, np.uint16), size, 20).tolist()
    assert sorted(set(ids)) == ids and len(ids) == size
    rank = {token: (-text.count(token), token) for token in range(20)}
    others = set(range(20)) - set(ids)
    assert max(rank[token] for token in ids) < min((rank[t] for t in others), default=(1, 0))


@given(ids=st.sets(st.integers(0, 29), min_size=1), tokens=st.lists(st.integers(0, 29)))
def test_a_vocabulary_finds_the_indices_of_its_tokens_and_no_others(ids, tokens):
    vocabulary = DraftVocabulary(len(ids), 30)
    vocabulary.ids.data = np.array(sorted(ids), np.int32)
    indices = vocabulary.indices_of(np.array(tokens, np.int64))
    assert (indices >= 0).tolist() == [token in ids for token in tokens]
    inside = [token for token in tokens if token in ids]
    assert vocabulary.tokens_at(indices[indices >= 0]).tolist() == inside


def test_a_run_drafts_the_most_frequent_tokens_of_its_text_and_keeps_them(tmp_path, corpus):
    recipe = recipe_of(**LIMITED)
    train(recipe, corpus, tmp_path / "whole", threads=1, report=quiet)
    expected = most_frequent_tokens(corpus.train, SIZE, recipe.vocabulary_size).tolist()
    assert ids_of(tmp_path / "whole") == expected

    train(recipe, corpus, tmp_path / "parts", threads=1, stop_at_step=5, report=quiet)
    train(recipe, corpus, tmp_path / "parts", Start(resume=True), threads=1, report=quiet)
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    assert stored(tmp_path / "parts") == stored(tmp_path / "whole")

    packed = quantize(load_run(tmp_path / "whole"), tmp_path / "packed")
    assert packed.model.heads.draft_vocabulary.ids.data.tolist() == expected
    assert ids_of(tmp_path / "packed") == expected


def test_a_branch_keeps_the_vocabulary_of_its_size_and_else_chooses_from_its_own_text(
    tmp_path, corpus
):
    recipe = recipe_of(**LIMITED)
    train(recipe, corpus, tmp_path / "stem", threads=1, report=quiet)
    other = Corpus("other", [("words", b"THE QUICK BROWN FOX 0123456789 " * 400)])
    train(recipe, other, tmp_path / "same", Start(start_from=tmp_path / "stem"), report=quiet)
    assert ids_of(tmp_path / "same") == ids_of(tmp_path / "stem")
    for name, size in (("fewer", SIZE // 2), ("more", 2 * SIZE)):
        changed = replace(recipe, draft_vocabulary_size=size)
        start = Start(start_from=load_run(tmp_path / "stem"))
        train(changed, other, tmp_path / name, start, report=quiet)
        chosen = most_frequent_tokens(other.train, size, recipe.vocabulary_size)
        assert ids_of(tmp_path / name) == chosen.tolist()
    everything = replace(recipe, draft_vocabulary_size=None)
    train(everything, other, tmp_path / "all", Start(start_from=tmp_path / "stem"), report=quiet)
    assert load_run(tmp_path / "all").model.heads.draft_vocabulary is None


def test_the_report_of_a_run_says_how_much_of_the_held_out_text_can_be_drafted(tmp_path, corpus):
    lines = []
    train(recipe_of(1, **LIMITED), corpus, tmp_path / "run", threads=1, report=lines.append)
    ids = ids_of(tmp_path / "run")
    share = np.isin(corpus.validation, ids).mean()
    assert f"drafts    {SIZE} of 257 tokens, {share:.1%} of the held-out text" in lines


def test_heads_follow_only_a_teacher_that_drafts_the_same_tokens_or_all(tmp_path, corpus):
    recipe = recipe_of(**LIMITED)
    train(recipe, corpus, tmp_path / "teacher", threads=1, report=quiet)
    follower = replace(recipe, head_targets="teacher")
    start = Start(start_from=tmp_path / "teacher", teacher=tmp_path / "teacher")
    train(follower, corpus, tmp_path / "same", start, threads=1, report=quiet)
    train(follower, corpus, tmp_path / "part", start, threads=1, stop_at_step=5, report=quiet)
    train(follower, corpus, tmp_path / "part", Start(resume=True), threads=1, report=quiet)
    assert stored(tmp_path / "part") == stored(tmp_path / "same")
    for size in (None, SIZE + 1):
        other = replace(follower, draft_vocabulary_size=size)
        with pytest.raises(UserError, match="draft other tokens than this run"):
            train(other, corpus, tmp_path / "no", start, threads=1, report=quiet)


@pytest.mark.parametrize("wrong", [[3, 3], [5, 2], [-1, 4], [4, 10**6]], ids=str)
@pytest.mark.parametrize("packed", [False, True])
def test_stored_tokens_that_are_not_increasing_or_not_in_the_vocabulary_are_refused(
    tmp_path, corpus, wrong, packed
):
    recipe = recipe_of(**LIMITED | {"draft_vocabulary_size": 2})
    train(recipe, corpus, tmp_path / "run", threads=1, report=quiet)
    folder = tmp_path / "run"
    if packed:
        quantize(load_run(folder), tmp_path / "packed")
        folder = tmp_path / "packed"
    damaged = checkpoint.read(folder)
    name = "heads.draft_vocabulary.ids"
    damaged.parameters = damaged.parameters | {name: np.array(wrong, np.int32)}
    checkpoint.write(folder, damaged)
    with pytest.raises(UserError, match=f"{name} .*increasing tokens: use another run folder"):
        load_run(folder)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("method", ["gptq", "awq", "hqq"])
def test_every_method_of_rounding_takes_a_model_that_drafts_some_tokens(
    tmp_path, corpus, tied, method
):
    recipe = recipe_of(**LIMITED, tied_embeddings=tied)
    train(recipe, corpus, tmp_path / "run", threads=1, report=quiet)
    options = {"calibration": corpus, "head_grid": "measured"} if method != "hqq" else {}
    packed = quantize(load_run(tmp_path / "run"), tmp_path / "int4", method=method, **options)
    assert packed.model.heads.draft_vocabulary.ids.data.tolist() == ids_of(tmp_path / "run")
