"""A model of another family with the real shapes of its layers, through every step: Qwen3-0.6B with
6 of 28 layers, random weights and a vocabulary of bytes, 94 million parameters.

`pytest -n0 -s -m slow tests/formats/test_another_family.py` also prints the seconds and the peak
memory of each step.
"""

import time
from pathlib import Path

import pytest

import minimtp
from minimtp.backend import numpy as np
from minimtp.decode.decoder import Decoder
from minimtp.decode.drafters.config import DraftConfig
from minimtp.engine.tensor import no_grad
from minimtp.quant.packed_matrix import stored_arrays
from minimtp.training.build import build_model
from minimtp.training.recipe import Recipe
from minimtp.training.run.folder import LoadedRun
from minimtp.training.run.start import Start
from tests.formats.gguf.helpers import BYTES, needs_gguf

QWEN3 = Recipe(
    vocabulary_size=257, context_length=64, num_layers=6, hidden_size=1024, num_heads=16,
    num_kv_heads=8, head_dim=128, intermediate_size=3072, rope_theta=1e6, norm_eps=1e-6,
    qk_norm=True, tied_embeddings=True, batch_size=2, tokens=256, evaluation_tokens=0,
    learning_rate=1e-5,
)  # fmt: skip
TEXT = "".join(f"{i} times {j} is {i * j}.\n" for i in range(20) for j in range(10))


class Steps:
    """Prints how long each step took, and the peak memory of the process so far."""

    def __init__(self) -> None:
        self.began = time.perf_counter()

    def done(self, what: str) -> None:
        now = time.perf_counter()
        print(f"{what:28} {now - self.began:6.1f} s   peak {_peak() / 2**20:5.0f} MiB")
        self.began = time.perf_counter()


def _peak() -> int:
    """Return the largest memory of this process in bytes, 0 where the system does not say."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    return int(status.read_text().partition("VmHWM:")[2].split()[0]) * 1024


def logits(loaded: LoadedRun, tokens: np.ndarray) -> np.ndarray:
    with no_grad():
        return loaded.model.logits(loaded.model.hidden(tokens)).data


def text_of(loaded: LoadedRun, drafter: str | None) -> list[int]:
    draft = None if drafter is None else DraftConfig(drafter=drafter)
    return list(Decoder(loaded, draft).generate("12 times 11 is ", max_new_tokens=32))


@pytest.mark.slow
@needs_gguf
def test_a_model_with_the_real_layers_of_qwen3_takes_every_step(tmp_path):
    steps = Steps()
    model = build_model(QWEN3, np.random.default_rng(0))
    minimtp.export(LoadedRun(tmp_path, model, BYTES, QWEN3), tmp_path / "hf", dtype="bfloat16")
    del model
    steps.done("create and write a folder")
    loaded = minimtp.load(tmp_path / "hf")
    assert loaded.config.qk_norm and loaded.config.head_dim == 128
    steps.done("load the folder")

    (tmp_path / "text.txt").write_text(TEXT)
    packed = minimtp.quantize(
        loaded, tmp_path / "int4", method="gptq", calibration=[tmp_path / "text.txt"],
        embedding_grid="q5_1", context_length=64,
    )  # fmt: skip
    steps.done("round by gptq")
    plain = text_of(packed, None)
    assert text_of(packed, "ngram") == plain
    steps.done("decode, plain and drafting")

    minimtp.export(packed, tmp_path / "int4.gguf")
    again = minimtp.load(tmp_path / "int4.gguf")
    before, after = stored_arrays(packed.model), stored_arrays(again.model)
    assert {name: array.tobytes() for name, array in before.items()} == {
        name: array.tobytes() for name, array in after.items()
    }
    assert text_of(again, None) == plain
    steps.done("export to GGUF and load back")
    del packed, again, before, after

    minimtp.train(
        QWEN3, [tmp_path / "text.txt"], out=tmp_path / "trained",
        start=Start(start_from=loaded), stop_at_step=2, report=lambda line: None,
    )  # fmt: skip
    trained = minimtp.load(tmp_path / "trained")
    steps.done("train 2 steps")
    tokens = np.arange(40)[None]
    expected = logits(trained, tokens)
    assert not np.array_equal(expected, logits(loaded, tokens))
    minimtp.export(trained, tmp_path / "trained-hf", dtype="float32")
    found = logits(minimtp.load(tmp_path / "trained-hf"), tokens)
    assert np.array_equal(found, expected)
    steps.done("export to a folder and load")
