"""Loaded models, decoders and settings can be copied, pickled and sent to other processes, and the
copy does the same as the original.
"""

import copy
import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

import minimtp
from minimtp.backend import numpy as np
from minimtp.decode.decoder import Decoder
from minimtp.decode.drafters.config import DraftConfig
from minimtp.engine.tensor import Tensor
from minimtp.errors import UserError
from minimtp.formats.gguf.writer import caveats
from minimtp.quant.grids import BLOCK_GRIDS, F16, grid_named
from minimtp.quant.packed_matrix import PackedLinear
from minimtp.quant.packing import quantize
from minimtp.quant.ptq.methods import round_to_nearest
from minimtp.quant.qat.spec import QuantizationSpec
from minimtp.training.tokenizers.tokenizer import open_tokenizer

GRIDS = [
    *BLOCK_GRIDS, "f16", "int2-affine-channel", "int4-restricted-g32-f32", "int8-full-mid-channel",
    "int3-ggml-signed-g16", "nf4-g64", "ternary-tensor-f32",
]  # fmt: skip
COPIES = {
    "pickle": lambda value: pickle.loads(pickle.dumps(value)),
    "oldest pickle": lambda value: pickle.loads(pickle.dumps(value, protocol=2)),
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
}
WORKER = """
import minimtp

def text_of(decoder):
    sampling = minimtp.SamplingParams(0.8)
    return list(decoder.generate("the fox", sampling=sampling, max_new_tokens=12, seed=5))
"""
each_copy = pytest.mark.parametrize("duplicate", COPIES.values(), ids=COPIES.keys())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("copies")
    folder.joinpath("text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 40)
    recipe = minimtp.Recipe(
        context_length=32, num_layers=1, hidden_size=32, num_heads=2, num_kv_heads=1,
        intermediate_size=32, tokens=64, batch_size=2, heads="token_conditioned", draft_depth=2,
        evaluation_tokens=0,
    )  # fmt: skip
    minimtp.train(recipe, [folder / "text.txt"], folder / "run", device="cpu", report=str)
    return minimtp.load(folder / "run")


@pytest.fixture(scope="module", params=["float", "packed", "f16"])
def loaded(run, request):
    if request.param == "float":
        minimtp.evaluate(run, tokens=32)  # fills what a model computes once and keeps
        return run
    grid = "q4_0" if request.param == "packed" else "f16"
    spec = QuantizationSpec(weights=grid, embedding=grid, heads=grid)
    return minimtp.LoadedModel(run.path, round_to_nearest(run.model, spec), run.tokenizer)


def text(loaded_or_decoder):
    decoder = loaded_or_decoder
    if not isinstance(decoder, Decoder):
        decoder = Decoder(decoder)
    sampling = minimtp.SamplingParams(0.8)
    return list(decoder.generate("the fox", sampling=sampling, max_new_tokens=12, seed=5))


@each_copy
def test_a_copied_model_generates_the_same_text_and_is_described_alike(loaded, duplicate):
    copied = duplicate(loaded)
    assert text(copied) == text(loaded)
    assert caveats(copied.model) == caveats(loaded.model)
    assert type(copied) is type(loaded) and copied.path == loaded.path


def test_a_deep_copy_of_a_model_shares_no_array_with_the_original(run):
    copied = copy.deepcopy(run)
    before = text(run)
    for parameter in copied.model.parameters():
        parameter.data[...] = 0
    assert text(run) == before


@each_copy
@pytest.mark.parametrize("draft", ["heads", "ngram", "none", "model"])
def test_a_copied_decoder_generates_the_same_text_and_the_two_are_independent(
    run, draft, duplicate
):
    length = "auto" if draft == "none" else 2
    decoder = Decoder(run, DraftConfig(run if draft == "model" else draft, length), 24)
    generation = decoder.generate("the fox", max_new_tokens=9)
    first = [token for _, token in zip(range(4), generation, strict=False)]
    copied = duplicate(decoder)
    assert text(copied) == text(decoder)
    assert copied.target.context_length == 24
    assert first + list(generation) == list(copied.generate("the fox", max_new_tokens=9))


@each_copy
def test_settings_are_equal_to_their_copies(duplicate):
    for settings in (
        minimtp.DraftConfig("ngram", 3, 0.5, 4, "token"),
        minimtp.SamplingParams(0.5, 3, 0.9),
        minimtp.Recipe(num_layers=2),
        minimtp.Start(resume=True),
        QuantizationSpec(),
    ):
        assert duplicate(settings) == settings


@each_copy
@pytest.mark.parametrize("name", GRIDS)
def test_a_copied_grid_is_the_grid_of_its_name(name, duplicate):
    grid = grid_named(name)
    copied = duplicate(grid)
    assert copied == grid and copied.name == name
    if name in BLOCK_GRIDS or grid is F16:
        assert copied is grid


@each_copy
@pytest.mark.parametrize("name", GRIDS)
def test_a_copied_packed_matrix_holds_the_same_bytes(name, duplicate):
    weight = np.random.default_rng(0).standard_normal((4, 256)).astype(np.float32)
    grid = grid_named(name)
    matrix = PackedLinear(grid, quantize(grid, weight))
    expected = matrix(Tensor(weight)).data
    copied = duplicate(matrix)
    assert copied.grid == grid and copied.packed.tobytes() == matrix.packed.tobytes()
    assert copied(Tensor(weight)).data.tobytes() == expected.tobytes()


def test_a_running_text_is_not_copied_and_the_error_says_what_to_copy(run):
    generation = Decoder(run).generate("the fox")
    next(generation)
    for duplicate in COPIES.values():
        with pytest.raises(TypeError, match="copy its list `tokens`"):
            duplicate(generation)


@each_copy
def test_a_copied_tokenizer_file_encodes_and_decodes_as_before(duplicate, tmp_path):
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    options = dict(vocab_size=300, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet)
    bpe.train_from_iterator(["the fox and the dog"] * 9, trainers.BpeTrainer(**options))
    bpe.save(str(tmp_path / "tokenizer.json"))
    tokenizer = open_tokenizer(tmp_path / "tokenizer.json")
    copied = duplicate(tokenizer)
    tokens = tokenizer.encode("the fox\u00eb \u732b")
    assert copied.encode("the fox\u00eb \u732b").tolist() == tokens.tolist()
    assert copied.decode(tokens) == "the fox\u00eb \u732b"
    assert copied.to_dict() == tokenizer.to_dict()


@each_copy
def test_an_error_is_copied_with_its_message(duplicate):
    assert str(duplicate(UserError("this is wrong"))) == "this is wrong"


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_other_processes_generate_the_same_text(run, method, tmp_path, monkeypatch):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system cannot {method}")
    tmp_path.joinpath("worker_of_copies.py").write_text(WORKER)
    monkeypatch.syspath_prepend(tmp_path)  # the processes get this path; they cannot import a test
    from worker_of_copies import text_of

    expected = text_of(Decoder(run))
    decoders = [Decoder(run), Decoder(run, None), copy.deepcopy(Decoder(run))]
    with ProcessPoolExecutor(2, multiprocessing.get_context(method)) as pool:
        assert list(pool.map(text_of, decoders)) == [expected] * 3
    assert text_of(decoders[0]) == expected
