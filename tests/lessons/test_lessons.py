"""Lessons introduce modules in order, run, and print what their texts quote.

Their exercises are the library's functions.
"""

import ast
import importlib.util
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

from lessons import course
from minimtp.cli import make_parser
from minimtp.training.presets import PRESETS

ROOT = Path(__file__).resolve().parents[2]
LESSONS = ROOT / "lessons"
NUMBERS = range(1, len(course.NAMES) + 1)
MAX_CHANGED_SETTINGS = 3
MAX_STORY_LINES = 60
MAX_RUN_SECONDS = 600  # a run takes about a minute on an idle machine
ALWAYS = {"minimtp"}  # minimtp/__init__.py imports no module of the library


def folder(number):
    return LESSONS / course.NAMES[number - 1]


def text(number):
    return (folder(number) / "README.md").read_text(encoding="utf-8")


def parse(path):
    return ast.parse(path.read_text(encoding="utf-8"))


every_lesson = pytest.mark.parametrize(
    "number", NUMBERS, ids=lambda number: course.NAMES[number - 1]
)


# ---------------------------------------------------------------------------- order and settings


def library_file(module):
    path = ROOT / Path(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def imported(path):
    """Return the library modules that a file imports at its top.

    Imports inside functions do not count: a reader does not need those modules to read the file.
    """
    names = set()
    for node in parse(path).body:
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "minimtp":
            submodules = {f"{node.module}.{alias.name}" for alias in node.names}
            submodules = {name for name in submodules if library_file(name).is_file()}
            names |= submodules or {node.module}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names if alias.name.split(".")[0] == "minimtp"}
    return names - ALWAYS


def test_lessons_are_numbered_from_one_without_gaps():
    assert [int(name[6:8]) for name in course.NAMES] == list(NUMBERS)


@every_lesson
def test_a_lesson_introduces_existing_modules_that_no_earlier_lesson_introduced(number):
    modules = course.introduced(number)
    assert not [module for module in modules if not library_file(module).is_file()]
    assert len(set(modules)) == len(modules)


@every_lesson
def test_introduced_modules_import_only_modules_introduced_so_far(number):
    known = set(course.introduced(number))
    for module in known:
        assert imported(library_file(module)) <= known, (
            f"{module} needs a module that no lesson up to {number} introduces"
        )
    for path in folder(number).glob("*.py"):
        assert imported(path) <= known, (
            f"{path.name} uses a module that no lesson up to {number} introduces"
        )


@every_lesson
def test_a_recipe_changes_at_most_three_settings_of_the_previous_one(number):
    if number > 1:
        assert len(course.changes(number)) <= MAX_CHANGED_SETTINGS


@every_lesson
def test_the_main_file_of_a_lesson_fits_on_a_page(number):
    assert len((folder(number) / "__main__.py").read_text().splitlines()) <= MAX_STORY_LINES


def test_a_preset_keeps_its_own_settings_and_the_changes_of_the_lessons():
    for name, settings in PRESETS.items():
        recipe = course.recipe_of(NUMBERS[-1], name)
        assert all(getattr(recipe, setting) == value for setting, value in settings.items())


# -------------------------------------------------------------------------------------- exercises


def definitions(tree):
    """Return {name: node} of the functions and classes at the top level of a file or class."""
    return {
        node.name: node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)
    }


def library_definition(number, name):
    found = [
        node
        for module in course.introduced(number)
        if (node := definitions(parse(library_file(module))).get(name))
    ]
    assert len(found) == 1, (
        f"{name} must be defined in one of the modules introduced so far, not in {len(found)}"
    )
    return found[0]


def functions(node):
    """Return {name: node} of a function itself, or of the methods of a class."""
    return {node.name: node} if isinstance(node, ast.FunctionDef) else definitions(node)


def outside_methods(node):
    """Return the decorators, bases and fields of a class."""
    fields = [part for part in node.body if not isinstance(part, ast.FunctionDef)]
    return [ast.dump(part) for part in [*node.decorator_list, *node.bases, *fields]]


def is_stub(function, number):
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return len(body) == 1 and ast.unparse(body[0]).startswith(
        f"raise NotImplementedError('lesson {number}: "
    )


def stubs(number):
    """Return {name: node} of the definitions in exercise.py that have something left to write."""
    tree = definitions(parse(folder(number) / "exercise.py"))
    return {
        name: node
        for name, node in tree.items()
        if any(is_stub(f, number) for f in functions(node).values())
    }


@every_lesson
def test_a_stub_has_the_signature_and_docstring_of_the_library_and_no_body(number):
    tree = definitions(parse(folder(number) / "exercise.py"))
    assert tree.keys() == stubs(number).keys() and 1 <= len(tree) <= 3
    for name, node in tree.items():
        original = library_definition(number, name)
        assert ast.get_docstring(node) == ast.get_docstring(original), name
        if isinstance(node, ast.ClassDef):
            assert outside_methods(node) == outside_methods(original), name
        mine, theirs = functions(node), functions(original)
        assert mine.keys() == theirs.keys(), name
        for method, function in mine.items():
            other = theirs[method]
            assert ast.dump(function.args) == ast.dump(other.args), (
                f"{name}.{method}: the signature differs from the library's"
            )
            assert [ast.dump(d) for d in function.decorator_list] == [
                ast.dump(d) for d in other.decorator_list
            ]
            assert ast.get_docstring(function) == ast.get_docstring(other), (
                f"{name}.{method}: the docstring differs from the library's"
            )
            given = [ast.dump(statement) for statement in function.body] == [
                ast.dump(statement) for statement in other.body
            ]
            assert given or is_stub(function, number), (
                f"{name}.{method} is neither a stub nor equal to the library's method"
            )


def exercise_tests(number):
    """Return the test files that the lesson's text tells the reader to run."""
    return [
        file
        for files in re.findall(r"^pytest --mine (.+)$", text(number), flags=re.MULTILINE)
        for file in files.split()
    ]


def solution(number):
    """Return an exercise.py that contains the library's own definitions."""
    parts = []
    for name in stubs(number):
        modules = [
            m for m in course.introduced(number) if name in definitions(parse(library_file(m)))
        ]
        home = importlib.import_module(modules[0])
        names = ", ".join(n for n in vars(home) if not n.startswith("__"))
        parts.append(f"from {modules[0]} import {names}\n")
        parts.append(ast.unparse(library_definition(number, name)) + "\n")
    return "\n".join(parts)


def run_exercises(project):
    """Run `pytest --mine` on a copy of lessons and tests, with the real library.

    Returns {test file: [(outcome, line)]}, with one line per open exercise and per test.
    """
    files = [file for number in NUMBERS for file in exercise_tests(number)]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "-rA",
        "--hypothesis-profile=few",
        "--mine",
        *files,
    ]
    environment = os.environ | {"PYTHONPATH": f"{project}{os.pathsep}{ROOT}", "COLUMNS": "1000"}
    output = subprocess.run(
        command, cwd=project, env=environment, capture_output=True, text=True
    ).stdout
    outcomes = {file: [] for file in files}
    for outcome, file, line in re.findall(
        r"^(PASSED|FAILED|ERROR|OPEN) (tests/[\w/]+\.py)(.*)$", output, flags=re.MULTILINE
    ):
        outcomes[file].append((outcome, line))
    return outcomes


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """outcomes("open") returns the results of `pytest --mine` with open exercises, and
    outcomes("solved") those with the library's functions.
    """

    @cache
    def outcomes(state):
        project = tmp_path_factory.mktemp(state)
        for part in ("lessons", "tests", "pyproject.toml"):
            copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
            copy(ROOT / part, project / part)
        if state == "solved":
            for number in NUMBERS:
                name = course.NAMES[number - 1]
                (project / "lessons" / name / "exercise.py").write_text(solution(number))
        return run_exercises(project)

    return outcomes


@every_lesson
def test_an_open_exercise_reports_one_line_that_says_what_to_write(number, outcomes):
    for file in exercise_tests(number):
        assert outcomes("open")[file], f"no test in {file} uses the fixture `own`"
        for outcome, line in outcomes("open")[file]:
            assert outcome == "OPEN" and f" - lesson {number}: " in line, line


@every_lesson
@pytest.mark.slow
def test_the_library_solves_the_exercises(number, outcomes):
    for file in exercise_tests(number):
        found = outcomes("solved")[file]
        assert found and [line for outcome, line in found if outcome != "PASSED"] == []


@every_lesson
def test_every_exercise_is_tested_in_files_of_its_lesson_only(number):
    others = {file for other in NUMBERS if other != number for file in exercise_tests(other)}
    assert exercise_tests(number) and not set(exercise_tests(number)) & others
    sources = "".join((ROOT / file).read_text(encoding="utf-8") for file in exercise_tests(number))
    for name in stubs(number):
        assert re.search(rf"\bown\([\w.]*\b{name}\)", sources), f"no test uses own({name})"


# ----------------------------------------------------------------------------------------- the runs

REPORT_LOADED = """
import runpy, sys
sys.argv[0] = "-m"
runpy.run_module({module!r}, run_name="__main__")
print(*sorted(name for name in sys.modules if name.startswith("minimtp")), file=sys.stderr)
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Run a lesson once, alone in an empty folder: preset tiny, plain kernels only."""
    done = {}

    def run(number):
        if number not in done:
            cwd = tmp_path_factory.mktemp("alone")
            code = REPORT_LOADED.format(module=f"lessons.{course.NAMES[number - 1]}")
            done[number] = (
                run_python(
                    ["-c", code, "--preset", "tiny", "--device", "cpu"],
                    cwd,
                    MINIMTP_KERNELS="plain",
                ),
                cwd,
            )
        return done[number]

    return run


@pytest.fixture(scope="module")
def shared_folder(tmp_path_factory):
    """A folder where the lessons run in order, so that later ones find the earlier models."""
    return tmp_path_factory.mktemp("reader")


def run_python(arguments, cwd, **environment):
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        timeout=MAX_RUN_SECONDS,
    )


@every_lesson
def test_a_lesson_runs_alone_and_prints_its_result_below_the_previous_one(number, runs):
    process, _ = runs(number)
    assert process.returncode == 0, process.stderr
    before, now = process.stdout.splitlines()[-2:]
    assert before.startswith("  before ")
    assert now.startswith(f"  lesson {number} ")


@every_lesson
def test_a_run_loads_only_modules_introduced_so_far(number, runs):
    process, _ = runs(number)
    loaded = {
        name for name in process.stderr.splitlines()[-1].split() if not is_empty_package(name)
    } - ALWAYS
    assert loaded <= set(course.introduced(number))


def is_empty_package(name):
    """Return whether the module is an __init__.py that contains only a docstring."""
    path = library_file(name)
    return path.name == "__init__.py" and all(
        isinstance(node, ast.Expr) for node in parse(path).body
    )


@every_lesson
@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="plots need matplotlib")
def test_a_lesson_saves_its_plot(number, runs):
    _, cwd = runs(number)
    assert (
        cwd / "runs" / "lessons" / "tiny" / f"lesson{number:02d}" / "plot.png"
    ).stat().st_size > 10_000


def test_an_unusable_option_gives_one_sentence_and_exit_code_2(tmp_path):
    (tmp_path / "file").touch()
    for options in (["--device", "cdua"], ["--preset", "tyni"], ["--nonsense"], ["--out", "file"]):
        process = run_python(["-m", f"lessons.{course.NAMES[0]}", *options], tmp_path)
        assert process.returncode == 2
        assert "Traceback" not in process.stderr and options[-1] in process.stderr


# ---------------------------------------------------------------------------------------- the texts

# By unit: how far a printed number may differ from the one in the text, as (factor, absolute).
MACHINE_DEPENDENT = (8.0, 0.0)
BOUNDS = {
    "s": MACHINE_DEPENDENT,
    "ms": MACHINE_DEPENDENT,
    "tokens/s": MACHINE_DEPENDENT,
    "Gweight/s": MACHINE_DEPENDENT,
    "GB/s": MACHINE_DEPENDENT,
    "GFLOP/s": MACHINE_DEPENDENT,
    "rows": MACHINE_DEPENDENT,
    "x": (5.0, 0.0),
    "per pass": (3.0, 0.0),  # the draft depth was tuned with timings
    "bits": (1.05, 0.2),  # another Python has another standard library as training text
    "%": (1.0, 6.0),
    "tokens": (1.2, 0.0),
}
# Another processor rounds products differently, so training gives another model. Two generations of
# processors of one manufacturer gave texts of 2.10 and 1.95 bits, 0.60 and 0.48 bits, 14 and 19 %,
# and models that rounding had damaged of 12.2 and 8.5 bits.
DAMAGED_BITS = 3.0  # a model with more bits per byte is damaged
DAMAGED_BOUND = (1.6, 0.0)
SCIENTIFIC = (10.0, 0.0)  # rounding errors
MEAN = (1.1, 0.0)  # a decimal fraction without a unit
EXACT = (1.0, 0.0)  # a count
UNITS = "|".join(sorted(BOUNDS, key=len, reverse=True))
NUMBER = re.compile(
    r"(?<![\w.])(-?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?)(?![\w.]*\w)" rf"(?: ?({UNITS}))?(?!\w)"
)


def numbers(line):
    """Return the numbers in a line as [(value, unit or "", as written)]."""
    return [
        (float(written.replace(",", "")), unit, written) for written, unit in NUMBER.findall(line)
    ]


def close(quoted, printed):
    (value, unit, written), (again, unit_again, _) = quoted, printed
    without_unit = SCIENTIFIC if "e" in written else MEAN if "." in written else EXACT
    damaged = unit == "bits" and value > DAMAGED_BITS
    factor, absolute = DAMAGED_BOUND if damaged else BOUNDS.get(unit, without_unit)
    if unit != unit_again:
        return False
    if value == again or abs(value - again) <= absolute:
        return True
    return value * again > 0 and max(value / again, again / value) <= factor * (1 + 1e-12)


def blocks(markdown, kind):
    return re.findall(rf"^```{kind}\n(.*?)^```", markdown, flags=re.MULTILINE | re.DOTALL)


def comparable(output):
    """Return the lines to compare.

    Generated text ("| ...") is left out: it changes with the last bit of any weight.
    """
    return [
        line for line in output.splitlines() if line.strip() and not line.lstrip().startswith("|")
    ]


def needs_model(number):
    """Return whether the lesson is about a pretrained model, so that its run takes long."""
    return hasattr(importlib.import_module(f"lessons.{course.NAMES[number - 1]}.recipe"), "MODEL")


def form(lines):
    """Return the lines without their numbers. llama.cpp may be missing on this machine."""
    return [NUMBER.sub("#", line).split() for line in lines if "llama.cpp" not in line]


@every_lesson
@pytest.mark.slow
def test_a_lesson_prints_what_its_text_quotes_within_the_stated_bounds(number, shared_folder):
    # The text about a pretrained model quotes data/results. Here a tiny model takes its place.
    options = ["--preset", "tiny"] if needs_model(number) else []
    process = run_python(["-m", f"lessons.{course.NAMES[number - 1]}", *options], shared_folder)
    assert process.returncode == 0, process.stderr
    (quoted,) = blocks(text(number), "text")
    quoted, printed = comparable(quoted), comparable(process.stdout)
    assert form(quoted) == form(printed)
    if not needs_model(number):
        for mine, theirs in zip(quoted, printed, strict=True):
            for a, b in zip(numbers(mine), numbers(theirs), strict=True):
                assert close(a, b), (
                    f"the text says {a[2]} {a[1]} and the run {b[2]} {b[1]}: {theirs}"
                )


def printed_values(number):
    (output,) = blocks(text(number), "text")
    return [value for line in output.splitlines() for value, _, _ in numbers(line)]


def assert_printed(prose, printed):
    """Check that every decimal fraction in the prose is a printed number, possibly rounded."""
    for value, _, written in numbers(prose):
        if "." in written:
            digits = len(written.partition(".")[2])
            assert any(math.isclose(round(p, digits), value) for p in printed), (
                f"{written} is not a number that the run printed"
            )


@every_lesson
def test_decimal_fractions_in_the_prose_are_also_in_the_output(number):
    prose = text(number)
    if (ROOT / f"tests/lessons/worked/test_lesson{number:02d}.py").exists():  # checks this section
        prose = re.sub(r"^## By hand$.*?(?=^## )", "", prose, flags=re.M | re.S)
    prose = re.sub(
        r"^```.*?^```|^    .*?$|<!--.*?-->|`[^`]*`|\[[^\]]*\]\([^)]*\)|arXiv [\d.]+",
        "",
        prose,
        flags=re.M | re.S,
    )
    assert_printed(prose.partition("## Further reading")[0], printed_values(number))


@every_lesson
def test_the_overview_has_the_results_that_the_runs_print(number):
    overview = (LESSONS / "README.md").read_text(encoding="utf-8")
    link = re.escape(f"| [{number}]({course.NAMES[number - 1]}/README.md) |")
    (row,) = re.findall(rf"^{link}(.*)\| [\d.]+ \|$", overview, flags=re.MULTILINE)
    assert_printed(row, printed_values(number))


def test_the_overview_installs_what_runs_plots_and_exercises_need():
    overview = (LESSONS / "README.md").read_text(encoding="utf-8")
    (extra,) = re.findall(r'^pip install -e "\.\[(\w+)\]"$', overview, flags=re.MULTILINE)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = {re.match(r"[\w-]+", line)[0] for line in project["optional-dependencies"][extra]}
    tests = {"pytest", "pytest-xdist", "hypothesis"}
    interop = {"gguf", "tokenizers", "jinja2"}  # of lesson 11
    assert needed == {"numba", "matplotlib"} | tests | interop


SECTIONS = [
    "The wrong way first",
    "The idea",
    "Shapes",
    "By hand",
    "Run it",
    "On a GPU",
    "Exercises",
    "What changed",
    "Further reading",
]
OPTIONAL_SECTION = "Second evening"  # advanced parts; anywhere between the others


@every_lesson
def test_a_text_has_its_question_its_plot_and_its_sections_in_order(number):
    main = definitions(parse(folder(number) / "__main__.py"))["main"]
    question = ast.get_docstring(main)
    assert f"**{question}**" in text(number)
    assert question in (LESSONS / "README.md").read_text(encoding="utf-8")
    assert "(plot.png)" in text(number)
    found = re.findall(r"^## (.*)$", text(number), flags=re.MULTILINE)
    assert [name for name in found if name != OPTIONAL_SECTION] == SECTIONS


@every_lesson
def test_every_command_in_a_text_and_its_options_exist(number):
    for command in script("readme_commands").commands(text(number)):
        words = shlex.split(command)
        if words[:2] == ["python", "-m"]:
            assert words[2] == f"lessons.{course.NAMES[number - 1]}"
            course.make_parser(number).parse_args(words[3:])
        elif words[0] == "pytest":
            assert all((ROOT / word).is_file() for word in words[1:] if not word.startswith("-")), (
                command
            )
        elif words[0] == "minimtp":
            make_parser().parse_args(words[1:])
        else:
            assert words[:2] == ["pip", "install"], (
                f"{command!r}: only python -m lessons..., minimtp, pytest and pip install are "
                "allowed in a lesson's text"
            )


def script(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / ".ci" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "path", sorted(LESSONS.rglob("README.md")), ids=lambda path: path.parent.name
)
def test_links_lead_to_existing_files(path):
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (path.parent / target).exists(), target


@every_lesson
def test_tests_and_test_selections_that_a_text_names_exist(number):
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")]
    for name in re.findall(r"`(test_\w+)`", text(number)):
        assert any(f"def {name}(" in source for source in sources), name
    own = "".join((ROOT / file).read_text(encoding="utf-8") for file in exercise_tests(number))
    words = re.sub(r"[^\w-]", " ", own + " ".join(exercise_tests(number))).split()
    for selection in re.findall(r"`-k (?:\"([^\"]+)\"|(\S+))`", text(number)):
        for word in set("".join(selection).split()) - {"and", "or", "not"}:
            assert any(word in name for name in words), f"-k {word} selects no test"
