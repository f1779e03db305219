"""Texts that a model writes, stored part by part.

A part is written once: its file says which model, prompts and seed it belongs to, and is written
again if they have changed. Half of a text's value is its variety, so most are sampled, and texts
that run in a loop are left out (`is_repetitive`).
"""

import hashlib
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

from msgspec import Struct
from tqdm import tqdm

from minimtp.backend import numpy as np
from minimtp.backend import to_numpy
from minimtp.decode.batch import row_seed
from minimtp.decode.batched.texts import TextRequest, generate_texts
from minimtp.decode.sampling.params import GREEDY, SamplingParams
from minimtp.files import FileKind, set_aside, write_text
from minimtp.model.transformer import LanguageModel
from minimtp.quant.packed_matrix import stored_arrays
from minimtp.records import Count, read_cache
from minimtp.training.data.self_generated import is_repetitive
from minimtp.training.run.folder import LoadedRun

GREEDY_SHARE = 0.4
TEMPERATURES = 0.5, 1.0  # of the others, uniformly
STORED = FileKind("texts that a model wrote", begins=b'{"texts_of":')


@dataclass(frozen=True)
class WrittenText:
    """One text of a model: `prompt` and its `continuation`, token ids.

    ended: the last token is an end token, so the model had nothing more to say.
    """

    prompt: list[int]
    continuation: list[int]
    ended: bool

    @property
    def tokens(self) -> list[int]:
        return self.prompt + self.continuation


class StoredText(Struct):
    prompt: list[Count]
    continuation: list[Count]
    ended: bool


class StoredTexts(Struct):
    """A file of texts. texts_of: all that the texts depend on."""

    texts_of: dict
    texts: list[StoredText]


@dataclass(frozen=True)
class WrittenTexts:
    """The parts in a folder. report: receives a line about a damaged file."""

    folder: Path
    seed: int
    threads: int
    report: Callable[[str], None]

    def part(
        self,
        name: str,
        model: LoadedRun,
        prompts: Sequence[np.ndarray],
        max_new_tokens: int,
        sampling: SamplingParams | None = None,
    ) -> list[WrittenText]:
        """Return the model's continuations of the prompts, from the disk if they are there.

        sampling: None for a share of greedy texts, and various temperatures for the others.
        """
        seed = _number(f"{self.seed} {name}")
        rng = random.Random(seed)
        requests = [
            TextRequest(
                prompt.tolist(), max_new_tokens, sampling or _sampling(rng), row_seed(seed, row)
            )
            for row, prompt in enumerate(prompts)
        ]
        description = json.dumps([asdict(request) for request in requests])
        setting = {
            "part": name,
            "model": identity(model.model),
            "seed": self.seed,
            "requests": hashlib.sha256(description.encode()).hexdigest(),
        }
        path = self.folder / f"{name.replace(' ', '-')}.json"
        advice = "it is written again"
        stored = read_cache(path, StoredTexts, consequence=advice, report=self.report)
        if stored is not None and stored.texts_of == setting:
            return [WrittenText(t.prompt, t.continuation, t.ended) for t in stored.texts]
        set_aside(path, STORED, silent=True)
        written = self._write(name, model, requests)
        content = {"texts_of": setting, "texts": [asdict(text) for text in written]}
        write_text(path, json.dumps(content), STORED)
        return written

    def _write(
        self, name: str, model: LoadedRun, requests: Sequence[TextRequest]
    ) -> list[WrittenText]:
        total = sum(request.max_new_tokens for request in requests)
        with tqdm(total=total, unit="tok", unit_scale=True, desc=name, disable=None) as bar:
            found = generate_texts(model, requests, threads=self.threads, advance=bar.update)
        return [
            WrittenText(list(request.prompt), text.tokens, text.ended)
            for request, text in zip(requests, found, strict=True)
        ]


@lru_cache(maxsize=4)
def identity(model: LanguageModel) -> str:
    """Return the sha256 over the names and the values of a model's weights."""
    digest = hashlib.sha256()
    for name, array in sorted(stored_arrays(model).items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(to_numpy(array)))
    return digest.hexdigest()


def without_loops(texts: Sequence[WrittenText]) -> list[WrittenText]:
    """Return the texts that do not run in a loop."""
    return [text for text in texts if not is_repetitive(text.continuation)]


def joined(texts: Sequence[WrittenText]) -> np.ndarray:
    """Return the tokens of all texts, one after another, (N,) int64."""
    return np.array([token for text in texts for token in text.tokens], np.int64)


def _sampling(rng: random.Random) -> SamplingParams:
    if rng.random() < GREEDY_SHARE:
        return GREEDY
    return SamplingParams(round(rng.uniform(*TEMPERATURES), 2))


def _number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
