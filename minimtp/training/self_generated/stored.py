"""The folder of self-generated text: a setting, and parts that are written one by one.

    self-generated.json   the setting: all that the text depends on
    part-00000.json ...   the texts, as tokens, and how many were dropped

**A part is whole or missing.** It is written when all of its texts are complete, to a temporary
file that is then renamed (files/). A checksum over its content detects damage. A part is a function
of the setting, of the parts before it, and of its size. So a command that was interrupted goes on
with the first part that is missing, and the result is that of a command that was never interrupted.
If a part is damaged later, its size follows from where the part after it begins. If that one is
damaged, too, both may be written again with other sizes, and so are those after them.
"""

import hashlib
import os
import re
import zlib
from collections.abc import Mapping
from pathlib import Path

import msgspec
from msgspec import Struct, field

from minimtp.backend import numpy as np
from minimtp.errors import UserError
from minimtp.files import FileKind, check_file, kind_at, write_text
from minimtp.model.tokenizer import Tokenizer, vocabulary_digest
from minimtp.quoting import shown_path
from minimtp.records import Count, NonNegative, Positive, read_json

VERSION = 3  # 1: the texts were written with a float32 KV cache. 2: loops went on to the end
FILE_NAME = "self-generated.json"
SETTING = FileKind("the setting of self-generated text", begins=b'{"self_generated_text":')
PART = FileKind("a part of self-generated text", begins=b'{"part_of_self_generated_text":')
REWRITE = (
    "repeat the command that wrote this folder, minimtp selfgen or train --self-generated, which "
    "writes it again"
)
OTHER = "choose another --out"
PART_NAME = re.compile(r"part-([0-9]{5}|[1-9][0-9]{5,8})\.json")  # as `part_path` makes it
OWN = ".minimtp-"  # begins the names of the lock and of temporary files
HELD_OUT = 16  # one text in 16 is held out
DIFFERENCES = {  # keys of the setting, in words
    "model": "model",
    "vocabulary": "tokenizer",
    "grid": "--grid",
    "seed": "--seed",
    "mixture": "--mix",
    "sources": "text for the prompts",
    "lengths": "length of the texts",
    "temperature": "temperature",
    "held_out": "side of the text for the prompts",
    "self_generated_text": "version of minimtp",
}


class Setting(Struct, forbid_unknown_fields=True):
    """All that the texts depend on.

    self_generated_text: the version of the form. model: a hash of the weights. vocabulary: the
    digest of the tokenizer. grid: the number format in which the model wrote. sources: a hash of
    the texts that prompts are taken from. temperature: of all texts, None for various ones.
    held_out: whether the prompts are held out from training.
    """

    self_generated_text: Positive
    model: str
    vocabulary: str
    grid: str
    seed: Count
    mixture: dict[str, NonNegative]
    sources: str
    lengths: dict[str, Count | list[Count]]
    temperature: NonNegative | None = None
    held_out: bool = False

    @property
    def digest(self) -> str:
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()


class StoredText(Struct):
    """One text. tokens: all that come after the prompt. ended: the last one is an end token.
    first_answer: how many tokens the first of two answers has. second_answer: where the second one
    begins.
    """

    kind: str
    prompt: list[Count]
    tokens: list[Count]
    ended: bool
    first_answer: Count | None = None
    second_answer: Count | None = None

    @property
    def answers(self) -> list[list[int]]:
        """The tokens that the model generated."""
        if self.first_answer is None or self.second_answer is None:
            return [self.tokens]
        return [self.tokens[: self.first_answer], self.tokens[self.second_answer :]]

    @property
    def new_tokens(self) -> int:
        return sum(map(len, self.answers))


class Tally(Struct):
    """How many texts of a kind were generated, and their new tokens: all, those that are kept, and
    those that were dropped.
    """

    texts: Count = 0
    kept_texts: Count = 0
    new_tokens: Count = 0
    kept: Count = 0
    loops: Count = 0
    duplicates: Count = 0

    def add(self, text: StoredText, is_loop: bool, is_duplicate: bool) -> None:
        new = text.new_tokens
        self.texts += 1
        self.new_tokens += new
        if is_loop:
            self.loops += new
        elif is_duplicate:
            self.duplicates += new
        else:
            self.kept_texts += 1
            self.kept += new

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(*(getattr(self, f) + getattr(other, f) for f in self.__struct_fields__))


class Part(Struct):
    """A part. part_of_self_generated_text: the digest of the setting. checksum: CRC-32 of what
    follows. first: the number of the first request of each kind, if it is not 0.
    """

    part_of_self_generated_text: str
    number: Count
    checksum: Count
    kinds: dict[str, Tally] = field(default_factory=dict)
    texts: list[StoredText] = field(default_factory=list)
    first: dict[str, Count] = field(default_factory=dict)  # empty in older files

    def content_checksum(self) -> int:
        content = [self.kinds, self.texts, *([self.first] if self.first else [])]
        return zlib.crc32(msgspec.json.encode(content))


class SelfGenerated:
    """The parts of a folder, in their order."""

    def __init__(self, parts: list[Part]) -> None:
        self.parts = parts

    @property
    def texts(self) -> list[StoredText]:
        return [text for part in self.parts for text in part.texts]

    @property
    def kinds(self) -> dict[str, Tally]:
        """The numbers of each kind, over all parts."""
        found: dict[str, Tally] = {}
        for part in self.parts:
            for kind, tally in part.kinds.items():
                found[kind] = found.get(kind, Tally()) + tally
        return found

    @property
    def kept(self) -> int:
        """The new tokens that are kept."""
        return sum(tally.kept for part in self.parts for tally in part.kinds.values())

    def sides(self, kind: str | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return the tokens to train on and those that are held out, with their prompts, one text
        after another, (N,) int64 each. kind: only texts of this kind.
        """
        sides: tuple[list[int], list[int]] = ([], [])
        for number, text in enumerate(self.texts):
            if kind in (None, text.kind):
                sides[number % HELD_OUT == HELD_OUT - 1].extend(text.prompt + text.tokens)
        return np.array(sides[0], np.int64), np.array(sides[1], np.int64)

    def describe(self) -> str:
        """Return a line for people."""
        kinds = ", ".join(f"{tally.kept:,} {kind}" for kind, tally in self.kinds.items())
        return f"tokens that a model generated: {self.kept:,} ({kinds}), and their prompts"


def next_requests(before: SelfGenerated) -> dict[str, int]:
    """Return the number of the next request of each kind, if it is not 0."""
    return {kind: tally.texts for kind, tally in before.kinds.items() if tally.texts}


def is_self_generated(path: str | Path) -> bool:
    """Return whether `path` is a folder of self-generated text."""
    return kind_at(path) == "folder" and kind_at(Path(path, FILE_NAME)) == "file"


def read_texts(folder: Path, tokenizer: Tokenizer) -> SelfGenerated:
    """Return the texts of a folder.

    Raises UserError if they have the tokens of another tokenizer, if a part is damaged or missing,
    or if there is none.
    """
    setting = read_setting(folder)
    if setting.vocabulary != vocabulary_digest(tokenizer):
        raise UserError(
            f"{shown_path(folder)} holds tokens of another tokenizer than this model's: "
            "let this model generate its own text with minimtp selfgen"
        )
    found, last = SelfGenerated([]), last_number(folder)
    while len(found.parts) <= last:
        number = len(found.parts)
        part = read_part(folder, setting, number, tokenizer.vocabulary_size)
        if part.first and part.first != next_requests(found):
            path = shown_path(part_path(folder, number))
            raise UserError(f"{path} does not continue the part before it: {REWRITE}")
        found.parts.append(part)
    if not found.parts:
        raise UserError(
            f"{shown_path(folder)} holds no text yet: repeat the command that writes it"
        )
    return found


def read_setting(folder: Path) -> Setting:
    """Return the setting of a folder. Raises UserError if it is damaged."""
    return read_json(
        folder / FILE_NAME, Setting, advice="delete the folder and generate the text again"
    )


def open_folder(folder: Path, setting: Setting) -> None:
    """Write the setting into the folder, unless it is there.

    Raises UserError if the folder has another setting, holds anything else, or cannot be written.
    """
    path = folder / FILE_NAME
    if not check_file(path, SETTING):
        if folder.is_dir() and not all(name.startswith(OWN) for name in os.listdir(folder)):
            raise UserError(
                f"{shown_path(folder)} holds other files: {OTHER}, or give an empty folder"
            )
        write_text(path, msgspec.json.encode(setting).decode(), SETTING)
        return
    stored = read_setting(folder)
    different = [words for key, words in DIFFERENCES.items()
                 if getattr(stored, key) != getattr(setting, key)]  # fmt: skip
    if different:
        raise UserError(
            f"{shown_path(folder)} holds text that was generated with another "
            f"{' and another '.join(different)}: {OTHER}"
        )


def part_path(folder: Path, number: int) -> Path:
    return folder / f"part-{number:05}.json"


def read_part(
    folder: Path, setting: Setting, number: int, vocabulary_size: int, advice: str = REWRITE
) -> Part:
    """Return a part. Raises UserError, which ends with the advice, if it is damaged or missing."""
    path = part_path(folder, number)
    part = read_json(path, Part, advice=advice, max_bytes=2**28)
    fault = ""
    if part.part_of_self_generated_text != setting.digest or part.number != number:
        fault = "does not belong to this folder"
    elif part.checksum != part.content_checksum():
        fault = "is damaged: its checksum is wrong"
    elif any(max(t.prompt + t.tokens, default=0) >= vocabulary_size for t in part.texts):
        fault = "has tokens that the tokenizer does not know"
    elif _kept(part.texts) != {kind: t.kept for kind, t in part.kinds.items() if t.kept}:
        fault = "does not hold the texts that it counts"
    if fault:
        raise UserError(f"{shown_path(path)} {fault}: {advice}")
    return part


def _kept(texts: list[StoredText]) -> dict[str, int]:
    """Return the new tokens of the texts of each kind."""
    kept: dict[str, int] = {}
    for text in texts:
        if text.new_tokens:
            kept[text.kind] = kept.get(text.kind, 0) + text.new_tokens
    return kept


def write_part(
    folder: Path,
    setting: Setting,
    number: int,
    kinds: Mapping[str, Tally],
    texts: list[StoredText],
    first: Mapping[str, int],
) -> Part:
    """Write a part and return it. Raises UserError if it cannot be written."""
    part = Part(setting.digest, number, 0, dict(kinds), texts, dict(first))
    part.checksum = part.content_checksum()
    write_text(part_path(folder, number), msgspec.json.encode(part).decode(), PART)
    return part


def last_number(folder: Path) -> int:
    """Return the number of the last part, -1 if there is none."""
    return max(_numbers(folder), default=-1)


def check_parts(folder: Path, setting: Setting, vocabulary_size: int) -> None:
    """Raise UserError if a part cannot be written where it belongs, because something else is
    there, or if the last part follows missing ones without belonging to the folder.

    Missing parts are generated up to the last one, however high its number is.
    """
    numbers = _numbers(folder)
    for number in numbers:
        check_file(part_path(folder, number), PART)
    if numbers and max(numbers) >= len(numbers):
        advice = "move it away, because parts before it are missing"
        read_part(folder, setting, max(numbers), vocabulary_size, advice)


def _numbers(folder: Path) -> list[int]:
    """Return the numbers of the files that have the name of a part."""
    names = os.listdir(folder)
    return [int(name[5:-5]) for name in names if PART_NAME.fullmatch(name)]
