"""bench passes: the time of a forward pass by tokens, threads and cached positions."""

import json

import pytest

from minimtp.bench.baselines.llama_cpp.process import FoundLlama, find_llama
from minimtp.bench.decode import passes
from minimtp.bench.decode.passes import ROWS, measure_passes, table
from minimtp.bench.decode.random_model import random_model
from minimtp.cli import main
from minimtp.errors import UserError
from minimtp.model.matrix import bits_per_weight
from minimtp.quant.packed_matrix import stored_arrays
from tests.kernels.both import needs_numba

pytestmark = needs_numba


def test_every_number_of_tokens_and_threads_is_measured_and_stored(run, tmp_path, capsys):
    out = tmp_path / "passes.json"
    arguments = ["--threads", "1", "3", "--cached", "5", "9", "--rounds", "2", "--out", str(out)]
    assert main(["bench", "passes", str(run), *arguments]) == 0
    result = json.loads(out.read_text())
    assert [(row["cached"], row["tokens"]) for row in result["rows"]] == [
        (cached, tokens) for cached in (5, 9) for tokens in ROWS
    ]
    assert result["threads"] == [1, 3]
    assert all(len(row["seconds"]) == 2 and min(row["seconds"]) > 0 for row in result["rows"])
    printed = capsys.readouterr().out
    assert table(result).splitlines()[0] in printed and "3 threads" in printed
    text = table(result, markdown=True)
    assert text.count("\n| ") == len(result["rows"]) + 1


def test_formats_of_the_cache_are_measured_beside_each_other(run, capsys):
    arguments = ["--threads", "1", "--cached", "5", "--rounds", "1"]
    assert main(["bench", "passes", str(run), *arguments, "--kv-cache", "float32", "float16"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if "float" in line]
    assert [row[1:3] for row in rows] == [
        [str(tokens), kind] for tokens in ROWS for kind in ("float32", "float16")
    ]


@pytest.mark.skipif(find_llama().python is None, reason=f"llama.cpp {find_llama().obstacle}")
def test_llama_cpp_is_measured_with_the_same_weights(run, capsys):
    arguments = ["--threads", "1", "--cached", "5", "--rounds", "1", "--llama-cpp"]
    assert main(["bench", "passes", str(run), *arguments, "--kv-cache", "float16", "int8"]) == 0
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    for kind in ("  float16  ", "  int8  ", "  float16, llama.cpp  "):
        assert sum(kind in line for line in lines) == len(ROWS)


def test_without_llama_cpp_a_sentence_says_how_to_get_it(run, monkeypatch):
    missing = FoundLlama(None, obstacle="is not installed: pip install llama-cpp-python")
    monkeypatch.setattr(passes, "find_llama", lambda: missing)
    with pytest.raises(UserError, match="llama.cpp is not installed: pip install"):
        measure_passes(run, cached=[4], rounds=1, llama_cpp=True, report=lambda line: None)


def test_a_share_compares_reading_the_weights_with_the_pass_on_one_thread(run):
    result = measure_passes(run, threads=[2], cached=[4], rounds=1, report=lambda line: None)
    for row in result["rows"]:
        assert row["reading_share"] * row["seconds"][0] == pytest.approx(result["read_seconds"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threads": [0]}, "threads must be a whole number from 1"),
        ({"cached": [10**6]}, "cached must be a whole number from 1 to"),
        ({"rounds": 0}, "rounds must be a whole number from 1"),
        ({"seed": -1}, "seed must be a whole number from 0"),
    ],
)
def test_what_cannot_be_measured_is_refused(run, tmp_path, options, message):
    out = tmp_path / "passes.json"
    with pytest.raises(UserError, match=message):
        measure_passes(run, out=out, **options)
    assert not out.exists()


CONFIG = {  # a Qwen3 of a few thousand weights
    "architectures": ["Qwen3ForCausalLM"], "vocab_size": 70, "hidden_size": 64, "head_dim": 32,
    "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 64,
}  # fmt: skip


@pytest.fixture
def sizes(tmp_path):
    """A folder with nothing but a config.json."""
    (tmp_path / "sizes").mkdir()
    (tmp_path / "sizes" / "config.json").write_text(json.dumps(CONFIG))
    return tmp_path / "sizes"


@pytest.mark.parametrize("name", [".", "config.json"])
def test_a_configuration_alone_is_enough_for_a_model_with_random_weights(sizes, name, capsys):
    arguments = ["--cached", "5", "--rounds", "1", "--threads", "1"]
    assert main(["bench", "passes", str(sizes / name), *arguments, "--random-weights", "q4_0"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if " ms" in line]
    assert [row[1] for row in rows] == [str(tokens) for tokens in ROWS]


def test_random_weights_depend_on_the_seed_alone_and_take_the_grids_bits(sizes):
    models = [random_model(sizes, "q4_0", seed) for seed in (3, 3, 4)]
    first, same, other = (stored_arrays(model) for model in models)
    assert all((first[name] == same[name]).all() for name in first)
    assert any((first[name] != other[name]).any() for name in first)
    config = models[0].config
    assert (config.hidden_size, config.head_dim, config.qk_norm) == (64, 32, True)
    block = models[0].trunk.blocks[0]
    assert bits_per_weight(block.feed_forward) == 4.5


def test_random_weights_of_what_has_no_configuration_are_refused(run, tmp_path):
    for path in (run, "smollm2", tmp_path / "missing"):
        with pytest.raises(UserError, match="has no config.json, which gives the sizes"):
            random_model(path, "q4_0", 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"random_weights": "q9_0"}, "q9_0"),
        ({"random_weights": "q4_0", "llama_cpp": True}, "give a model, not only its sizes"),
        ({}, "tokenizer.json does not exist"),
    ],
)
def test_sizes_that_cannot_be_measured_are_refused(sizes, options, message):
    with pytest.raises(UserError, match=message):
        measure_passes(sizes, cached=[4], rounds=1, report=lambda line: None, **options)
