"""Every public function accepts what a caller may reasonably give, and refuses the rest with one
sentence that names the argument.

A catalogue of odd values is given to every argument of every public function, one at a time. Each
call returns the right result or raises UserError. Nothing else may happen: no traceback from the
inside, no warning, no text that differs.
"""

import inspect
import itertools
import re
import warnings
from pathlib import Path

import pytest

import minimtp
from minimtp.backend import numpy as np
from minimtp.errors import UserError
from tests.helpers.odd_values import ALIKE, ODD, Unprintable

PROMPT = "the fox"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a text and a small trained run."""
    made = tmp_path_factory.mktemp("public-api")
    made.joinpath("text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 40)
    minimtp.train(recipe(), [made / "text.txt"], made / "run", device="cpu", report=str)
    return made


@pytest.fixture(scope="module")
def run(folder):
    return minimtp.load(folder / "run")


def recipe(**changes):
    settings = dict(
        context_length=32, num_layers=1, hidden_size=32, num_heads=2, num_kv_heads=1,
        intermediate_size=32, tokens=64, batch_size=2, heads="token_conditioned", draft_depth=2,
        evaluation_tokens=0,
    )  # fmt: skip
    return minimtp.Recipe(**(settings | changes))


def text(**arguments):
    return list(minimtp.generate(**arguments))


def text_of_decoder(loaded, draft, context_length=None, threads=None, kv_cache="float32"):
    decoder = minimtp.Decoder(loaded, draft, context_length, threads, kv_cache)
    return list(decoder.generate(PROMPT, max_new_tokens=4))


def text_of_draft(loaded, **arguments):
    return text_of_decoder(loaded, minimtp.DraftConfig(**arguments))


def next_text(decoder, **arguments):
    return list(decoder.generate(**arguments))


def next_batch(decoder, **arguments):
    # How the rows alternate depends on the drafts of their rounds.
    return sorted(decoder.generate_batch(**arguments), key=lambda row_and_token: row_and_token[0])


def evaluated(**arguments):
    return minimtp.evaluate(**arguments)


def exported(**arguments):
    return minimtp.export(**arguments).types


def quantized(**arguments):
    return minimtp.quantize(**arguments).packed


def trained(**arguments):
    return minimtp.train(**arguments).step


def loaded_model(path, model, tokenizer):
    return text_of_decoder(minimtp.LoadedModel(path, model, tokenizer), minimtp.DraftConfig())


def start(folder, **arguments):
    where = minimtp.Start(**arguments)
    return trained(
        recipe=None if where.resume else recipe(),
        corpus=[folder / "text.txt"],
        out="started",
        start=where,
        stop_at_step=1,
        device="cpu",
        report=str,
    )


TEXT_OPTIONS = dict(
    max_new_tokens=4, sampling=minimtp.SamplingParams(0.8), seed=3, stop=(), repetition_penalty=1.1
)
# For each public function: how the test calls it, the arguments under test with valid values, and
# the other arguments. "run", "folder" and "decoder" stand for the fixtures.
CALLS = {
    "load": (minimtp.load, dict(path="run", device="cpu", dequantize=False), {}),
    "generate": (
        text, dict(loaded="run", prompt=PROMPT, **TEXT_OPTIONS, draft=minimtp.DraftConfig()), {},
    ),
    "Decoder": (
        text_of_decoder,
        dict(
            loaded="run", draft=minimtp.DraftConfig(), context_length=24, threads=1,
            kv_cache="float16",
        ), {},
    ),
    "Decoder.generate": (
        next_text, dict(prompt=PROMPT, **TEXT_OPTIONS), dict(decoder="decoder"),
    ),
    "Decoder.generate_batch": (
        next_batch, dict(prompts=[PROMPT, "a dog"], **TEXT_OPTIONS), dict(decoder="decoder"),
    ),
    "DraftConfig": (
        text_of_draft,
        dict(drafter="heads", length=2, min_confidence=0.1, tree=2, rule="token", memory=9),
        dict(loaded="run"),
    ),
    "SamplingParams": (
        lambda **arguments: minimtp.SamplingParams(**arguments).probabilities(LOGITS).tolist(),
        dict(temperature=0.7, top_k=3, top_p=0.9),
        {},
    ),
    "LoadedModel": (loaded_model, dict(path="run", model="model", tokenizer="tokenizer"), {}),
    "Recipe": (lambda **a: minimtp.Recipe(**a).steps, minimtp.Recipe().to_dict(), {}),
    "Start": (
        start,
        dict(
            resume=False, start_from=None, continue_schedule=False, teacher=None,
            quantized_start=None, self_generated=None, tokenizer=None,
        ),
        dict(folder="folder"),
    ),
    "evaluate": (
        evaluated,
        dict(
            run="run", corpus=["text.txt"], tokens=64, threads=1, context_length=16, against="run",
            kv_cache="int8",
        ),
        {},
    ),
    "load_draft": (minimtp.load_draft, dict(path="run", target="run"), {}),
    "export": (
        exported,
        dict(loaded="run", path="model", dtype="float32", draft=None, draft_format=None), {},
    ),
    "quantize": (
        quantized,
        dict(
            run="run", out="packed", grid="q8_0", method="rtn", head_grid="q8_0",
            embedding_grid="q8_0", calibration=(), context_length=16, report=str, encoding=None,
        ),
        {},
    ),
    "train": (
        trained,
        dict(
            recipe=recipe(), corpus=["text.txt"], out="trained", start=None, stop_at_step=1,
            device="cpu", threads=1, report=str, encoding=None, disk_gb=1.0,
        ),
        {},
    ),
}  # fmt: skip
# Words that name an argument in a message, besides its name.
ALSO_CALLED = {
    "drafter": ["draft"],
    "prompts": ["prompt"],
    "head_grid": ["grid"],
    "embedding_grid": ["grid"],
}
LOGITS = np.array([[0.3, 2.0, -1.0, 0.0]], np.float32)
EACH_ARGUMENT = [(name, argument) for name, (_, given, _) in CALLS.items() for argument in given]


def test_the_test_calls_every_public_function_with_every_argument():
    assert CALLS.keys() >= {*minimtp.__all__} - {"UserError"}
    for name, (_, given, others) in CALLS.items():
        function = minimtp
        for part in name.split("."):
            function = getattr(function, part)
        known = {*given, *others, "self"}
        assert known >= inspect.signature(function).parameters.keys(), name


@pytest.fixture
def call(run, folder, tmp_path, monkeypatch):
    """call(name, argument, value) -> ("result", ...) or ("refused", message)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("minimtp.training.run.loop.draw_losses", lambda folder: None)  # slow
    Path("text.txt").write_bytes(folder.joinpath("text.txt").read_bytes())
    stand_for = {
        "run": run, "folder": folder, "model": run.model, "tokenizer": run.tokenizer,
        "decoder": minimtp.Decoder(run),
    }  # fmt: skip

    def call(name, argument, value):
        function, given, others = CALLS[name]
        arguments = {key: _stands_for(key, old, stand_for) for key, old in given.items()}
        if name in ("load", "load_draft"):
            arguments["path"] = folder / "run"
        others = {key: stand_for[old] for key, old in others.items()}
        before = {path.name for path in tmp_path.iterdir()}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                return "result", function(**others, **(arguments | {argument: value}))
        except UserError as error:
            return "refused", str(error)
        finally:
            _remove_new(tmp_path, before)

    return call


def _stands_for(key, old, stand_for):
    if key in ("loaded", "run", "model", "tokenizer", "against", "target"):
        return stand_for.get(old, old)
    return old


def _remove_new(folder, before):
    import shutil

    for path in folder.iterdir():
        if path.name not in before:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def described(value):
    return type(value).__name__ if isinstance(value, Unprintable) else ascii(value)[:60]


@pytest.mark.parametrize(("name", "argument"), EACH_ARGUMENT, ids=str)
def test_an_odd_value_gives_a_result_or_one_sentence_that_names_the_argument(call, name, argument):
    wrong = []
    for value in ODD:
        try:
            kind, found = call(name, argument, value)
        except BaseException as error:  # noqa: BLE001 (anything but UserError is a fault)
            wrong.append(f"{described(value)}: {type(error).__name__}: {ascii(str(error))[:150]}")
            continue
        if kind == "refused":
            words = re.sub("[-_]", " ", found)
            shown = "" if isinstance(value, Unprintable) else ascii(str(value))[1:31].strip("'")
            names = [re.sub("[-_]", " ", argument), *ALSO_CALLED.get(argument, ())]
            named = any(name in words.lower() for name in names) or (shown and shown in found)
            named = named or value is None  # the default, which another argument contradicts
            if not named or len(found) > 300 or "\n" in found:
                wrong.append(f"{described(value)} is refused with {ascii(found)[:330]}")
    assert not wrong, "\n".join(["", *wrong])


@pytest.mark.parametrize(("name", "argument"), EACH_ARGUMENT, ids=str)
def test_numpy_numbers_and_other_forms_of_a_value_are_treated_like_the_plain_value(
    call, name, argument
):
    wrong, results = [], {}
    for odd, plain in ALIKE:
        if repr(plain) not in results:
            results[repr(plain)] = call(name, argument, plain)
        found, expected = call(name, argument, odd), results[repr(plain)]
        if found[0] != expected[0] or (
            found[0] == "result" and not _equal(*found[1:], *expected[1:])
        ):
            wrong.append(f"{odd!r}: {found}\n{plain!r}: {expected}")
    assert not wrong, "\n".join(["", *wrong])


@pytest.mark.parametrize("rule", ["shared-noise", "token"])
@pytest.mark.parametrize(
    "make",
    [
        lambda value: value,
        lambda value: (value, None),
        lambda value: ([value], None),
        lambda value: ([1, 2], value),
        lambda value: ([1, 2, 3, 4], None),
    ],
    ids=["answer", "drafts", "draft", "scores", "too many"],
)
def test_an_odd_answer_of_a_draft_function_gives_the_text_without_drafts_or_one_sentence(
    run, make, rule
):
    """An answer that can be used changes no greedy text."""
    wrong = []
    expected = text(loaded=run, prompt=PROMPT, draft=None, max_new_tokens=6)
    for value in [*ODD, np.zeros((2, 257), np.float32), np.zeros((1, 257)), np.zeros((2, 256))]:
        config = minimtp.DraftConfig(lambda *_, value=value: make(value), length=2, rule=rule)
        try:
            found = text(loaded=run, prompt=PROMPT, draft=config, max_new_tokens=6)
            if found != expected:
                wrong.append(f"{described(value)} gives {found}")
        except UserError as error:
            if "of the draft function must be" not in str(error):
                wrong.append(f"{described(value)} is refused with {error}")
        except Exception as error:
            wrong.append(f"{described(value)}: {type(error).__name__}: {error}")
    assert not wrong, "\n".join(["", *wrong])


def test_a_recipe_made_from_anything_but_settings_by_name_is_refused():
    for value in (None, 5, "tokens", [("tokens", 1)], {1}, b"x"):
        with pytest.raises(UserError, match="a recipe's values must be settings by name, not"):
            minimtp.Recipe.from_dict(value)
    with pytest.raises(UserError, match="unknown recipe key '5'"):
        minimtp.Recipe.from_dict({5: 1})


def test_a_list_that_never_ends_is_refused(run, monkeypatch):
    monkeypatch.setattr("minimtp.arguments.MAX_PARTS", 1000)
    with pytest.raises(UserError, match="stop has more than 1,000 values"):
        minimtp.generate(run, PROMPT, stop=itertools.repeat("a"))
    with pytest.raises(UserError, match="prompts has more than 1,000 values"):
        minimtp.Decoder(run).generate_batch(itertools.repeat(PROMPT))


def _equal(a, b):
    if isinstance(a, minimtp.LoadedModel):
        return a.path == b.path
    return a == b
