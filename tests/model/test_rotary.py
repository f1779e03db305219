"""Tables of rotary position embeddings (RoPE)."""

import pytest

from minimtp.backend import numpy as np
from minimtp.errors import UserError
from minimtp.model.rotary import Rotary, scaled


def test_rotary_tables_are_long_enough_even_if_another_thread_stores_shorter_ones():
    class SharedWithAnotherThread(dict):
        def __setitem__(self, key, tables):
            super().__setitem__(key, tuple(table[:1] for table in tables))

    rotary = Rotary(8, 10000.0)
    rotary._tables = SharedWithAnotherThread()
    assert [table.shape for table in rotary.tables(12, np.zeros(1))] == [(12, 4), (12, 4)]


def test_llama3_scaling_keeps_fast_pairs_divides_slow_pairs_and_mixes_in_between():
    # With a first context of 64: 4 turns and more are kept, 1 turn and less are divided by 8.
    turns = np.array([40.0, 4.0, 2.5, 1.0, 0.1])
    factors = scaled(turns * 2 * np.pi / 64, "llama3:8:1:4:64") / (turns * 2 * np.pi / 64)
    np.testing.assert_allclose(factors, [1, 1, (1 + 1 / 8) / 2, 1 / 8, 1 / 8], rtol=1e-12)


def test_linear_scaling_gives_position_t_the_angles_that_position_t_over_the_factor_had():
    plain, linear = Rotary(8, 100.0), Rotary(8, 100.0, "linear:4")
    like = np.zeros(1)
    for table, scaled_table in zip(plain.tables(9, like), linear.tables(33, like), strict=True):
        np.testing.assert_allclose(scaled_table[::4], table, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    "scaling",
    ["", "yarn", "yarn:4", "linear", "linear:0", "linear:nan", "linear:1e99", "llama3:8",
     "llama3:8:1:4:8192:7", "llama3:8:4:4:8192", "llama3:8:1:x:8192"],
)  # fmt: skip
def test_an_unknown_or_damaged_scaling_gets_a_sentence_that_lists_the_supported_ones(scaling):
    with pytest.raises(UserError, match="supported: none, linear:FACTOR, llama3:FACTOR"):
        scaled(np.ones(4), scaling)
