"""Nothing in the package writes, moves or deletes a file except minimtp/files/."""

import ast
from pathlib import Path

import pytest

import minimtp

PACKAGE = Path(minimtp.__file__).parent
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE / "files")
# Functions and methods that create, change, move or delete files, whatever their arguments.
WRITING = {
    "write_text", "write_bytes", "touch", "mkdir", "makedirs", "mkfifo", "mknod", "symlink_to",
    "hardlink_to", "symlink", "link", "rename", "renames", "unlink", "rmdir", "removedirs",
    "rmtree", "copy2", "copyfile", "copytree", "copyfileobj", "ftruncate", "chmod",
    "savez", "savez_compressed", "savetxt", "tofile", "save_file", "fdopen", "mkstemp", "mkdtemp",
    "NamedTemporaryFile", "TemporaryFile", "FileHandler", "dup2",
}  # fmt: skip
# Their names are common, so they count only as functions of these modules.
OF_MODULES = {
    ("os", "replace"), ("os", "remove"), ("os", "truncate"), ("shutil", "move"), ("shutil", "copy"),
}  # fmt: skip
LLAMA = "bench/baselines/llama_cpp/"  # a script that runs without minimtp, and its other end
# (file, call): why it writes no file of the user's
EXCEPTIONS = {
    ("cli/process.py", "os.dup2(nowhere, descriptor)"): "discards what is printed",
    ("plots.py", "figure.savefig(file"): "a file that minimtp/files/ opened",
    ("formats/gguf/writer.py", "gguf.GGUFWriter(file.name"): "a file that minimtp/files/ made",
    ("machine.py", "Path('/proc/self/clear_refs').write_text"): "a switch of the system's, no file",
    (LLAMA + "process.py", "tempfile.TemporaryFile()"): "what the other process prints",
    (LLAMA + "session.py", "open(shared, 'wb')"): "the memory that two processes share",
    (LLAMA + "session.py", "np.memmap(shared"): "the same",
    (LLAMA + "session.py", "os.fdopen(os.dup(1)"): "a pipe",
    (LLAMA + "session.py", "os.dup2(2, 1)"): "redirects what is printed",
}


def writes(call: ast.Call) -> bool:
    """Return whether the call may write, move or delete a file."""
    function = call.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    owner = getattr(getattr(function, "value", None), "id", "")
    if name == "open":  # open(path, mode), io.open(...), path.open(mode), os.open(path, flags)
        text = [ast.unparse(argument) for argument in call.args] + [
            ast.unparse(keyword.value) for keyword in call.keywords if keyword.arg == "mode"
        ]
        if text[:1] == ["os.devnull"]:
            return False
        if owner == "os":
            return any("O_" in part and "O_RDONLY" not in part for part in text[1:])
        modes = text if isinstance(function, ast.Attribute) and owner != "io" else text[1:]
        literal = [part for part in modes if part.strip("'\"bt+") in ("r", "w", "a", "x")]
        return any(set(part) & set("wax+") for part in literal) or any(
            not part.startswith(("'", '"')) for part in modes[:1]
        )
    if name == "memmap":
        return not any(ast.unparse(argument) in ("'c'", "'r'") for argument in call.args)
    if isinstance(function, ast.Name):  # a function of the package, or a class of a library
        return name == "GGUFWriter"
    return name in WRITING | {"savefig", "GGUFWriter"} or (owner, name) in OF_MODULES


def allowed(path: Path, text: str) -> bool:
    place = path.relative_to(PACKAGE).as_posix()
    return any(place == file and text.startswith(call) for file, call in EXCEPTIONS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_of_the_package_writes_only_through_minimtp_files(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and writes(node)]
    found = [f"line {call.lineno}: {ast.unparse(call)}" for call in calls]
    found = [line for line in found if not allowed(path, line.partition(": ")[2])]
    assert not found, f"use minimtp.files instead of {found}"


@pytest.mark.parametrize(
    "code",
    [
        "open(path, 'w')", "open(path, mode='ab')", "open(path, 'rb+')", "io.open(path, 'x')",
        "path.open('w')", "os.open(path, os.O_CREAT | os.O_WRONLY)", "path.write_text('')",
        "Path(name).mkdir()", "os.replace(a, b)", "shutil.rmtree(path)", "figure.savefig(path)",
        "np.memmap(path, np.uint8, 'w+')", "array.tofile(path)", "tempfile.mkstemp()",
        "open(path, mode)", "(out / name).unlink()",
    ],
)  # fmt: skip
def test_the_calls_that_write_are_recognised(code):
    assert writes(ast.parse(code, mode="eval").body)


@pytest.mark.parametrize(
    "code",
    [
        "open(path)", "open(path, 'rb')", "path.open()", "os.open(path, os.O_RDONLY)",
        "open(path, encoding='utf-8')", "text.replace('a', 'b')", "path.read_bytes()",
        "open(os.devnull, 'w')", "np.memmap(file, np.uint8, 'c', offset=8)", "names.remove(name)",
    ],
)  # fmt: skip
def test_the_calls_that_only_read_are_recognised(code):
    assert not writes(ast.parse(code, mode="eval").body)
