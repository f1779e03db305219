"""The baseline llama.cpp works with several versions of its Python package.

These tests do not need the package. tests/formats compares the logits of llama.cpp with ours.
"""

from types import SimpleNamespace

import pytest

from minimtp.bench.baselines.llama_cpp.session import Functions

NEWEST = {
    "load_model": "llama_model_load_from_file",
    "free_model": "llama_model_free",
    "context_length": "llama_model_n_ctx_train",
    "create_context": "llama_init_from_model",
    "vocabulary_of": "llama_model_get_vocab",
    "vocabulary_size": "llama_vocab_n_tokens",
    "memory_of": "llama_get_memory",
    "remove_rows": "llama_memory_seq_rm",
}
OLDEST = {
    "load_model": "llama_load_model_from_file",
    "free_model": "llama_free_model",
    "context_length": "llama_n_ctx_train",
    "create_context": "llama_new_context_with_model",
    "vocabulary_size": "llama_n_vocab",
    "remove_rows": "llama_kv_cache_seq_rm",
}


def library(*names):
    """A stand-in for llama_cpp with these functions. Each returns its name."""
    return SimpleNamespace(**{name: lambda name=name: name for name in names})


@pytest.mark.parametrize("names", [NEWEST, OLDEST], ids=["newest", "oldest"])
def test_each_function_is_found_by_its_name_in_this_version(names):
    functions = Functions(library(*names.values()))
    assert {ours: getattr(functions, ours)() for ours in names} == names


def test_if_a_version_has_both_names_the_newer_function_is_used():
    functions = Functions(library(*OLDEST.values(), *NEWEST.values()))
    assert {ours: getattr(functions, ours)() for ours in NEWEST} == NEWEST


def test_before_vocabulary_and_memory_existed_the_model_and_the_context_take_their_place():
    functions = Functions(library(*OLDEST.values()))
    assert functions.vocabulary_of("model") == "model"
    assert functions.memory_of("context") == "context"


def test_if_a_function_has_no_known_name_the_error_lists_the_names_tried():
    names = set(NEWEST.values()) - {"llama_model_free"}
    with pytest.raises(ImportError, match="none of llama_model_free, llama_free_model"):
        Functions(library(*names))
