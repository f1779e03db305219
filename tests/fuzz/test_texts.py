"""Random texts in random encodings, folders and names: the same tokens, or a true sentence.

Every test draws from fixed seeds, so it tries the same inputs each time.
"""

import os
import random
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from minimtp.cli import make_parser
from minimtp.cli.options.dashes import LOOKS_LIKE_AN_OPTION
from minimtp.errors import UserError
from minimtp.quoting import command, shown_path
from minimtp.training.data.corpus import open_corpus
from minimtp.training.data.encoding import (
    MARKS,
    NotText,
    checked_encoding,
    decode_document,
    normalized,
)
from minimtp.training.data.folders import files_and_folders
from minimtp.training.data.walk import OWN_NAMES
from tests.fuzz.mutate import check_sentence, damaged_bytes

pytestmark = pytest.mark.slow

TEXTS, DAMAGED, TREES, NAMES, LINES = 6000, 2000, 150, 2000, 2000
SCRIPTS = {  # words, and the encodings that can spell them
    "чудесный мороз ещё дремлешь красавица Пора": "cp1251 koi8-r cp866 mac-cyrillic",
    "天地玄黄 宇宙洪荒 日月盈昃 。 ，": "gbk gb2312 gb18030 hz",
    "いろは ちりぬる わかよ カタカナ 漢字 。": "shift_jis euc-jp iso-2022-jp cp932",
    "다람쥐 헌 쳇바퀴에": "euc-kr cp949",
    "l'aube où blanchit français été": "cp1252 iso-8859-15 mac-roman cp850",
    "the quick brown fox": "ascii latin-1 cp437 cp037",
}
WIDE = "utf-8 utf-8-sig utf-16 utf-16-le utf-16-be utf-32 utf-32-le utf-32-be utf-7".split()


def random_text(rng: random.Random, words: list[str]) -> str:
    separators = [" ", " ", " ", "\n", "\r\n", "\r", "\t", "\f", "\n\n"]
    count = rng.choice((1, 2, 5, 30, 300))
    text = "".join(rng.choice(words) + rng.choice(separators) for _ in range(count))
    return (
        rng.choice(["", "\ufeff"]) * (rng.random() < 0.2)
        + text
        + "\0" * rng.choice((0, 0, 0, 1, 9))
    )


def test_a_text_gives_the_same_tokens_in_every_encoding():
    rng = random.Random(17)
    for _ in range(TEXTS):
        script, names = rng.choice(list(SCRIPTS.items()))
        name = rng.choice(names.split() + WIDE)
        text = random_text(rng, script.split())
        if name not in WIDE:
            text = text.lstrip("\ufeff")  # most other encodings have no byte order mark
        encoding = None if name.startswith("utf-8") else checked_encoding(name)
        document, _ = decode_document(text.encode(name), encoding)
        assert document == normalized(text).encode(), (name, text)


def test_a_damaged_text_is_read_or_refused_with_a_true_sentence(tmp_path):
    rng = random.Random(18)
    file = tmp_path / "text.txt"
    for number in range(DAMAGED):
        script, names = rng.choice(list(SCRIPTS.items()))
        name = rng.choice(names.split() + WIDE)
        content = random_text(rng, script.split()).encode(name, "ignore")
        content = damaged_bytes(content, rng) if number % 4 else rng.randbytes(rng.randrange(400))
        file.write_bytes(content)
        encoding = rng.choice([None, name, "cp1251", "gbk", "utf-16-le", "gbk,cp1251"])
        try:
            ((_, document),) = files_and_folders([file], encoding).texts
        except UserError as error:
            check_sentence(str(error), "text.txt")
            if " is not UTF-8 " in str(error):
                with pytest.raises(UnicodeDecodeError):
                    content.removeprefix(b"\xef\xbb\xbf").decode()
            elif " is empty" in str(error):
                names = ("utf-8", *str(encoding).split(","), *(name for _, name in MARKS))
                assert any(b"" in _read(content, name) for name in names if name != "None")
        else:
            candidates = {"utf-8", *str(encoding).split(","), *(name for _, name in MARKS)} - {
                "None"
            }
            assert document and document == normalized(document.decode()).encode()
            assert any(document in _read(content, name) for name in candidates)


def _read(content: bytes, name: str) -> set[bytes]:
    """Return the normalized text with and without the byte order mark, if the content is valid."""
    found = set()
    for part in (content, *(content[len(m) :] for m, _ in MARKS if content.startswith(m))):
        try:
            found.add(normalized(part.decode(name)).encode())
        except UnicodeError:
            continue
    return found


def test_no_text_of_a_random_folder_is_found_twice_however_its_paths_are_spelled(tmp_path):
    for seed in range(TREES):
        rng, root = random.Random(seed), tmp_path / str(seed)
        texts = _random_tree(root, rng)
        spellings = [_spelling(path, root, rng) for path in rng.choices(_places(root), k=4)]
        found = files_and_folders([root / "texts", *spellings])
        contents = [content for _, content in found.texts]
        assert sorted(contents) == sorted(texts), seed
        shuffled = [root / "texts", *spellings]
        rng.shuffle(shuffled)
        assert (
            open_corpus(shuffled).fingerprint
            == open_corpus([root / "texts", *spellings]).fingerprint
        )
        assert found.skipped.isprintable() and len(found.skipped) <= 700
        shutil.rmtree(root)


def _random_tree(root: Path, rng: random.Random) -> set[bytes]:
    """Fill root/texts with texts, links, copies, runs and files that are no texts. Return the
    texts.
    """
    folders = [root / "texts"]
    folders[0].mkdir(parents=True)
    for _ in range(rng.randrange(4)):
        folders.append(rng.choice(folders) / _random_name(rng))
        folders[-1].mkdir(exist_ok=True)
    texts = set()
    for number in range(rng.randrange(1, 8)):
        text = f"text {number}\n" * 3
        texts.add(text.encode())
        for _ in range(rng.choice((1, 1, 2))):
            path = rng.choice(folders) / f"{rng.randrange(100)}{_random_name(rng)}"
            if not os.path.lexists(path):
                path.write_bytes(
                    text.replace("\n", rng.choice(["\n", "\r\n"])).encode(rng.choice(WIDE[:3]))
                )
    for kind in rng.choices(["link", "hard", "up", "loop", "fifo", "binary", "empty", "run"], k=6):
        path = rng.choice(folders) / f"{kind}{rng.randrange(10)}{_random_name(rng)}"
        files = [
            p
            for p in (root / "texts").rglob("*")
            if p.is_file() and not p.is_symlink() and p.name not in OWN_NAMES
        ]
        if os.path.lexists(path) or not files:
            continue
        if kind == "link":
            path.symlink_to(rng.choice(files))
        elif kind == "hard":
            os.link(rng.choice(files), path)
        elif kind in ("up", "loop"):
            path.symlink_to(root if kind == "up" else path)
        elif kind == "fifo":
            os.mkfifo(path)
        elif kind == "run":
            path.mkdir()
            for name in ("checkpoint.safetensors", "recipe.json", "log.jsonl"):
                (path / name).write_text("{}" + name)
        else:
            path.write_bytes(b"" if kind == "empty" else b"\0\1\2" * 9)
    return {content for content in texts if any(_has(root, content))}


def _has(root: Path, content: bytes):
    for path in (root / "texts").rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
        if path.is_file() and not hidden:
            try:
                yield decode_document(path.read_bytes())[0] == content
            except NotText:
                pass


def _places(root: Path) -> list[Path]:
    """Return texts and folders that hold texts, in the folder."""
    found = [root / "texts"]
    for path in (root / "texts").rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
        if (
            not hidden
            and path.is_file()
            and path.stat().st_size
            and path.name[:3] not in ("bin", "log", "rec", "che")
        ):
            found.append(path)
    return found


def _spelling(path: Path, root: Path, rng: random.Random) -> str:
    """Return another way to write the path."""
    kind = rng.randrange(4)
    if kind == 0:
        return os.path.relpath(path)
    if kind == 1:
        return f"{path.parent}/./{path.name}"
    if kind == 2:
        return f"{root}/texts/../{path.relative_to(root)}"
    link = root / f"link{rng.randrange(10**9)}"
    link.symlink_to(path)
    return str(link)


def _random_name(rng: random.Random) -> str:
    letters = [
        "a",
        "b",
        " ",
        "é",
        "猫",
        "\n",
        "'",
        '"',
        "$",
        "\udcff",
        "-",
        "~",
        "\\",
        ";",
        "%",
        "=",
    ]
    return "".join(rng.choice(letters) for _ in range(rng.randrange(1, 9)))


def test_a_shell_gets_every_word_of_a_printed_command():
    rng = random.Random(19)
    for start in range(0, NAMES, 500):
        names = [_random_name(rng) for _ in range(start, start + 500)]
        lines = "\n".join(command("printf", "%s\\0", name) for name in names)
        script = lines.encode("utf-8", "surrogateescape")
        assert script == lines.encode()  # nothing in it is undecodable
        said = subprocess.run(["sh"], input=script, capture_output=True, check=True).stdout
        assert said.split(b"\0")[:-1] == [os.fsencode(name) for name in names]
        for name in names:
            assert shown_path(name).isprintable()
            if "\udcff" not in name:
                assert shlex.split(command("x", name)) == ["x", name]


def test_every_value_of_an_option_is_read_as_given_or_refused_with_the_way_to_write_it():
    rng, parser = random.Random(20), make_parser()
    names = parser.parse_args(["generate", "run"]).parser.option_names
    for _ in range(LINES):
        # The text of a prompt may be empty, the name of a file may not.
        sizes = rng.randrange(6), rng.randrange(6), rng.randrange(1, 6)
        values = ["".join(rng.choices("-=ax1. \n/é", k=size)) for size in sizes]
        options = [f"--{name}" for name in ("prompt", "stop", "trace")]
        words = [word for pair in zip(options, values, strict=True) for word in pair]
        refused = any(v.partition("=")[0] in names or LOOKS_LIKE_AN_OPTION.match(v) for v in values)
        if not refused:
            read = parser.parse_args(["generate", "run", *words, "--seed", "7"])
            assert [*read.prompt, *read.stop, read.trace, read.seed] == [*values, 7]
        elif "-h" not in values:
            with pytest.raises(UserError, match="=VALUE if it begins with dashes"):
                parser.parse_args(["generate", "run", *words])
        joined = [f"{name}={value}" for name, value in zip(options, values, strict=True)]
        read = parser.parse_args(["generate", "run", *joined])
        assert [*read.prompt, *read.stop, read.trace] == values
