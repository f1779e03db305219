"""Lesson 4, by hand: rows without a cache, and five logits through temperature, top-k and top-p."""

import re

import pytest

from lessons import course
from minimtp.backend import numpy as np
from minimtp.decode.cache import KeyValueCache
from minimtp.decode.sampling.params import SamplingParams
from minimtp.decode.sampling.random_source import SeededRandomSource
from tests.lessons.helpers import text

PROSE = " ".join(text(4).split())
SECTION = re.search(r"^## By hand$(.*?)^## ", text(4), re.MULTILINE | re.DOTALL)[1]
ROWS = {
    cells[0].strip(): [cell.strip() for cell in cells[1:]]
    for cells in re.findall(r"^\|([^|]+)" + r"\|([^|]+)" * 5 + r"\|$", SECTION, re.MULTILINE)
}
LOGITS = np.array([[float(cell) for cell in ROWS["logit z"]]])
DISTRIBUTIONS = {
    "temperature 1": SamplingParams(),
    "temperature 0.5": SamplingParams(0.5),
    "temperature 2": SamplingParams(2.0),
    "temperature 1, top-k 2": SamplingParams(top_k=2),
    "temperature 1, top-p 0.9": SamplingParams(top_p=0.9),
    "temperature 1, top-k 2, then top-p 0.7": SamplingParams(top_k=2, top_p=0.7),
}


def test_the_rows_that_are_computed_without_a_cache():
    count, prompt = re.search(r'(\d+) bytes after "(.*?)"\n', text(4)).groups()
    last = len(prompt) + int(count) - 1  # the last byte is generated, but not fed
    rows = range(len(prompt), last + 1)
    expected = f"{rows[0]} + {rows[1]} + ... + {last} = {sum(rows):,} rows, and only {last} of"
    assert f"generates {count} bytes" in PROSE and expected in PROSE


def test_every_row_of_the_table_is_checked():
    assert set(ROWS) - {"", "---", "logit z", "exp(z - 3)"} == set(DISTRIBUTIONS)


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_a_row_shows_the_probabilities_of_the_library(name):
    expected = DISTRIBUTIONS[name].probabilities(LOGITS)[0]
    assert ROWS[name] == [f"{p:.3f}" if p > 0 else "-" for p in expected]


def test_the_exponentials_and_their_sum():
    weights = np.exp(LOGITS[0] - LOGITS.max())
    assert ROWS["exp(z - 3)"] == [f"{weight:.3f}" for weight in weights]
    assert f"has the sum {weights.sum():.3f}" in PROSE
    with np.errstate(over="ignore"):
        assert np.exp(800.0) == np.inf


def test_the_sums_that_decide_what_top_p_keeps():
    sums = [f"{s:.3f}" for s in SamplingParams().probabilities(LOGITS)[0].cumsum()]
    assert f"the sums from the left are {sums[0]}, {sums[1]} and {sums[2]}." in PROSE
    assert float(sums[1]) < 0.9 < float(sums[2]) and f"divide by {sums[2]}" in PROSE
    assert f"*Before* the division by {sums[1]} it had only {sums[0]}" in PROSE
    assert float(sums[0]) < 0.7 < float(ROWS["temperature 1, top-k 2"][0])


def test_the_token_that_a_random_number_chooses():
    u, token = re.search(r"with u = ([\d.]+): .* belongs to `(\w)`", SECTION).groups()
    rng = SeededRandomSource(0)
    rng._random = lambda: float(u)
    chosen = rng.choose(SamplingParams().probabilities(LOGITS)[0])
    assert ROWS[""][chosen] == f"`{token}`"


def test_the_bytes_of_the_cache_are_the_product_of_its_sizes():
    *sizes, total = re.search(r"this is ([\d ·]+) = ([\d,]+) bytes, as the run", PROSE).groups()
    layers, both, positions, heads, channels, number = map(int, sizes[0].split(" · "))
    cache = KeyValueCache(layers, positions, heads, channels)
    assert (both, number) == (2, 4) and f"{cache.nbytes:,}" == total
    assert f"the cache takes {total} bytes for {positions} positions" in text(4)
    recipe = course.recipe_of(4)
    assert (layers, heads) == (recipe.num_layers, recipe.num_kv_heads)
    assert (positions, channels) == (recipe.context_length, recipe.hidden_size // recipe.num_heads)
