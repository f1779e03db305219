"""A small standard library for the prompts."""

import pytest

from minimtp.training.data import texts as named_texts
from minimtp.training.data.split import is_held_out

EVERY = named_texts.standard_library


@pytest.fixture(scope="session")
def few_files():
    every = EVERY()
    few = [document for document in every if is_held_out(document[0])][:8]
    return sorted(few + [document for document in every if not is_held_out(document[0])][:30])


@pytest.fixture(autouse=True)
def small_library(few_files, monkeypatch):
    """Use a few files of the standard library, of both sides."""
    monkeypatch.setitem(named_texts.NAMED_SOURCES, "stdlib", lambda: few_files)
    return dict(few_files)
