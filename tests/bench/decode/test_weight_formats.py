"""The same model in several weight formats, and the baselines it is measured next to."""

import importlib.util
import itertools

from minimtp.bench.baselines.llama_cpp.process import FoundLlama, find_llama
from minimtp.bench.decode import weight_formats as formats
from minimtp.errors import UserError
from minimtp.formats.load import load
from minimtp.training.quantize import quantize
from minimtp.training.tokenizers.byte_tokenizer import ByteTokenizer

BYTES = ByteTokenizer()
HAS_TORCH = importlib.util.find_spec("torch") is not None
HAS_LLAMA = find_llama().python is not None


def test_every_format_is_measured_next_to_the_baselines_that_are_installed(measured):
    found = measured[1]["formats"]
    names = ["fp32", "fp32 + heads", "int8", "int8 + heads", "int4", "int4 + heads"]
    names += ["PyTorch fp32"] * HAS_TORCH
    names += ["llama.cpp fp32", "llama.cpp int8", "llama.cpp int4"] * HAS_LLAMA
    cases = {(row["name"], row["temperature"]) for row in found["rows"]}
    assert cases == set(itertools.product(names, [0.0, 0.7, 1.0]))
    sizes = {row["name"]: row["weight_bytes"] for row in found["rows"]}
    assert sizes["fp32"] == sizes["fp32 + heads"] > sizes["int8"] > sizes["int4"]
    missing = set() if HAS_LLAMA else {"llama.cpp"}
    missing |= set() if HAS_TORCH else {"PyTorch"}
    assert set(found["missing"]) == missing
    versions = measured[1]["versions"]
    llama_is_here = importlib.util.find_spec("llama_cpp") is not None
    assert ("torch" in versions, "llama_cpp" in versions) == (HAS_TORCH, llama_is_here)


def test_a_missing_baseline_is_reported_with_the_reason(run, monkeypatch):
    monkeypatch.setattr(formats, "find_spec", lambda name: None)
    assert "not installed" in formats.in_torch(load(run), "cpu")[1]["PyTorch"]
    monkeypatch.setattr(formats, "find_llama", lambda: FoundLlama(None, obstacle="is absent"))
    assert formats.in_llama({}, BYTES, "cpu", 64)[1]["llama.cpp"] == "is absent"
    assert "CPU only" in formats.in_llama({}, BYTES, "cuda", 64)[1]["llama.cpp"]


def test_on_a_gpu_the_other_formats_are_compared_with_half_precision(run):
    assert [*formats.models(load(run), "cuda")] == ["fp16", "fp32", "int8", "int4"]


def test_a_baseline_that_cannot_decode_the_model_is_missing_with_the_reason(run, monkeypatch):
    def cannot(model, tokenizer, context):
        raise UserError("this grid is not a ggml type")

    monkeypatch.setattr(formats, "find_llama", lambda: FoundLlama("python"))
    monkeypatch.setattr(formats, "decoder_of", cannot)
    found, missing = formats.in_llama(formats.models(load(run), "cpu"), BYTES, "cpu", 64)
    assert found == []
    assert missing["llama.cpp"] == "cannot be measured: this grid is not a ggml type"


def test_a_packed_model_is_measured_as_it_is(run, tmp_path):
    packed = quantize(load(run), tmp_path / "packed")
    ((name, model),) = formats.models(packed, "cpu").items()
    form = formats.deployed(name, model)
    assert [*formats.variants([form])] == ["packed", "packed + heads"]
    assert 4 < form.bits < 9 and form.bytes_per_pass < form.bytes
    assert "full precision only" in formats.in_torch(packed, "cpu")[1]["PyTorch"]
