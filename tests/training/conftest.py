"""Fixtures of the training tests."""

import argparse
from pathlib import Path

import pytest

from minimtp.training.data.corpus import Corpus


@pytest.fixture(autouse=True)
def no_plots(request, monkeypatch):
    """Draw no loss curve, which takes longer than these trainings, unless `plots` is used."""
    if "plots" not in request.fixturenames:
        monkeypatch.setattr("minimtp.training.run.loop.draw_losses", lambda folder: None)


@pytest.fixture
def plots():
    """Loss curves are drawn."""


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return Corpus("argparse", [("argparse.py", Path(argparse.__file__).read_bytes()[:40_000])])
