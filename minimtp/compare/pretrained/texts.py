"""The texts of a comparison on a pretrained model: code, prose and conversations.

Code is the standard library, prose its documentation (training/data/texts.py). Conversations do not
come with Python, so the model writes them itself, in its own chat template, as `minimtp selfgen`
does (training/self_generated/). Text that the model writes is also what draft heads learn best
from: conversations, functions that it was asked to change, and continuations of code and prose.

Held-out parts are held out from all training: other files, other topics, messages about other
subjects. The held-out conversations are written by the reference model, and not by the model that
writes the rest. That one may be rounded, to be fast, and a text favours the model that wrote it.

Everything is a function of the models, the seed and the sizes. What a model wrote is stored in the
folders `texts/own` and `texts/held-out`, part by part, so an interrupted comparison continues at
the next part.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from minimtp.backend import numpy as np
from minimtp.decode.sampling.params import SamplingParams
from minimtp.model.loaded import LoadedModel
from minimtp.model.tokenizer import Tokenizer
from minimtp.records import notice
from minimtp.training.data import texts as named_texts
from minimtp.training.data.corpus import Corpus, TokenCorpus
from minimtp.training.run.folder import LoadedRun
from minimtp.training.self_generated.generate import write_self_generated
from minimtp.training.self_generated.mixture import DEFAULT, normalized
from minimtp.training.self_generated.requests import NAMES, Lengths, Requests, Tokens

FOLDER = "texts"
KINDS = ("code", "prose", "chat", "edit")  # of prompts
CONVERSATION = SamplingParams(0.8)  # of held-out conversations
PIECE = 1024  # tokens of a corpus in a mixture, before the next piece
Report = Callable[[str], None]


@dataclass(frozen=True)
class TextSizes:
    """How much text there is, in new tokens.

    own: what a model writes for training. held_out: what the reference writes for evaluation.
    prompts: their number, per kind, to measure the speed of decoding.
    """

    own: int = 250_000
    held_out: int = 16_000
    prompts: int = 7
    lengths: Lengths = Lengths()


TINY_SIZES = TextSizes(800, 240, 2, Lengths((4, 12), (20, 250), 24, 24))  # for tests


@dataclass(frozen=True)
class Texts:
    """All texts of a comparison.

    code, prose, chat: corpora of one kind each; quality is measured on their held-out parts.
    training: all three in equal parts, for calibration, and for training the trunk.
    own: what the model wrote, for training its heads.
    prompts: {kind: token ids}, for code, prose, chat and edit, from the held-out parts.
    """

    code: Corpus
    prose: Corpus
    chat: Corpus
    training: Corpus
    own: Corpus
    prompts: dict[str, list[Tokens]]

    @property
    def quality(self) -> dict[str, Corpus]:
        """The corpora on whose held-out parts quality is measured."""
        return {"code": self.code, "prose": self.prose, "chat": self.chat}


def open_texts(
    reference: LoadedRun,
    writer_model: LoadedModel,
    out: str | Path,
    sizes: TextSizes = TextSizes(),  # noqa: B008  (frozen)
    seed: int = 0,
    threads: int = 1,
    report: Report = notice,
) -> Texts:
    """Return the texts of the comparison in the folder `out`. Writes what is not yet there.

    reference: the model in full precision, which writes the held-out conversations. writer_model:
    writes the rest, usually the same model in int8. Both have the same tokenizer.
    report: receives a line about what is unusual.

    Raises UserError if the standard library is too small, the chat template cannot be used, or the
    folder cannot be written or holds the texts of other models.
    """
    tokenizer, context = reference.tokenizer, reference.config.context_length
    if tokenizer.chat_template is None:
        report(
            "the model has no chat template: its conversations are continuations of "
            "User: ... Assistant:"
        )
    folder, options = Path(out, FOLDER), {"threads": threads, "report": report}
    own = write_self_generated(
        writer_model,
        Requests(tokenizer, context, seed, sizes.lengths),
        normalized(DEFAULT),
        folder / "own",
        sizes.own,
        **options,
    ).texts
    held_out_requests = Requests(
        tokenizer, context, seed, sizes.lengths, held_out=True, sampling=CONVERSATION
    )
    held_out = write_self_generated(
        reference,
        held_out_requests,
        normalized({"chat": 1}),
        folder / "held-out",
        sizes.held_out,
        **options,
    ).texts
    code, prose = (_corpus(kind, tokenizer) for kind in ("code", "prose"))
    chat = TokenCorpus(
        "conversations that the model wrote",
        np.concatenate(own.sides("chat")),
        np.concatenate(held_out.sides()),
        tokenizer,
        own.kinds["chat"].kept_texts + len(held_out.texts),
        "by subject",
    )
    return Texts(
        code,
        prose,
        chat,
        _mixture({"code": code, "prose": prose, "chat": chat}),
        TokenCorpus(
            "text that the model wrote", *own.sides(), tokenizer, len(own.texts),
            notes=[own.describe()],
        ),
        {kind: held_out_requests.prompts(kind, sizes.prompts) for kind in KINDS},
    )  # fmt: skip


def _corpus(kind: str, tokenizer: Tokenizer) -> Corpus:
    name = NAMES[kind]
    return Corpus(name, named_texts.NAMED_SOURCES[name](), tokenizer, [name])


def _mixture(corpora: dict[str, Corpus]) -> Corpus:
    """Return a corpus with equally many tokens of each."""
    parts = []
    for side in ("train", "validation"):
        arrays = [getattr(corpus, side) for corpus in corpora.values()]
        length = min(map(len, arrays))
        parts.append(np.concatenate([_evenly(array, length) for array in arrays]))
    tokenizer = next(iter(corpora.values())).tokenizer
    documents = sum(corpus.files for corpus in corpora.values())
    return TokenCorpus(" + ".join(corpora), *parts, tokenizer, documents, "as in its parts")


def _evenly(array: np.ndarray, length: int) -> np.ndarray:
    """Return about `length` numbers of the array: pieces of equal length, evenly spread."""
    pieces = max(1, length // PIECE)
    size = length // pieces
    starts = [len(array) * piece // pieces for piece in range(pieces)]
    return np.concatenate([array[start : start + size] for start in starts])
