"""Mutants of the files of a draft head: loaded with finite logits, or refused."""

import json
import random

import pytest

import minimtp
from minimtp.backend import numpy as np
from minimtp.model.draft_head import DraftHead
from tests.formats.eagle3.cases import draft_logits, loaded, model_of
from tests.fuzz.mutate import damaged_bytes, damaged_json, json_bytes, must_be_refused_or_right

pytestmark = pytest.mark.slow

COUNT = 250
MODEL = loaded(model_of("untied, both"))
FILES = ("draft/config.json", "draft/model.safetensors", "draft.gguf")


def is_right(found):
    """A head whose weights are finite numbers, on which nothing but the drafts depends."""
    assert isinstance(found, DraftHead)
    with np.errstate(all="ignore"):
        return draft_logits(found.attached_to(MODEL.model)).ndim == 3


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_of_a_head_is_refused_with_its_name_or_the_head_is_usable(name, tmp_path):
    pytest.importorskip("gguf")
    minimtp.export(MODEL, tmp_path / "model.gguf", draft=tmp_path / "draft.gguf")
    minimtp.export(MODEL, tmp_path / "model", draft=tmp_path / "draft")
    path, rng = tmp_path / name, random.Random(FILES.index(name))
    draft = path if path.suffix == ".gguf" else path.parent
    good = path.read_bytes()
    value = json.loads(good) if path.suffix == ".json" else None
    refused = 0
    for number in range(COUNT):
        as_value = value is not None and number % 2
        mutant = json_bytes(damaged_json(value, rng)) if as_value else damaged_bytes(good, rng)
        path.write_bytes(mutant)
        refused += must_be_refused_or_right(
            lambda: minimtp.load_draft(draft, MODEL), is_right, names=draft, megabytes=100
        )
    assert COUNT / 10 < refused
