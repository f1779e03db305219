"""Hidden states of a model that does not change, computed once for each window of the text.

A teacher, or a trunk whose heads alone are trained, gives the same states for the same window in
every epoch. They are all that training needs of it: the logits are states times output, and the
heads read the states. So they are stored, after the final norm, as float16: 2 D bytes per token, or
2 (1 + F) D for heads that read F layers of the trunk.

    window   ->  stored?  ->  read             file in the run folder, deleted when the run ends
                 no       ->  model, float16   and stored, if there is room

**Rounding.** States are rounded to float16 whether they are stored or not, and each window is
computed alone. So they depend on model and window only, and a run does not depend on how much of
them is stored, or on where it was interrupted. The rounding moves the distributions of SmolLM2-135M
by 5e-7 nats on average, and by 9e-6 at most (Kullback-Leibler divergence, 4,096 positions).

**Room.** Only what fits is stored: at most what the caller allows (MAX_BYTES by default), and at
most half of the free disk. If no window is used twice, nothing is stored.

**The file** belongs to one model, text and precision: they are named in its header, by their
checksums. Damaged windows are found by theirs, and computed again (files/sealed_blocks.py).
"""

import hashlib
import shutil
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

from minimtp import kernels
from minimtp.backend import MAX_FLOAT16, Array, array_module, to_numpy
from minimtp.backend import numpy as np
from minimtp.decode.model_runner import ModelRunner, are_exact
from minimtp.engine.tensor import no_grad
from minimtp.errors import UserError
from minimtp.files import FileKind, kind_at
from minimtp.files.sealed_blocks import SealedBlocks
from minimtp.kernels.plain.quantize import GROUP
from minimtp.model.transformer import LanguageModel
from minimtp.quant.packed_matrix import stored_arrays
from minimtp.quant.qat.convert import convert
from minimtp.quant.qat.modules import FakeQuantizedMatrix
from minimtp.quoting import shown_path
from minimtp.training.data.corpus import Corpus
from minimtp.training.recipe import Recipe

STATES = FileKind("a file of states", begins=b"minimtp states 1\n")
MAX_BYTES = 32 << 30

Compute = Callable[[Array], np.ndarray]  # tokens (1, T) -> states (T, W), float16 on the host


class StoredStates:
    """The states of one model on the windows of a run.

    compute: tokens (1, T) -> states (T, W), float16. size: (T, W). blocks: the file, or None if
    nothing is stored. stored: how many windows have a place in it, those with the lowest numbers.
    report: called with a line if storing fails.
    """

    def __init__(
        self,
        compute: Compute,
        size: tuple[int, int],
        blocks: SealedBlocks | None,
        stored: int,
        report: Callable[[str], None],
    ) -> None:
        self.compute, self.size, self.stored = compute, size, stored
        self._blocks, self._report, self._is_full = blocks, report, False

    def of(self, windows: np.ndarray, tokens: Array) -> Array:
        """Return the states (B, T, W), float32, on the device of the tokens.

        windows: (B,), their numbers. tokens: (B, T). Several threads may call this. If two of them
        need a window that is not stored yet, as in a batch that ends one epoch and begins the next,
        both compute it.
        """
        found = np.empty((len(windows), *self.size), np.float16)
        for row, window in enumerate(windows.tolist()):
            blocks = self._blocks if window < self.stored else None
            data = None if blocks is None else blocks.read(window)
            if data is not None:
                found[row] = np.frombuffer(data, np.float16).reshape(self.size)
                continue
            found[row] = self.compute(tokens[row : row + 1])
            if blocks is not None and not self._is_full:
                self._write(window, found[row].tobytes())
        return array_module(tokens).asarray(found).astype("float32")

    @property
    def max_bytes(self) -> int:
        """The bytes of the file, once every window that has a place in it is stored."""
        return 2 * self.stored * self.size[0] * self.size[1]

    def close(self, delete: bool = False) -> None:
        """Close the file. delete: the run is finished, so the file is of no more use."""
        if self._blocks is not None:
            (self._blocks.delete if delete else self._blocks.close)()

    def _write(self, window: int, data: bytes) -> None:
        """Store a window. If that fails, say so once, and store no more."""
        try:
            self._blocks.write(window, data)
        except UserError as error:
            if not self._is_full:
                self._is_full = True
                self._report(f"{error}; the run goes on, and computes the other states again")


def forward_of(model: LanguageModel) -> Compute:
    """Return a function of one window, tokens (1, T) -> the model's states (T, W), float16 on the
    host, which several threads may call.

    A trunk that is trained through its rounding, and frozen, runs in its packed form, with the
    kernels of decoding if they compute the same. They need half of the time.
    """
    forward = partial(_training_forward, model)
    trunk = model.trunk
    if any(isinstance(module, FakeQuantizedMatrix) for _, module in trunk.named_modules()):
        kernel = kernels.for_array(trunk.final_norm.weight.data)
        packed = convert(trunk)
        is_float = packed.blocks[0].attention.cache == "float"  # else the last bit moves codes
        if kernel is not kernels.plain and is_float and are_exact(kernel, packed):
            # Nobody needs the logits: this is the smallest output that the kernels compute.
            packed.output = packed.output_matrix.select(np.arange(GROUP))
            forward = _DecodingForward(ModelRunner(packed, layers=model.layers))

    def rounded(tokens: Array) -> np.ndarray:
        return forward(tokens).clip(-MAX_FLOAT16, MAX_FLOAT16).astype(np.float16)

    return rounded


def _training_forward(model: LanguageModel, tokens: Array) -> np.ndarray:
    """tokens (1, T) -> states (T, W) on the host."""
    with no_grad():
        return to_numpy(model.trunk_states(tokens).data)[0]


class _DecodingForward(threading.local):
    """The same with the kernels of decoding. Each thread has its own cache."""

    def __init__(self, runner: ModelRunner) -> None:
        self.runner = runner.clone()

    def __call__(self, tokens: Array) -> np.ndarray:
        runner, row = self.runner, tokens[0]
        runner.truncate(0)
        starts = range(0, len(row), runner.max_rows)
        parts = [runner.forward(row[i : i + runner.max_rows]).hidden for i in starts]
        return to_numpy(array_module(row).concatenate(parts))


def open_states(
    whose: str,
    model: LanguageModel,
    recipe: Recipe,
    corpus: Corpus,
    folder: Path | None,
    like: Array,
    report: Callable[[str], None],
    max_bytes: int | None = None,
) -> StoredStates:
    """Return the states of a model for a run of `recipe` on `corpus`.

    whose: "teacher" or "trunk". folder: the run folder, or None to store nothing. like: an array of
    the device. report: called with a line on what is stored, and where. max_bytes: of the file;
    None means MAX_BYTES. Raises UserError if the file cannot be made.
    """
    length, width = recipe.tokens_per_sequence, (1 + len(model.layers)) * model.config.hidden_size
    compute = forward_of(model)
    windows = len(corpus.train) // length
    window_bytes = 2 * length * width
    path = None if folder is None else folder / f"{whose}-states.bin"
    allowed = MAX_BYTES if max_bytes is None else max_bytes
    room = 0 if path is None else min(allowed, _free_bytes(path) // 2)
    stored = min(windows, room // window_bytes)
    why = "there is no room for them" if path else "several processes share the run"
    if recipe.steps * recipe.batch_size <= windows:
        stored, why = 0, "no window is used twice"
    if not stored:
        report(f"states    the {whose}'s are computed in every step: {why}")
        return StoredStates(compute, (length, width), None, 0, report)
    label = _label(model, compute, corpus, length, like)
    blocks = SealedBlocks(path, STATES, label, window_bytes, report)
    report(
        f"states    the {whose}'s are stored: {stored:,} of {windows:,} windows, up to "
        f"{stored * window_bytes / 1e9:.3g} GB in {shown_path(path)} until the run is finished"
    )
    return StoredStates(compute, (length, width), blocks, stored, report)


def _free_bytes(path: Path) -> int:
    """Return the free bytes of the disk, those of the file at `path` included."""
    used = path.stat().st_size if kind_at(path) == "file" else 0
    return shutil.disk_usage(path.parent).free + used


def _label(model: LanguageModel, compute: Compute, corpus: Corpus, length: int, like: Array) -> str:
    """Return checksums of all that the states depend on: weights, text, and how it is computed."""
    weights = hashlib.sha256()
    for name, array in stored_arrays(model.trunk).items():
        weights.update(name.encode())
        weights.update(np.ascontiguousarray(to_numpy(array)))
    text = hashlib.sha256(np.ascontiguousarray(corpus.train))
    window = array_module(like).asarray(corpus.train[None, :length].astype(np.int64))
    sample = hashlib.sha256(compute(window))
    parts = {"weights": weights, "text": text, "states": sample}
    digests = [f"{name} {digest.hexdigest()[:32]}" for name, digest in parts.items()]
    return f"{' '.join(digests)} length {length}"
