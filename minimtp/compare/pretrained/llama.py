"""llama.cpp as one more configuration: it runs the int4 weights of `mtp_qat_int4`, without heads.

It runs in a process of its own and decodes through our loop, so its speed includes about 0.05 ms a
token for the exchange with that process (bench/baselines/llama_cpp/process.py).
"""

from contextlib import ExitStack
from functools import partial
from pathlib import Path

from minimtp.backend import numpy as np
from minimtp.bench.baselines.llama_cpp.process import LlamaProcess, find_llama
from minimtp.bench.baselines.llama_cpp.quality import evaluate_llama
from minimtp.bench.interleaved import Variant
from minimtp.compare.pretrained.configurations import LLAMA
from minimtp.compare.pretrained.quality import Quality, by_measure
from minimtp.compare.pretrained.schema import QualityPart
from minimtp.compare.pretrained.sizes import Sizes
from minimtp.compare.result_cache import Figures
from minimtp.extras import find
from minimtp.formats.export import export
from minimtp.training.data.corpus import Corpus
from minimtp.training.run.folder import LoadedRun

FILE_NAME = "mtp_qat_int4.gguf"


class Llama:
    """llama.cpp with the exported file, for use in a `with` block.

    obstacle: why llama.cpp does not take part, or None.
    """

    def __init__(self, packed: LoadedRun, out: Path, sizes: Sizes) -> None:
        self.obstacle = obstacle()
        self._packed, self._path, self._sizes = packed, out / FILE_NAME, sizes
        self._open = ExitStack()

    def __enter__(self) -> "Llama":
        if self.obstacle is None:
            export(self._packed, self._path)
        return self

    def __exit__(self, *exception: object) -> None:
        self._open.close()

    def variant(self, context: int) -> Variant | None:
        """Return llama.cpp as a way to decode with one thread. context: tokens in its cache."""
        if self.obstacle is not None:
            return None
        context = min(context, self._packed.config.context_length)
        return Variant(LLAMA, self._open.enter_context(LlamaProcess(self._path, context=context)))

    def quality(self, ours: Quality) -> Figures:
        """Return the results that `Quality.of` returns for our own configurations."""

        def measure(corpus: Corpus) -> Figures:
            windows = corpus.validation_windows(
                self._sizes.evaluation_tokens, sequence_length=ours.window
            ).astype(np.int64)  # (W, T + 1)
            with LlamaProcess(self._path, threads=ours.threads, context=ours.window) as process:
                found = evaluate_llama(process, windows, ours.remembered)
            return {
                "nats": float(found.nats.mean(dtype=np.float64)),
                "kl": float(found.divergence.mean(dtype=np.float64)),
                "agreement": float(found.agrees.mean()),
            }

        return by_measure(
            {
                kind: ours.get_part(
                    f"quality of {LLAMA} on {kind}", partial(measure, corpus), QualityPart
                )
                for kind, corpus in ours.texts.quality.items()
            }
        )

    def memory(self, prompt: np.ndarray, new_tokens: int) -> int:
        """Return the memory that loading the file and decoding one text added to the process."""
        context = min(len(prompt) + new_tokens, self._packed.config.context_length)
        with LlamaProcess(self._path, context=context) as process:
            process.greedy(prompt, new_tokens)
            memory = process.memory()
        return self._path.stat().st_size if memory is None else memory.peak - memory.before

    @property
    def weight_bytes(self) -> int:
        """The size of the file, with the tokenizer."""
        return self._path.stat().st_size


def obstacle() -> str | None:
    """Return why llama.cpp cannot take part, None if it can."""
    found = find_llama()
    if found.python is None:
        return f"llama.cpp {found.obstacle}"
    module, problem = find("gguf")
    return None if module is not None else f"the package gguf {problem}"


def version() -> str | None:
    """Return the version of llama.cpp that takes part, None if there is none."""
    return find_llama().version if obstacle() is None else None
