"""Let a model generate its text, part by part, until there are enough tokens.

A part has about `lengths.part` new tokens, in the shares of the mixture. How many texts of a kind
that takes is estimated from the parts before: from how long its texts became, and how many were
dropped. What one part has too little or too much, the next one corrects.
"""

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from pathlib import Path

from tqdm import tqdm

from minimtp.arguments import THREADS, whole
from minimtp.backend import numpy as np
from minimtp.backend import to_numpy
from minimtp.decode.batched.request import GeneratedText, TextRequest
from minimtp.decode.batched.texts import TextGenerator
from minimtp.errors import UserError
from minimtp.files import OneWriter, kind_at
from minimtp.model.loaded import LoadedModel
from minimtp.model.tokenizer import vocabulary_digest
from minimtp.model.transformer import LanguageModel
from minimtp.quant.packed_matrix import stored_arrays
from minimtp.quant.ptq.methods import quantize_after_training
from minimtp.quant.qat.spec import QuantizationSpec
from minimtp.quoting import shown_path
from minimtp.records import MAX_INT, notice
from minimtp.training.self_generated.filters import Filter
from minimtp.training.self_generated.mixture import Mixture
from minimtp.training.self_generated.requests import Requests
from minimtp.training.self_generated.stored import (
    VERSION,
    Part,
    SelfGenerated,
    Setting,
    StoredText,
    Tally,
    check_parts,
    last_number,
    next_requests,
    open_folder,
    part_path,
    read_part,
    write_part,
)

EXPECTED = 0.6  # of the tokens that a text can get, before anything is known
MIN_EXPECTED = 0.1  # if nearly all texts are dropped, a part is not made ten times larger
MARGIN = 1.03  # of the last part, which seldom ends with exactly as many tokens as expected
WRITTEN_AGAIN = "it is generated again"
SEED = whole(0, MAX_INT)


@dataclass(frozen=True)
class Generated:
    """What a command has done.

    texts: all of the folder. tokens, seconds: new tokens that this command generated, dropped ones
    included, and the time it took.
    """

    texts: SelfGenerated
    tokens: int
    seconds: float


def write_self_generated(
    model: LoadedModel,
    requests: Requests,
    mixture: Mixture,
    out: str | Path,
    tokens: int,
    *,
    grid: str = "as loaded",
    threads: int = 1,
    begin: Callable[[], object] = lambda: None,
    report: Callable[[str], None] = notice,
) -> Generated:
    """Generate at least `tokens` new tokens into the folder `out`, or what is missing there.

    model: it writes the text, in the number format `grid`. begin: called when all arguments are
    checked. report: receives a line about each damaged part.

    The same model, requests, mixture and tokens give the same files, with any number of threads,
    and however often the command is interrupted.

    Raises UserError if the folder belongs to other text or cannot be written, and KeyboardInterrupt
    with a message if the user stops it.
    """
    if tokens < 1:
        raise UserError(f"tokens must be at least 1, not {tokens}")
    THREADS("threads", threads)
    SEED("seed", requests.seed)
    setting = _setting(model, requests, mixture, grid)
    with OneWriter(out) as writer:
        work = _Work(model, requests, mixture, Path(out), setting, threads, report)
        if kind_at(out) == "folder":
            open_folder(Path(out), setting)
        else:
            work.requests_of({kind: 1 for kind in mixture}, {})  # an error comes before the folder
        writer.begin()
        open_folder(Path(out), setting)
        begin()
        return work.finish(tokens)


def packed_copy(model: LoadedModel, grid: str) -> LoadedModel:
    """Return the model without its heads, with weights rounded to the grid. In q8_0, it writes as
    the float model does, only faster.

    Raises UserError if the grid is unknown, or if the model's matrices do not fit it.
    """
    trunk = quantize_after_training(model.model.trunk, QuantizationSpec(weights=grid))
    return LoadedModel(model.path, trunk, model.tokenizer)


@lru_cache(maxsize=4)
def model_digest(model: LanguageModel) -> str:
    """Return the sha256 over the names and the values of a model's weights."""
    digest = hashlib.sha256()
    for name, array in sorted(stored_arrays(model).items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(to_numpy(array)))
    return digest.hexdigest()


def _setting(model: LoadedModel, requests: Requests, mixture: Mixture, grid: str) -> Setting:
    lengths = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in asdict(requests.lengths).items()
    }
    return Setting(
        self_generated_text=VERSION,
        model=model_digest(model.model),
        vocabulary=vocabulary_digest(model.tokenizer),
        grid=grid,
        seed=requests.seed,
        mixture=dict(mixture),
        sources=requests.sources_digest([*mixture]),
        lengths=lengths,
        temperature=None if requests.sampling is None else requests.sampling.temperature,
        held_out=requests.held_out,
    )


class _Work:
    """The generation of one folder."""

    def __init__(
        self,
        model: LoadedModel,
        requests: Requests,
        mixture: Mixture,
        folder: Path,
        setting: Setting,
        threads: int,
        report: Callable[[str], None],
    ) -> None:
        self.model, self.requests, self.mixture = model, requests, mixture
        self.folder, self.setting, self.threads, self.report = folder, setting, threads, report
        self.generated = 0

    @property
    def size(self) -> int:
        """The number of tokens that the model knows."""
        return self.model.tokenizer.vocabulary_size

    @cached_property
    def generator(self) -> TextGenerator:
        """The model, prepared once for all parts. Most of the time is spent on reading the caches
        of the texts, so on the CPU they are in float16.
        """
        return TextGenerator(self.model, "float16")

    def finish(self, tokens: int) -> Generated:
        """Generate the parts that are missing for this many tokens."""
        found, texts = SelfGenerated([]), Filter()
        began = time.perf_counter()
        with (
            self._saved_if_stopped(found),
            tqdm(total=tokens, unit="tok", unit_scale=True, desc="selfgen", disable=None) as bar,
        ):
            check_parts(self.folder, self.setting, self.size)
            last = last_number(self.folder)
            while found.kept < tokens or len(found.parts) <= last:
                part = self._stored(found)
                if part is None:
                    part = self._generate(found, texts, tokens, bar)
                else:
                    texts.add(part.texts)
                found.parts.append(part)
                bar.n = min(found.kept, tokens)
                bar.refresh()
        return Generated(found, self.generated, time.perf_counter() - began)

    @contextmanager
    def _saved_if_stopped(self, found: SelfGenerated) -> Iterator[None]:
        try:
            yield
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"stopped: {found.kept:,} tokens are in {shown_path(self.folder)}; "
                "run the same command again to go on"
            ) from None

    def requests_of(
        self, counts: dict[str, int], first: dict[str, int]
    ) -> list[tuple[str, TextRequest]]:
        """Return `counts` requests of every kind, from the `first` number on: long ones first,
        because the last texts of a part run in passes that are not full.
        """
        found = [
            (kind, request)
            for kind, count in counts.items()
            if count
            for request in self.requests.of(kind, first.get(kind, 0), count)
        ]
        return sorted(found, key=lambda item: -item[1].longest)

    def _stored(self, before: SelfGenerated) -> Part | None:
        """Return the next part if it is there, whole, and follows on those before."""
        number = len(before.parts)
        part = self._read(number, self.report)
        if part is None or not part.first or part.first == next_requests(before):
            return part
        path = shown_path(part_path(self.folder, number))
        self.report(f"{path} does not continue the part before it: {WRITTEN_AGAIN}")
        return None

    def _read(self, number: int, report: Callable[[str], None]) -> Part | None:
        """Return a part if it is there and whole. Report damage."""
        if kind_at(part_path(self.folder, number)) == "nothing":
            return None
        try:
            return read_part(self.folder, self.setting, number, self.size, WRITTEN_AGAIN)
        except UserError as damage:
            report(str(damage))
            return None

    def _generate(self, found: SelfGenerated, texts: Filter, tokens: int, bar: tqdm) -> Part:
        """Generate the next part and write it."""
        first = next_requests(found)
        counts = self._counts_before_the_next(found, first) or self._plan(found.kinds, tokens)
        requests = self.requests_of(counts, first)
        new = self.generator.generate(
            [request for _, request in requests], self.threads, bar.update
        )
        written = [
            _text(kind, request, text) for (kind, request), text in zip(requests, new, strict=True)
        ]
        self.generated += sum(text.new_tokens for text in written)
        kept, tallies = texts.part(written)
        return write_part(self.folder, self.setting, len(found.parts), tallies, kept, first)

    def _counts_before_the_next(
        self, found: SelfGenerated, first: dict[str, int]
    ) -> dict[str, int] | None:
        """Return how many texts of each kind the next part had, if the part after it is there: that
        one begins where the next one ended. None if this is not known.
        """
        after = self._read(len(found.parts) + 1, lambda damage: None)
        if after is None or not after.first:
            return None
        counts = {kind: after.first.get(kind, 0) - first.get(kind, 0) for kind in self.mixture}
        return counts if min(counts.values()) >= 0 and max(counts.values()) > 0 else None

    def _plan(self, kinds: dict[str, Tally], tokens: int) -> dict[str, int]:
        """Return how many texts of each kind the next part gets."""
        kept = sum(tally.kept for tally in kinds.values())
        size = float(self.requests.lengths.part)
        if kept < tokens:
            size = min(size, MARGIN * (tokens - kept))
        wanted = {
            kind: max(0.0, share * (kept + size) - kinds.get(kind, Tally()).kept)
            for kind, share in self.mixture.items()
        }
        scale = size / sum(wanted.values())
        return {
            kind: -int(-scale * number // self._expected(kind, kinds.get(kind, Tally())))
            for kind, number in wanted.items()
        }

    def _expected(self, kind: str, tally: Tally) -> float:
        """Return the kept tokens of a text of this kind."""
        most = self.requests.max_new_tokens(kind)
        if not tally.texts:
            return EXPECTED * most
        return max(tally.kept / tally.texts, MIN_EXPECTED * most)


def _text(kind: str, request: TextRequest, text: GeneratedText) -> StoredText:
    second = None
    if text.first_answer is not None:
        second = text.first_answer + len(request.follow_up) - 1
    return StoredText(
        kind, list(request.prompt), text.tokens, text.ended, text.first_answer, second
    )
