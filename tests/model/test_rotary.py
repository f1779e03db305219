"""Tables of rotary position embeddings (RoPE)."""

from minimtp.backend import numpy as np
from minimtp.model.rotary import Rotary


def test_rotary_tables_are_long_enough_even_if_another_thread_stores_shorter_ones():
    class SharedWithAnotherThread(dict):
        def __setitem__(self, key, tables):
            super().__setitem__(key, tuple(table[:1] for table in tables))

    rotary = Rotary(8, 10000.0)
    rotary._tables = SharedWithAnotherThread()
    assert [table.shape for table in rotary.tables(12, np.zeros(1))] == [(12, 4), (12, 4)]
