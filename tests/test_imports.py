"""The structure of the package, read from its imports."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import minimtp

PACKAGE = Path(minimtp.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
LAYERS = [  # each may import from itself and from those above it in this list
    {"errors", "backend", "files", "machine"},
    {"kernels"},
    {"engine"},
    {"model"},
    {"quant"},
    {"decode"},
    {"training", "formats"},
    {"compare", "bench", "cli", "__main__"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def imported(path: Path, at_module_level: bool = False) -> set[str]:
    """Dotted names of the modules that the file imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = set()
    for node in tree.body if at_module_level else ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_from_its_own_layer_and_from_those_below(path):
    part = part_of(path)
    if part == "__init__":
        return
    assert part in LEVEL, f"{part} has no place in the layers: put it into LAYERS"
    for name in imported(path):
        if name.startswith("minimtp."):
            other = name.split(".")[1]
            if other in LEVEL:  # minimtp.__version__ and the like are no module
                assert LEVEL[other] <= LEVEL[part], (
                    f"{path.name} imports {name}, which lies above it"
                )


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_the_backend_imports_an_array_library(path):
    if part_of(path) == "backend":
        return
    compiled = part_of(path) == "kernels" and "cpu" in path.parts
    allowed = {"numpy", "numba", "llvmlite"} if compiled else set()  # Numba has to see NumPy itself
    if "pytorch" in path.parts:
        allowed = {"torch"} - {
            name.split(".")[0] for name in imported(path, at_module_level=True)
        }  # when it is needed only
    libraries = {name.split(".")[0] for name in imported(path)} & {
        "numpy",
        "cupy",
        "numba",
        "llvmlite",
        "torch",
    }
    assert libraries <= allowed


@pytest.mark.parametrize(("library", "file"), [("gguf", "formats"), ("llama_cpp", "bench")])
def test_what_reads_other_programs_files_is_imported_in_one_place_and_only_when_needed(
    library, file
):
    importing = {part_of(path) for path in FILES if library in imported(path)}
    assert importing == {file}
    assert not any(library in imported(path, at_module_level=True) for path in FILES)


def loaded_after(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(*(name for name in sys.modules if '.' not in name))"
    return set(
        subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True, text=True
        ).stdout.split()
    )


def test_importing_the_package_loads_neither_numpy_nor_any_extra():
    assert not loaded_after("import minimtp") & {
        "numpy",
        "numba",
        "cupy",
        "tqdm",
        "safetensors",
        "matplotlib",
    }


def test_the_functions_of_the_package_are_found_when_asked_for():
    for name in minimtp.__all__:
        assert callable(getattr(minimtp, name))
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        minimtp.lode  # noqa: B018
