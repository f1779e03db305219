"""The reader of JSON files: what it accepts, and the sentences with which it refuses the rest."""

import json
import math
import random
import tracemalloc
from typing import Annotated, Literal

import pytest
from msgspec import Meta, Struct

from minimtp.errors import UserError, shown
from minimtp.records import (
    MAX_NESTING,
    Count,
    Finite,
    NonNegative,
    decode_json,
    lines_of,
    read_cache,
    read_json,
    without_nan,
)
from tests.fuzz.mutate import (
    damaged_bytes,
    damaged_json,
    json_bytes,
    must_be_refused_or_right,
    time_limit,
)


class Cell(Struct):
    seconds: NonNegative
    count: Count = 0
    kind: Literal["fp", "qat"] = "fp"


class Sample(Struct, forbid_unknown_fields=True):
    cells: dict[str, Cell]
    losses: list[Finite | None] = []
    pair: Annotated[list[int], Meta(min_length=2)] | None = None
    free: object = None


GOOD = {
    "cells": {"a": {"seconds": 1.5, "count": 3}, "b.c[0]": {"seconds": 0}},
    "losses": [1.0, None, 2],
    "pair": [1, 2],
    "free": {"any": [{"thing": True}]},
}
ADVICE = "delete it to measure again"


def refused(text: str | bytes, schema: type = Sample) -> str:
    with pytest.raises(UserError) as caught:
        decode_json(text, schema, "sample.json", ADVICE)
    message = str(caught.value)
    assert message.startswith("sample.json") and message.endswith(f": {ADVICE}")
    return message.removeprefix("sample.json").removesuffix(f": {ADVICE}").lstrip(": ")


def test_a_file_of_the_declared_form_is_read(tmp_path):
    path = tmp_path / "sample.json"
    path.write_text(json.dumps(GOOD))
    sample = read_json(path, Sample, advice=ADVICE)
    assert sample.cells["a"] == Cell(1.5, 3) and sample.losses == [1.0, None, 2.0]
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode())  # a byte order mark is accepted
    assert read_json(path, Sample, advice=ADVICE) == sample


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"cells": {"a": {"seconds": NaN}}}', "cells.a.seconds is NaN, but must be a number of"),
        ('{"cells": {"a": {"seconds": 1e999}}}', "cells.a.seconds is Infinity, but must be a fin"),
        ('{"cells": {"a": {"seconds": "1"}}}', 'cells.a.seconds is "1", but must be a number'),
        ('{"cells": {"a": {}}}', "cells.a.seconds is missing"),
        ('{"cells": {"a": {"seconds": 1, "count": true}}}', "cells.a.count is true, but must be a"),
        ('{"cells": {"a": {"seconds": 1, "count": -1}}}', "a.count is -1, but must be a whole num"),
        ('{"cells": {"a": {"seconds": 1, "kind": "x"}}}', 'cells.a.kind is "x", but must be one'),
        ('{"cells": {"x.y[2]": [1]}}', "cells.x.y[2] is a list of 1, but must be an object"),
        ('{"cells": {}, "losses": [1, "a"]}', 'losses[1] is "a", but must be a number or null'),
        ('{"cells": {}, "pair": [1]}', "pair is a list of 1, but must be a list of length at lea"),
        ('{"cells": {}, "cell": 1}', "the key cell is unknown"),
        ('{"cells": {}, "x - at `$.a[...]`": 1}', "the key x is unknown"),
        ("[]", "the file holds a list of 0, but must be an object"),
        ("", "is empty"),
        ('{"cells": ', "is not valid JSON at line 1, column 11"),
        (b'{"cells": "\xff"}', "is not UTF-8 (byte 0xff at 11)"),
        (f'{{"free": {"[" * 100_000}', f"nests brackets more than {MAX_NESTING} deep"),
        (f'{{"free": {"[" * 70 + "]" * 70}}}', f"nests brackets more than {MAX_NESTING} deep"),
        (f'{{"free": {"9" * 5000}}}', "has a number of thousands of digits"),
    ],
)
def test_a_message_names_the_key_and_what_was_found(text, sentence):
    assert sentence in refused(text)


def test_the_key_is_found_quickly_among_many(capsys):
    cells = {f"cell {k}": {"seconds": 1.0} for k in range(50_000)}
    cells["cell 34567"]["seconds"] = None
    with time_limit(20):
        assert refused(json.dumps({"cells": cells})).startswith("cells.cell 34567.seconds is null")
        nested = {key: {key: 1.0} for key in cells} | {"last": {key: 1.0 for key in cells}}
        nested["last"]["cell 7"] = "x"
        message = refused(json.dumps(nested), dict[str, dict[str, float]])
    assert message == 'last.cell 7 is "x", but must be a number'


def test_every_mutant_of_a_file_is_read_or_refused_with_one_sentence():
    rng, refusals = random.Random(0), 0
    for number in range(600):
        data = json_bytes(damaged_json(GOOD, rng)) if number % 2 else json.dumps(GOOD).encode()
        data = damaged_bytes(data, rng) if number % 3 == 0 else data
        refusals += must_be_refused_or_right(
            lambda data=data: decode_json(data, Sample, "sample.json", ADVICE),
            lambda sample: all(math.isfinite(cell.seconds) for cell in sample.cells.values()),
            names="sample.json",
        )
    assert refusals > 200


def test_a_file_larger_than_the_limit_is_refused_without_reading_it(tmp_path):
    path = tmp_path / "large.json"
    with open(path, "wb") as file:
        file.truncate(2**33)  # a sparse file: it takes no space
    tracemalloc.start()
    with pytest.raises(UserError, match="has more than 1,000 bytes"):
        read_json(path, Sample, advice=ADVICE, max_bytes=1000)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_a_missing_file_and_a_folder_are_refused_with_their_names(tmp_path):
    with pytest.raises(UserError, match=r"none\.json does not exist: " + ADVICE):
        read_json(tmp_path / "none.json", Sample, advice=ADVICE)
    with pytest.raises(UserError, match=f"{tmp_path.name} is a folder: " + ADVICE):
        read_json(tmp_path, Sample, advice=ADVICE)


def test_a_damaged_cache_is_none_and_costs_one_line(tmp_path, capsys):
    path = tmp_path / "cache.json"
    assert read_cache(path, Sample) is None and capsys.readouterr().err == ""
    path.write_text('{"cells": 1}')
    assert read_cache(path, Sample) is None
    expected = "cells is 1, but must be an object: it is measured again\n"
    assert capsys.readouterr().err == f"minimtp: {path}: {expected}"


def test_text_that_a_path_can_contain_survives():
    text = json.dumps({"cells": {}, "free": "a\udcffb"})
    assert decode_json(text, Sample, "sample.json", ADVICE).free == "a\udcffb"
    assert refused('{"cells": {}, "pair": [1, "\\udcff"]}').startswith('pair[1] is "?", but must')
    assert refused('{"cells": {}, "\\udcff": 1}') == "the key ? is unknown"
    assert "not valid Unicode" in refused('{"seconds": 1, "\\udcff": 1}', Cell)


def test_long_lines_are_skipped_without_holding_them_in_memory(tmp_path):
    path = tmp_path / "lines"
    path.write_bytes(b"one\n" + b"x" * 10_000_000 + b"\ntwo\r\n" + b"y" * 500 + b"\nthree")
    tracemalloc.start()
    assert list(lines_of(path, 100)) == [b"one", None, b"two", None, b"three"]
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_numbers_that_json_cannot_hold_become_null():
    assert without_nan({"a": [math.nan, (1, math.inf)], "b": "x"}) == {
        "a": [None, [1, None]],
        "b": "x",
    }


def test_values_in_messages_are_one_short_line():
    assert shown("a\nb\x1b[31m", 20) == "a?b?[31m" and shown("x" * 50, 10) == "xxxxxxx..."
