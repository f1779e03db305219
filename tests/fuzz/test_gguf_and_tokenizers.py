"""Damaged GGUF files and tokenizer files are refused in a sentence, or load as a usable model.

pytest -n0 -m slow tests/fuzz/test_gguf_and_tokenizers.py
"""

import importlib.util
import json
import random
import struct

import pytest

from minimtp.backend import numpy as np
from minimtp.decode.drafters.deploy import deploy
from minimtp.errors import UserError
from minimtp.formats.gguf.container import Value
from minimtp.formats.gguf.writer import write_gguf
from minimtp.formats.load import load
from minimtp.model.tokenizer import PROBES
from minimtp.quant.ptq.methods import round_to_nearest
from minimtp.quant.qat.spec import QuantizationSpec
from minimtp.training.build import build_model
from minimtp.training.presets import preset
from minimtp.training.tokenizers.byte_tokenizer import ByteTokenizer
from minimtp.training.tokenizers.content import TokenizerSettings
from minimtp.training.tokenizers.file_tokenizer import FileTokenizer
from minimtp.training.tokenizers.tokenizer import open_tokenizer
from tests.formats.gguf.raw import Tensor, contents, file_bytes
from tests.fuzz.mutate import damaged_bytes, damaged_json, json_bytes, must_be_refused_or_right
from tests.training.tokenizers.test_pieces import pieces_content
from tests.training.tokenizers.test_text_survives import content

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("tokenizers") is None, reason="needs the extra interop"
    ),
]
MUTANTS = 500  # of each kind
FILES = ["bytes", "bpe", "pieces"]
SECONDS, MEGABYTES = 10.0, 64.0
SCALAR_TYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64")
ODD_NUMBERS = (
    0,
    1,
    2,
    3,
    7,
    127,
    2**15 - 1,
    2**31 - 1,
    2**32 - 1,
    2**63 - 1,
    2**64 - 1,
    -1,
    -(2**63),
)
ODD_FLOATS = (0.0, -1.0, 1e-45, 1e38, float("nan"), float("inf"), float("-inf"), 0.5)
ODD_TEXTS = ("", "\0", "llama", "gpt2", "qwen2", "\u732b" * 50, b"\xff\xfe", "x" * 4000, "none")


def odd_value(rng):
    """Return a metadata value that a hostile program might write."""
    kind = rng.randrange(8)
    if kind == 0:
        return Value(*rng.choice([("bool", True), ("string", rng.choice(ODD_TEXTS))]))
    if kind == 1:
        return Value(rng.choice(("float32", "float64")), np.float32(rng.choice(ODD_FLOATS)))
    if kind == 2:
        return Value(
            "array of string", [rng.choice(ODD_TEXTS) for _ in range(rng.choice((0, 1, 300)))]
        )
    if kind == 3:
        return Value("array of float32", [rng.choice(ODD_FLOATS)] * rng.choice((0, 1, 257, 5000)))
    if kind == 4:  # an array that claims more than there is
        element = rng.choice((0, 4, 6, 8, 9, 10, 13, 2**32 - 1))
        count = rng.choice((1, 2**20, 2**32, 2**63, 2**64 - 1))
        return Value("raw", struct.pack("<IIQ", 9, element, count) + rng.randbytes(20))
    if kind == 5:  # arrays in arrays
        depth = rng.choice((1, 3, 4, 5, 60_000))
        return Value("raw", struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * depth)
    if kind == 6:
        return Value("raw", struct.pack("<I", rng.choice((8, 11, 13, 99))) + rng.randbytes(12))
    kind = rng.choice(SCALAR_TYPES)
    bits, signed = int(kind.lstrip("uint")), kind[0] == "i"
    number = rng.choice(ODD_NUMBERS) % 2**bits
    return Value(kind, number - 2**bits if signed and number >= 2 ** (bits - 1) else number)


def damaged_file(metadata, tensors, rng):
    """Return the bytes of a file in which one or two things are wrong."""
    metadata, tensors = dict(metadata), dict(tensors)
    for _ in range(rng.choice((1, 1, 2))):
        kind, key, name = rng.randrange(9), rng.choice(list(metadata)), rng.choice(list(tensors))
        if kind < 4:
            metadata[key] = odd_value(rng)
        elif kind == 4:
            del metadata[key]
        elif kind == 5:
            metadata[rng.choice(("unknown", "", "a" * 5000, "llama.", key + "x"))] = odd_value(rng)
        elif kind == 6:
            del tensors[name]
        else:
            tensors[name] = damaged_tensor(tensors[name], rng)
        if not metadata or not tensors:
            break
    return file_bytes(metadata, tensors)


def damaged_tensor(tensor, rng):
    kind, shape, offset, data = tensor.kind, list(tensor.shape), None, tensor.content
    change = rng.randrange(5)
    if change == 0:
        kind = rng.choice((0, 1, 2, 3, 4, 5, 8, 12, 13, 14, 27, 30, 31, 99, 2**32 - 1))
    elif change == 1:
        shape[rng.randrange(len(shape))] = rng.choice((0, 1, 3, 31, 2**31, 2**40, 2**63, 2**64 - 1))
    elif change == 2:
        shape = rng.choice(([], [1], shape * 2, shape * 3, [*shape, 1], shape[::-1]))
    elif change == 3:
        offset = rng.choice((0, 1, 32, 2**31, 2**63, 2**64 - 32))
    else:
        data = rng.choice((b"\xff" * len(data), bytes(len(data)), data[: len(data) // 2]))
    return Tensor(kind, shape, data, offset)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The paths of small GGUF files: bytes in full precision, BPE in blocks."""
    folder = tmp_path_factory.mktemp("fuzz")
    rng = np.random.default_rng(0)
    model = build_model(preset("tiny"), rng)
    write_gguf(folder / "bytes.gguf", model, ByteTokenizer(), "bytes")
    tokenizer = FileTokenizer(json.dumps(content()))
    model = build_model(preset("tiny", vocabulary_size=tokenizer.vocabulary_size), rng)
    packed = round_to_nearest(model, QuantizationSpec("q4_0", "q8_0"))
    write_gguf(folder / "bpe.gguf", packed, tokenizer, "bpe")
    spelt = FileTokenizer(json.dumps(pieces_content()), TokenizerSettings(begin_tokens=(1,)))
    model = build_model(preset("tiny", vocabulary_size=spelt.vocabulary_size), rng)
    write_gguf(folder / "pieces.gguf", model, spelt, "pieces")
    paths = [folder / f"{name}.gguf" for name in FILES]
    assert all(is_usable(load(path)) for path in paths)  # what is imported or compiled once
    return paths


def is_usable(loaded):
    """Return whether the model computes, and text survives its tokenizer or is refused."""
    if loaded.config.context_length > 4096 or loaded.config.vocabulary_size > 4096:
        return True  # a long context needs memory only when it decodes
    logits = deploy(loaded.model, 8)[0].forward(np.arange(3)).logits
    return logits.shape == (3, loaded.config.vocabulary_size) and survives(loaded.tokenizer)


def survives(tokenizer):
    for text in (*PROBES, b"\xff\xfe", "<|endoftext|>"):
        try:
            tokens = tokenizer.encode(text)
        except UserError:
            continue
        raw = text if isinstance(text, bytes) else text.encode()
        if tokenizer.decode_bytes(tokens) != raw:
            return False
        if tokenizer.encode(text).tolist() != tokens.tolist():
            return False
    return True


@pytest.mark.parametrize("which", range(len(FILES)), ids=FILES)
@pytest.mark.parametrize("kind", ["structure", "bytes"])
def test_a_damaged_gguf_file_is_refused_or_usable(files, tmp_path, which, kind):
    rng = random.Random(f"gguf {which} {kind}")
    whole, path = files[which], tmp_path / "mutant.gguf"
    data, parts = whole.read_bytes(), contents(whole)
    refused = 0
    for _ in range(MUTANTS):
        mutant = damaged_file(*parts, rng) if kind == "structure" else damaged_bytes(data, rng)
        path.write_bytes(mutant)
        refused += must_be_refused_or_right(
            lambda: load(path), is_usable, names=path, seconds=SECONDS, megabytes=MEGABYTES
        )
    assert refused > MUTANTS / 10


@pytest.mark.parametrize("spelling", ["byte level", "pieces"])
@pytest.mark.parametrize("kind", ["values", "bytes"])
def test_a_damaged_tokenizer_file_is_refused_or_text_survives_it(tmp_path, kind, spelling):
    rng, path = random.Random(f"tokenizer {kind} {spelling}"), tmp_path / "tokenizer.json"
    value, refused = content() if spelling == "byte level" else pieces_content(), 0
    data = json.dumps(value).encode()
    for _ in range(MUTANTS):
        value_mutant = json_bytes(damaged_json(value, rng)) if kind == "values" else None
        path.write_bytes(value_mutant or damaged_bytes(data, rng))
        refused += must_be_refused_or_right(
            lambda: open_tokenizer(path), survives, names=path, seconds=SECONDS, megabytes=MEGABYTES
        )
    assert refused > MUTANTS / 10
