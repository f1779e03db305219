"""An option that changes nothing together with the others is named in one line, with the reason."""

import pytest

from minimtp import kernels
from minimtp.cli import main, make_parser
from minimtp.cli.parser import given
from minimtp.training.recipe import SETTINGS, Recipe
from minimtp.training.run import checkpoint
from tests.cli.helpers import SMALL, refused

GENERATE = "generate run --prompt roses --max-new-tokens 4".split()
PLAIN = ["generate", "plain", *GENERATE[2:]]
TRAIN = ["train", *SMALL, "--corpus", "poem.txt", "--out", "new", "--stop-at-step", "1"]


@pytest.fixture(autouse=True)
def automatic_kernels():
    """Undo what --kernels has chosen."""
    yield
    kernels.use("auto")


@pytest.fixture
def plain(trained):
    """A run without prediction heads, in the current folder."""
    assert main(["train", *SMALL, "--corpus", "poem.txt", "--out", "plain"]) == 0


@pytest.mark.usefixtures("run", "plain")
@pytest.mark.parametrize(
    ("command", "line"),
    [
        ([*PLAIN, "--tree", "3"], "--tree has no effect: this model has no prediction heads"),
        ([*PLAIN, "--draft", "heads"], "--draft has no effect: this model has no prediction heads"),
        (
            [*PLAIN, "--draft-confidence", "0.5", "--tree", "2"],
            "--draft-confidence, --tree have no effect: this model has no prediction heads",
        ),
        (
            [*GENERATE, "--draft", "none", "--tree", "3"],
            "--tree has no effect: nothing is drafted with --draft none",
        ),
        (
            [*GENERATE, "--draft-length", "0", "--tree", "3"],
            "--tree has no effect: nothing is drafted with --draft-length 0",
        ),
        (
            [*GENERATE, "--draft", "ngram", "--draft-confidence", "0.5"],
            "--draft-confidence has no effect: this drafter never ends a draft early",
        ),
        (
            [*PLAIN, "--draft", "combined", "--draft-confidence", "0.5"],
            "--draft-confidence has no effect: this drafter never ends a draft early",
        ),
        (
            [*GENERATE, "--top-k", "5", "--seed", "3", "--rule", "block"],
            "--top-k, --seed, --rule have no effect: at temperature 0",
        ),
        (
            [*PLAIN, "--threads", "2", "--kernels", "plain"],
            "--threads has no effect: only compiled kernels compute a pass of this model",
        ),
        ([*TRAIN, "--head-loss-decay", "0.5"], "--head-loss-decay has no effect: the model has no"),
        ([*TRAIN, "--weight-grid", "q8_0"], "--weight-grid has no effect: needs --quantization"),
        (
            [*TRAIN, "--step-learning-rate-factor", "20"],
            "--step-learning-rate-factor has no effect: no steps are trained (see --weight-scales)",
        ),
        ([*TRAIN[:-1], "10"], "--stop-at-step has no effect: the run ends at step 10 anyway"),
        (
            ["quantize", "run", "--context", "8", "--out", "int4"],
            "--context has no effect: method rtn reads no calibration text",
        ),
        (["plan", "--claims", "--batch", "3"], "--batch has no effect: --claims plans nothing"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_option_without_effect_is_named_with_the_reason(capsys, command, line):
    assert main(command) == 0
    said = capsys.readouterr().err
    assert said.count("no effect") == 1
    assert f"minimtp: {line}" in said


@pytest.mark.usefixtures("run")
@pytest.mark.parametrize(
    "command",
    [
        GENERATE,
        [*GENERATE, "--draft", "none"],
        [*GENERATE, "--tree", "3", "--draft-confidence", "0.5"],
        [*GENERATE, "--temperature", "1", "--top-k", "5", "--seed", "3"],
        [*GENERATE, "--top-k", "0", "--encoding", "cp1251", "--prompts", "short.txt"],
        TRAIN,
        ["quantize", "run", "--method", "gptq", "--context", "8", "--out", "int4"],
        ["plan", "--claims", "--json"],
    ],
    ids=" ".join,
)
def test_options_with_an_effect_are_not_mentioned(capsys, command):
    assert main(command) == 0
    assert "no effect" not in capsys.readouterr().err


@pytest.mark.usefixtures("run")
@pytest.mark.parametrize("name", ["learning_rate", "weight_decay", "seed", "tokens", "num_layers"])
def test_a_resumed_run_names_the_setting_that_was_given(capsys, name):
    default = SETTINGS[name].default
    value = str(default * 2 if default else 7)
    option = "--" + name.replace("_", "-")
    sentence = refused(capsys, "train", "--out", "run", "--resume", option, value)
    assert f"the run in run has {name} " in sentence and f", not {value}" in sentence


def test_settings_that_a_resumed_run_has_already_may_be_repeated(run):
    assert (
        main(
            "train --out run --resume --context-length 16 --preset tiny --tokens 640".split()
            + ["--evaluation-tokens", "256", "--heads", "token_conditioned", "--draft-depth", "3"]
        )
        == 0
    )
    assert main("train --out run --resume --context-length 16 --tokens 640".split()) == 0


def test_a_resumed_run_is_noted_to_end_where_its_own_recipe_ends(capsys, run):
    """The step of the run, not of a run with the default settings."""
    steps = checkpoint.read(run, optimizer=False).recipe.steps
    assert main(["train", "--out", "run", "--resume", "--stop-at-step", str(steps - 1)]) == 0
    assert "no effect" not in capsys.readouterr().err
    assert main(["train", "--out", "run", "--resume", "--stop-at-step", str(steps + 1)]) == 0
    assert f"the run ends at step {steps} anyway" in capsys.readouterr().err


def test_an_option_counts_as_given_if_it_differs_from_its_default():
    options = make_parser().parse_args([*TRAIN, "--learning-rate", "0.5", "--device", "auto"])
    expected = ["--preset", "--corpus", "--out", "--stop-at-step", "--context-length"]
    assert set(given(options)) >= {*expected, "--learning-rate"}
    assert "--device" not in given(options)
    assert Recipe().learning_rate != 0.5
