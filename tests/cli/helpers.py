"""Small settings, and helpers that run commands, for the tests of the command line."""

import hashlib
import re
import subprocess
import sys
from pathlib import Path

import minimtp
from minimtp.cli import main

SMALL = (
    "--preset tiny --context-length 16 --tokens 640 --evaluation-tokens 256".split()
)  # ten steps
TEXT = b"roses are red, violets are blue, sugar is sweet and so are you.\n" * 60


def digest() -> dict[str, str]:
    """Return the hash of every file below the current folder."""
    files = [path for path in sorted(Path().rglob("*")) if path.is_file()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def refused(capsys, *arguments: str) -> str:
    """Run a command that must be refused with one sentence, exit code 2 and nothing written. Return
    the sentence.
    """
    before = digest()
    code = main(list(arguments))
    said = capsys.readouterr()
    assert code == 2, said
    assert said.out == ""
    sentence = re.sub(
        r"^minimtp: compiling kernels.*\n", "", said.err
    )  # the message at the first use of the kernels
    assert re.fullmatch(r"minimtp: [^\n]+\n", sentence), said.err
    assert digest() == before
    return sentence


def python(code: str, *arguments: str) -> subprocess.CompletedProcess:
    """Run code in a new process that imports this checkout."""
    root = str(Path(minimtp.__file__).parents[1])
    code = f"import sys; sys.path.insert(0, {root!r})\n{code}"
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
