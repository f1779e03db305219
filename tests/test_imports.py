"""The order of imports, the sizes of files and folders, and the modules loaded at the start.

Imports point down in the order of LEVELS. Imports inside functions and under TYPE_CHECKING count
too, because they are dependencies like any other. `import minimtp` does not count, because that
file holds the version and lazy exports.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import minimtp

PACKAGE = Path(minimtp.__file__).parent
FRONT_DOORS = {PACKAGE / "__init__.py", PACKAGE / "__main__.py"}
FILES = sorted({*PACKAGE.rglob("*.py")} - FRONT_DOORS)
LEVELS = [  # from the top down; a part may import parts of its own level and of lower levels
    {"cli"},
    {"bench", "compare", "plan"},
    {"formats"},
    {"training"},
    {"decode"},
    {"quant"},
    {"model"},
    {"engine"},
    {"kernels"},
    {"backend", "plots", "records", "files", "extras", "quoting", "arguments", "errors", "machine"},
]
LEVEL = {part: level for level, parts in enumerate(LEVELS) for part in parts}
MAX_LINES = 350
MAX_FILES = 14  # besides __init__.py
HEAVY = {"numpy", "numba", "cupy", "torch", "tqdm", "msgspec", "matplotlib", "gguf"}

each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))


def module_of(path: Path) -> str:
    """minimtp/engine/ops.py -> engine.ops; minimtp/engine/__init__.py -> engine."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path) for path in FILES}


def names_imported(path: Path, at_module_level: bool = False) -> Iterator[tuple[str, str | None]]:
    """Yield (module, None) for `import module`, (module, name) for `from module import name`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body if at_module_level else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import: write the whole module name"
            yield from ((node.module, alias.name) for alias in node.names)


@cache
def modules_imported(path: Path) -> frozenset[str]:
    """Return the modules of this package that the file imports.

    `from package import module` counts as the module, not as the package's __init__.py.
    """
    found = set()
    for module, name in names_imported(path):
        if module.split(".")[0] == "minimtp":
            inside = module.removeprefix("minimtp").removeprefix(".")
            member = f"{inside}.{name}".removeprefix(".")
            found.add(member if member in MODULES else inside)
    return frozenset(found - {""})


def libraries_imported(path: Path, at_module_level: bool = False) -> set[str]:
    return {module.split(".")[0] for module, _ in names_imported(path, at_module_level)}


def extras_used(path: Path) -> set[str]:
    """Return the packages that the file imports with `extras.find` or `extras.require`."""
    text = path.read_text(encoding="utf-8")
    return set(re.findall(r'extras\.(?:find|require)\("(\w+)', text))


def part_of(module: str) -> str:
    return module.split(".")[0]


def circles(imports: dict[str, set[str]]) -> list[list[str]]:
    """Return the sets of two or more nodes that can all reach each other."""
    reached = {node: set(targets) for node, targets in imports.items()}
    for middle in imports:  # Warshall's algorithm
        for node in imports:
            if middle in reached[node]:
                reached[node] |= reached[middle]
    found = {
        tuple(sorted(b for b in imports if b in reached[a] and a in reached[b])) for a in imports
    }
    return sorted(list(circle) for circle in found if len(circle) > 1)


@each_file
def test_a_file_imports_only_from_its_own_level_and_below(path):
    part = part_of(module_of(path))
    assert part in LEVEL, f"{part} has no level: add it to LEVELS"
    above = sorted(name for name in modules_imported(path) if LEVEL[part_of(name)] < LEVEL[part])
    assert not above, f"{module_of(path)} imports {', '.join(above)}, which lies above {part}"


def test_no_two_parts_import_each_other():
    imports = {part: set() for part in LEVEL}
    for path in FILES:
        part = part_of(module_of(path))
        imports[part] |= {part_of(name) for name in modules_imported(path)} - {part}
    assert not circles(imports)


def test_no_two_files_import_each_other():
    imports = {module_of(path): set(modules_imported(path)) for path in FILES}
    assert not circles(imports), "move what both need to a file that both may import"


def test_circular_imports_are_detected():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
    assert circles({"a": {"b"}, "b": {"c"}, "c": set(), "d": {"a", "c"}}) == []


@each_file
def test_a_file_has_at_most_the_maximum_number_of_lines(path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_LINES, f"{lines} lines, more than {MAX_LINES}: it is probably two ideas"


@pytest.mark.parametrize("folder", sorted({path.parent for path in FILES}), ids=lambda f: f.name)
def test_a_folder_has_at_most_the_maximum_number_of_files(folder):
    names = sorted(path.name for path in folder.glob("*.py") if path.stem != "__init__")
    assert len(names) <= MAX_FILES, f"{len(names)} files, more than {MAX_FILES}: {', '.join(names)}"


@each_file
def test_only_the_backend_imports_an_array_library(path):
    module = module_of(path)
    if module == "backend":
        return
    compiled = module.startswith("kernels.cpu")
    allowed = {"numpy", "numba", "llvmlite"} if compiled else set()  # Numba must see NumPy itself
    if module == "bench.baselines.llama_cpp.session":  # runs in a Python without minimtp
        allowed = {"numpy"}
    if "pytorch" in path.parts:  # imported only when it is needed
        allowed = {"torch"} - libraries_imported(path, at_module_level=True)
    array_libraries = {"numpy", "cupy", "numba", "llvmlite", "torch"}
    assert libraries_imported(path) & array_libraries <= allowed


@pytest.mark.parametrize(("library", "part"), [("gguf", "formats"), ("llama_cpp", "bench")])
def test_an_optional_library_is_imported_by_one_part_and_only_when_needed(library, part):
    importing = {
        part_of(module_of(path))
        for path in FILES
        if library in libraries_imported(path) | extras_used(path)
    }
    assert importing == {part}
    assert not any(library in libraries_imported(path, at_module_level=True) for path in FILES)


def loaded_by(statement: str) -> set[str]:
    """Return the top-level modules in memory after a new process has run the statement."""
    code = f"import sys\n{statement}\nprint(*(name for name in sys.modules if '.' not in name))"
    process = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    return set(process.stdout.split("\n")[-2].split())


@pytest.mark.parametrize(
    "statement",
    [
        "import minimtp",
        "from minimtp.cli import main\ntry: main(['-h'])\nexcept SystemExit: pass",
        "from minimtp.cli import main\ntry: main(['train', '-h'])\nexcept SystemExit: pass",
    ],
    ids=["import", "help", "train-help"],
)
def test_importing_the_package_and_asking_for_help_load_no_heavy_library(statement):
    assert not loaded_by(statement) & HEAVY


def test_the_costs_of_a_plan_need_no_array_library():
    found = loaded_by("from minimtp.plan.costs import cost, memory, sizes, speculation")
    assert not found & {"numpy", "numba", "cupy"}


def test_every_public_name_is_found_and_another_one_is_an_error():
    for name in minimtp.__all__:
        assert callable(getattr(minimtp, name))
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        minimtp.lode  # noqa: B018
