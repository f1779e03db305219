"""The texts of a comparison on a pretrained model: code, prose and conversations.

Code is the standard library, prose its documentation (training/data/texts.py). Conversations do not
come with Python, so the model writes them itself, in its own chat template: it answers a few
hundred first messages (prompts.py), and some answers get a second message. Text that the model
writes is also what draft heads learn best from: conversations, functions that it was asked to
change, and continuations of code and prose.

Held-out parts are held out from all training: other files, other topics, messages about other
subjects. The held-out conversations are written by the reference model, and not by the model that
writes the rest. That one may be rounded, to be fast, and a text favours the model that wrote it.

Everything is a function of the models, the seed and the sizes. What a model wrote is stored in the
folder `texts`, one file per part, so an interrupted comparison continues at the next part.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from minimtp.backend import numpy as np
from minimtp.compare.pretrained.prompts import (
    beginnings,
    edit_messages,
    first_messages,
    functions_in,
    second_messages,
)
from minimtp.compare.pretrained.written import WrittenText, WrittenTexts, joined, without_loops
from minimtp.decode.batch import row_seed
from minimtp.decode.sampling.params import SamplingParams
from minimtp.formats.chat import chat_tokens
from minimtp.model.tokenizer import Tokenizer, prompt_tokens
from minimtp.records import notice
from minimtp.training.data import texts as named_texts
from minimtp.training.data.corpus import Corpus, split
from minimtp.training.data.token_corpus import TokenCorpus
from minimtp.training.run.folder import LoadedRun

FOLDER = "texts"
NAMES = {"code": "stdlib", "prose": "pydoc"}  # of the texts that every Python has
OWN_VALIDATION = 16  # one in so many of the model's own texts is held out from its heads
CONVERSATION = SamplingParams(0.8)  # of held-out conversations
SECOND_SHARE = 0.75  # of the conversations whose first answer has ended
PREFIX_CHARACTERS = 2048  # of text, from which a prompt takes its first tokens
PIECE = 1024  # tokens of a corpus in a mixture, before the next piece
Tokens = np.ndarray  # (N,) int64
Report = Callable[[str], None]
Conversation = list[dict[str, str]]


@dataclass(frozen=True)
class TextSizes:
    """How much text there is. By default a model writes about 250,000 tokens for training.

    conversations, edits, code, prose: the number of texts that the model writes for training.
    held_out_conversations: the number that the reference writes for evaluation.
    answer_tokens, continuation_tokens: the maximum length of what it writes.
    prompts, tuning_prompts: per kind, to measure the speed of decoding, and to choose settings.
    prompt_tokens: of code and prose, from .. to. function_tokens: of a function to edit.
    """

    conversations: int = 500
    edits: int = 200
    code: int = 300
    prose: int = 140
    held_out_conversations: int = 64
    answer_tokens: int = 256
    continuation_tokens: int = 192
    prompts: int = 7
    tuning_prompts: int = 3
    prompt_tokens: tuple[int, int] = (32, 96)
    function_tokens: tuple[int, int] = (80, 250)


TINY_SIZES = TextSizes(8, 4, 4, 4, 4, 24, 24, 2, 1, (4, 12), (20, 250))  # for tests


@dataclass(frozen=True)
class Texts:
    """All texts of a comparison.

    code, prose, chat: corpora of one kind each; quality is measured on their held-out parts.
    training: all three in equal parts, for calibration, and for training the trunk.
    own: what the model wrote, for training its heads.
    prompts, tuning_prompts: {kind: token ids}, for code, prose, chat
    and edit. The former are from the held-out parts.
    """

    code: Corpus
    prose: Corpus
    chat: Corpus
    training: Corpus
    own: Corpus
    prompts: dict[str, list[Tokens]]
    tuning_prompts: dict[str, list[Tokens]]

    @property
    def quality(self) -> dict[str, Corpus]:
        """The corpora on whose held-out parts quality is measured."""
        return {"code": self.code, "prose": self.prose, "chat": self.chat}


def open_texts(
    reference: LoadedRun,
    writer_model: LoadedRun,
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
    folder cannot be written.
    """
    if reference.tokenizer.chat_template is None:
        report(
            "the model has no chat template: its conversations are continuations of "
            "User: ... Assistant:"
        )
    written = WrittenTexts(Path(out, FOLDER), seed, threads, report)
    return _Maker(reference, writer_model, written, sizes, seed).texts()


def _corpus(kind: str, documents: Sequence[tuple[str, bytes]], tokenizer: Tokenizer) -> Corpus:
    return Corpus(NAMES[kind], documents, tokenizer, [NAMES[kind]])


@dataclass(frozen=True)
class _Maker:
    """Makes the texts of one comparison."""

    reference: LoadedRun
    writer: LoadedRun
    written: WrittenTexts
    sizes: TextSizes
    seed: int

    @property
    def tokenizer(self) -> Tokenizer:
        return self.reference.tokenizer

    @cached_property
    def documents(self) -> dict[str, list[tuple[str, bytes]]]:
        """Code and prose: (name, content) of all documents."""
        return {kind: named_texts.NAMED_SOURCES[name]() for kind, name in NAMES.items()}

    @cached_property
    def sources(self) -> dict[str, tuple[list[bytes], list[bytes]]]:
        """Code and prose: the training documents, and the held-out ones."""
        return {kind: split(documents)[1:] for kind, documents in self.documents.items()}

    def texts(self) -> Texts:
        code, prose = (_corpus(kind, self.documents[kind], self.tokenizer) for kind in NAMES)
        own = self.own_texts()
        held_out = self.conversations(self.reference, "held-out conversations", held_out=True)
        chat = TokenCorpus(
            "conversations that the model wrote", joined(own["chat"]), joined(held_out),
            self.tokenizer, len(own["chat"]) + len(held_out), "by subject",
        )  # fmt: skip
        return Texts(
            code,
            prose,
            chat,
            _mixture({"code": code, "prose": prose, "chat": chat}),
            _own_corpus(own, self.tokenizer),
            self.prompts(self.sizes.prompts, held_out=True),
            self.prompts(self.sizes.tuning_prompts, held_out=False),
        )

    def own_texts(self) -> dict[str, list[WrittenText]]:
        """Let the writer write its texts of every kind."""
        sizes, writer = self.sizes, self.writer
        found = {"chat": self.conversations(writer, "conversations", held_out=False)}
        given = {
            "edit": (self.edit_prompts(sizes.edits, False, 1, per_file=3), sizes.answer_tokens),
            "code": (self.beginnings("code", sizes.code, False, 1), sizes.continuation_tokens),
            "prose": (self.beginnings("prose", sizes.prose, False, 1), sizes.continuation_tokens),
        }
        for kind, (prompts, length) in given.items():
            found[kind] = without_loops(self.written.part(kind, writer, prompts, length))
        return found

    def conversations(self, model: LoadedRun, part: str, held_out: bool) -> list[WrittenText]:
        """Let the model answer first messages, and a second message after some of the answers."""
        sizes = self.sizes
        count = sizes.held_out_conversations if held_out else sizes.conversations
        sampling = CONVERSATION if held_out else None
        begun = [_message(text) for text in first_messages(count, self.seed, held_out)]
        answers = self.written.part(
            part, model, self.chat_prompts(begun), sizes.answer_tokens, sampling
        )
        rng, following, finished = random.Random(f"{self.seed} {part}"), [], []
        for messages, answer in zip(begun, answers, strict=True):
            text = self.tokenizer.decode(answer.continuation).strip() if answer.ended else ""
            if text and rng.random() < SECOND_SHARE:
                following.append([*messages, {"role": "assistant", "content": text}])
            else:
                finished.append(answer)
        seconds = second_messages(len(following), self.seed)
        following = [
            messages + _message(text) for messages, text in zip(following, seconds, strict=True)
        ]
        continued = self.written.part(
            f"{part} continued", model, self.chat_prompts(following), sizes.answer_tokens, sampling
        )
        return without_loops(finished + continued)

    def chat_prompts(self, conversations: Sequence[Conversation]) -> list[Tokens]:
        found = conversation_tokens(self.tokenizer, conversations)
        return [tokens[-self._max_prompt :] for tokens in found]

    def edit_prompts(self, count: int, held_out: bool, salt: int, per_file: int) -> list[Tokens]:
        """Return requests to change functions, the same for a salt."""
        (low, high), seed, functions = self.sizes.function_tokens, row_seed(self.seed, salt), []
        for function in functions_in(self.sources["code"][held_out], seed, per_file):
            if len(functions) == count:
                break
            if low <= len(self.tokenizer.encode(function)) <= high:
                functions.append(function)
        return self.chat_prompts([_message(text) for text in edit_messages(functions, seed)])

    def beginnings(self, kind: str, count: int, held_out: bool, salt: int) -> list[Tokens]:
        """Return the first tokens of functions, classes and comments, or of paragraphs."""
        rng = random.Random(f"{self.seed} {kind} {salt}")
        sources = self.sources[kind][held_out]
        found = []
        for source in rng.choices(sources, list(map(len, sources)), k=count):
            text = source.decode("utf-8", "replace")
            position = rng.choice(beginnings(text, kind) or [0])
            length = min(rng.randint(*self.sizes.prompt_tokens), self._max_prompt)
            text = text[position : position + PREFIX_CHARACTERS]
            found.append(prompt_tokens(self.tokenizer, text)[:length])
        return found

    def prompts(self, count: int, held_out: bool) -> dict[str, list[Tokens]]:
        """Return `count` prompts of every kind."""
        messages = first_messages(count, row_seed(self.seed, 2), held_out)
        return {
            "code": self.beginnings("code", count, held_out, 0),
            "prose": self.beginnings("prose", count, held_out, 0),
            "chat": self.chat_prompts([_message(text) for text in messages]),
            "edit": self.edit_prompts(count, held_out, 0, per_file=1),
        }

    @property
    def _max_prompt(self) -> int:
        """The tokens of a prompt. Only models with a very short context need the limit."""
        return max(1, self.reference.config.context_length // 2)


def conversation_tokens(
    tokenizer: Tokenizer, conversations: Sequence[Conversation]
) -> list[Tokens]:
    """Return the tokens of conversations, up to where the model's answer begins, (N,) int64 each.

    Without a chat template, a conversation is a text of paragraphs that begin with User: and
    Assistant:.

    Raises UserError if the template cannot be used.
    """
    if tokenizer.chat_template is not None:
        return chat_tokens(tokenizer, conversations) if conversations else []
    found = []
    for messages in conversations:
        paragraphs = [f"{m['role'].title()}: {m['content']}\n\n" for m in messages]
        found.append(prompt_tokens(tokenizer, "".join(paragraphs) + "Assistant:"))
    return found


def _message(text: str) -> Conversation:
    return [{"role": "user", "content": text}]


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


def _own_corpus(own: dict[str, list[WrittenText]], tokenizer: Tokenizer) -> Corpus:
    """Return all texts of the model as one corpus."""
    training, validation = [], []
    for texts in own.values():
        for number, text in enumerate(texts):
            (validation if number % OWN_VALIDATION == 0 else training).append(text)
    new = {kind: sum(len(text.continuation) for text in texts) for kind, texts in own.items()}
    note = "new tokens: " + ", ".join(f"{count:,} {kind}" for kind, count in new.items())
    return TokenCorpus(
        "text that the model wrote", joined(training), joined(validation), tokenizer,
        len(training) + len(validation), notes=[note],
    )  # fmt: skip
