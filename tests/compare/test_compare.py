"""The comparison: what is trained, what is measured, what is claimed, and what is done again."""

import json
import shutil
from unittest.mock import Mock

import pytest

from minimtp import machine
from minimtp.backend import numpy as np
from minimtp.bench import interleaved
from minimtp.bench.agreement import Agreement, check_greedy_texts
from minimtp.bench.interleaved import Run, Variant, measure_interleaved, tune
from minimtp.cli import main
from minimtp.compare import claims, compare
from minimtp.decode.sampling import GREEDY
from minimtp.decode.statistics import Statistics
from minimtp.errors import UserError
from minimtp.training import checkpoint
from minimtp.training.data.corpus import open_corpus
from minimtp.training.interrupt import Interrupted
from minimtp.training.presets import preset
from minimtp.training.run import train
from minimtp.training.schedule import decay_start, heads_are_detached

NAMES = ["standard", "mtp", "mtp_qat_int4", "mtp_int4_rounded"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A whole comparison with the smallest preset, drafting the same on every machine: its folder and its result."""
    out = tmp_path_factory.mktemp("compare")

    def without_the_clock(variant, depths, confidences, *rest):
        tune(variant, depths[:1], confidences[:1], *rest)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(compare, "tune", without_the_clock)
        return out, compare.run("tiny", out, threads=2, report=lambda line: None)


def test_the_file_holds_every_column_of_every_configuration(finished):
    out, _ = finished
    result = json.loads((out / "compare.json").read_text())
    assert [c["name"] for c in result["configurations"]] == NAMES
    for configuration in result["configurations"]:
        for _, key, _ in claims.COLUMNS:
            assert configuration[key] > 0
        assert configuration["greedy_texts"]["equal"] + configuration["greedy_texts"]["ties"] == 2
    assert {"claims", "device", "corpus", "recipe", "preset"} <= result.keys()
    assert (result["device"]["threads"], result["decode_threads"]) == (2, 1)
    assert (
        result["machine"].items() >= machine.versions().items() and "processor" in result["machine"]
    )
    assert ("numba" in result["machine"]) == (result["device"]["kernels"] == "cpu")
    standard, mtp, qat, rounded = result["configurations"]
    assert standard["speedup"] == standard["tokens_per_step"] == 1.0
    assert standard["bits_per_weight"] == mtp["bits_per_weight"] == 32.0
    assert qat["weight_bytes"] == rounded["weight_bytes"] < mtp["weight_bytes"] / 4
    assert mtp["tokens_per_step"] > 1.0


def test_the_same_command_again_trains_and_measures_nothing_and_says_the_same(
    finished, monkeypatch
):
    out, result = finished
    monkeypatch.setattr(
        compare, "train", lambda *arguments, **options: pytest.fail("trained again")
    )
    monkeypatch.setattr(
        compare, "measure_interleaved", lambda *arguments, **options: pytest.fail("measured again")
    )
    lines = []
    again = compare.run("tiny", out, threads=2, report=lines.append)
    assert (
        again["configurations"]
        == json.loads(json.dumps(compare._without_nan(result)))["configurations"]
    )
    assert "MTP + QAT int4" in "\n".join(lines)


def test_figures_that_are_finished_are_not_measured_again_after_an_interruption(
    finished, tmp_path, monkeypatch
):
    shutil.copytree(finished[0], tmp_path / "compare")
    (tmp_path / "compare" / "compare.json").unlink()
    raced = []

    def interrupted(variants, prompts, *, law, **options):
        raced.append(law.temperature)
        if law.temperature == 1.0 and raced.count(1.0) == 1:
            raise KeyboardInterrupt
        return measure_interleaved(variants, prompts, sampling=law, **options)

    monkeypatch.setattr(compare, "measure_interleaved", interrupted)
    with pytest.raises(KeyboardInterrupt):
        compare.run("tiny", tmp_path / "compare", threads=2, report=lambda line: None)
    assert raced == [0.0, 1.0]
    monkeypatch.setattr(
        compare, "evaluate", lambda *arguments, **options: pytest.fail("evaluated again")
    )
    kept = tmp_path / "compare" / "measured.json"
    kept.write_text(json.dumps(json.loads(kept.read_text()) | {"seconds": 1e6}))
    assert (
        compare.run("tiny", tmp_path / "compare", threads=2, report=lambda line: None)["seconds"]
        > 1e6
    )
    assert raced == [0.0, 1.0, 1.0]
    assert not (tmp_path / "compare" / "measured.json").exists()


@pytest.mark.parametrize(("load", "warned"), [(None, False), (0.2, False), (2.0, True)])
def test_a_busy_machine_is_told_of_before_anything_is_trained(load, warned, tmp_path, monkeypatch):
    monkeypatch.setattr(compare.machine, "load", lambda: load)
    monkeypatch.setattr(compare, "trained", Mock(side_effect=KeyboardInterrupt))
    lines = []
    with pytest.raises(KeyboardInterrupt):
        compare.run("tiny", tmp_path, report=lines.append)
    assert ("busy" in lines[0]) == warned


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"setting": 1, "parts": {"memory": {}}}'])
def test_kept_figures_that_are_damaged_or_of_another_setting_are_measured_again(content, tmp_path):
    (tmp_path / "measured.json").write_text(content)
    assert compare._Kept(tmp_path / "measured.json", {"preset": "tiny"}).figures(
        "memory", lambda: {"mtp": 1}
    ) == {"mtp": 1}


def test_parts_that_are_finished_are_not_trained_again_after_an_interruption(
    finished, tmp_path, monkeypatch
):
    steps = []
    original = compare.train

    def interrupted(recipe, text, out, **options):
        steps.append(out.name)
        if out.name == "mtp_qat" and steps.count("mtp_qat") == 1:
            raise Interrupted(out, 3, recipe.steps)
        return original(recipe, text, out, **options)

    monkeypatch.setattr(compare, "train", interrupted)
    with pytest.raises(KeyboardInterrupt, match="the same command goes on from there"):
        compare.run("tiny", tmp_path, threads=2, report=lambda line: None)
    before = (tmp_path / "mtp" / "checkpoint.safetensors").stat().st_mtime_ns
    result = compare.run("tiny", tmp_path, threads=2, report=lambda line: None)
    assert (tmp_path / "mtp" / "checkpoint.safetensors").stat().st_mtime_ns == before
    for mine, other in zip(result["configurations"], finished[1]["configurations"], strict=True):
        assert mine["bits_per_byte"] == other["bits_per_byte"]


def test_the_standard_configuration_is_bit_for_bit_what_training_the_preset_gives(
    finished, tmp_path
):
    recipe = preset("tiny")
    train(recipe, open_corpus(), tmp_path / "alone", threads=2, report=lambda line: None)
    alone, branch = checkpoint.read(tmp_path / "alone"), checkpoint.read(finished[0] / "standard")
    assert alone.parameters.keys() == branch.parameters.keys()
    for name, array in alone.parameters.items():
        assert array.tobytes() == branch.parameters[name].tobytes(), name


def test_another_recipe_or_a_damaged_result_is_refused_and_left_alone(finished):
    out, _ = finished
    content = (out / "compare.json").read_bytes()
    with pytest.raises(UserError, match="a comparison with other recipes"):
        compare.run("tiny", out, threads=2, seed=5, report=lambda line: None)
    assert (out / "compare.json").read_bytes() == content
    try:
        (out / "compare.json").write_text("{")
        with pytest.raises(UserError, match="damaged, .* delete it"):
            compare.run("tiny", out, threads=2, report=lambda line: None)
    finally:
        (out / "compare.json").write_bytes(content)


class Counting:
    """A target that says that token t is followed by t + 1, and counts what it is fed; a twin may be wrong at a place."""

    vocabulary_size, context_length, max_rows = 50, 40, 40

    def __init__(self, wrong_at=None, margin=1.0):
        self.tokens, self.wrong_at, self.margin = [], wrong_at, margin

    @property
    def length(self):
        return len(self.tokens)

    def truncate(self, length):
        del self.tokens[length:]

    def forward(self, tokens):
        start = len(self.tokens)
        self.tokens += tokens.tolist()
        logits = np.zeros((len(tokens), self.vocabulary_size))
        for row, token in enumerate(tokens):
            logits[row, (token + 1) % self.vocabulary_size] = 1.0
            if start + row == self.wrong_at and len(tokens) > 1:
                logits[row, 0] = 1.0 + self.margin
            elif start + row == self.wrong_at:
                logits[row, 0] = 1.0 - self.margin
        return measure_step(logits)


def measure_step(logits):
    class Step:
        hidden = None

    Step.logits = logits
    return Step


class Knowing:
    """A drafter that is always right about a counting target."""

    max_depth, min_confidence, reads_hidden = 4, 0.0, False

    def reset(self, first_token):
        self.last = first_token

    def commit(self, hidden, tokens):
        self.last = int(tokens[-1])

    def draft(self, depth, rule):
        return [(self.last + 1 + i) % Counting.vocabulary_size for i in range(depth)], None


PROMPTS = [np.array([1, 2]), np.array([7, 8, 9])]


def test_a_race_gives_each_contestant_every_prompt_and_counts_its_steps():
    variants = [Variant("plain", Counting()), Variant("drafting", Counting(), Knowing(), 4)]
    turns = []
    speeds = measure_interleaved(
        variants, PROMPTS, max_new_tokens=11, sampling=GREEDY, repeats=3, progress=turns.append
    )
    assert sum(turns) == 2 * 2 * 3
    assert speeds["plain"].texts == speeds["drafting"].texts == [[*range(1, 14)], [*range(7, 21)]]
    assert speeds["plain"].tokens_per_step == 1.0
    assert speeds["drafting"].tokens_per_step == 5.0
    assert speeds["drafting"].acceptance == [1.0] * 4
    assert np.shape(speeds["drafting"].rates) == (3, 2)


def test_equal_texts_agree():
    variant = Variant("drafting", Counting(), Knowing(), 4)
    texts = measure_interleaved([variant], PROMPTS, max_new_tokens=11, sampling=GREEDY, repeats=1)[
        "drafting"
    ].texts
    agreement = check_greedy_texts(variant, PROMPTS, texts, allow_ties=False)
    assert (agreement.texts, agreement.equal, agreement.ties, agreement.wrong) == (2, 2, 0, [])


@pytest.mark.parametrize(("margin", "tie"), [(1e-6, True), (0.5, False)])
def test_a_text_that_parts_is_a_tie_only_where_the_two_best_logits_are_equal_up_to_rounding(
    margin, tie
):
    variant = Variant("drafting", Counting(wrong_at=6, margin=margin), Knowing(), 4)
    texts = measure_interleaved(
        [variant], PROMPTS[:1], max_new_tokens=11, sampling=GREEDY, repeats=1
    )["drafting"].texts
    agreement = check_greedy_texts(variant, PROMPTS[:1], texts, allow_ties=True)
    assert (agreement.equal, agreement.ties, len(agreement.wrong)) == (0, int(tie), int(not tie))
    agreement = check_greedy_texts(variant, PROMPTS[:1], texts, allow_ties=False)
    assert (agreement.equal, agreement.ties, len(agreement.wrong)) == (0, 0, 1)
    assert "token 7 of a text" in agreement.wrong[0]


def test_a_text_that_differs_from_plain_decoding_is_told_with_exit_code_1_each_time_and_the_figures_are_written(
    finished, monkeypatch, tmp_path, capsys
):
    def parted(variant, prompts, texts, allow_ties):
        return Agreement(
            2, 1, 0, [f"{variant.name}: token 9 of a text is 1, plain decoding gives 2"]
        )

    shutil.copytree(finished[0], tmp_path / "copy")
    (tmp_path / "copy" / "compare.json").unlink()
    monkeypatch.setattr(compare, "check_greedy_texts", parted)
    for _ in range(2):  # what was found is not forgotten when it is asked for again
        assert (
            main(["compare", "--preset", "tiny", "--threads", "2", "--out", str(tmp_path / "copy")])
            == 1
        )
        assert "standard: token 9 of a text is 1" in capsys.readouterr().err
        assert (tmp_path / "copy" / "compare.json").is_file()


def test_a_text_too_short_to_measure_on_is_refused_before_anything_is_written(tmp_path):
    (tmp_path / "short.txt").write_text("too short " * 200)
    with pytest.raises(UserError, match="too short|longer text"):
        compare.run("quick", tmp_path / "out", corpus=[tmp_path / "short.txt"])
    assert not (tmp_path / "out").exists()


def test_tuning_chooses_the_fastest_way_to_draft(monkeypatch):
    rates = {(4, 0.0): 10.0, (4, 0.5): 30.0, (2, 0.0): 20.0, (2, 0.5): 5.0}

    def run_once(variant, prompt, max_new_tokens, sampling, seed, policy):
        seconds = 1 / rates[variant.draft_depth, variant.min_confidence]
        return Run([], 1, seconds, Statistics(emitted=2, steps=1))

    monkeypatch.setattr(interleaved, "run_once", run_once)
    variant = Variant("drafting", Counting(), Knowing(), 4)
    tune(variant, (4, 2), (0.0, 0.5), PROMPTS, 11, GREEDY)
    assert (variant.draft_depth, variant.min_confidence) == (4, 0.5)


MEASURED = {
    "standard": {"weight_bytes": 3200, "quality_percent": 100.0, "speedup": 1.0, "speedup_t1": 1.0},
    "mtp": {"weight_bytes": 3400, "quality_percent": 99.9, "speedup": 2.0, "speedup_t1": 1.5},
    "mtp_qat_int4": {
        "weight_bytes": 500,
        "quality_percent": 98.0,
        "speedup": 6.0,
        "speedup_t1": 2.5,
    },
    "mtp_int4_rounded": {
        "weight_bytes": 500,
        "quality_percent": 97.0,
        "speedup": 6.0,
        "speedup_t1": 2.5,
    },
}


def test_memory_is_told_in_terms_of_weights_and_cache():
    configurations = [
        {"peak_memory_bytes": peak, "weight_bytes": 80, "cache_bytes": 20}
        for peak in (103, 119, 110)
    ]
    assert claims.memory(configurations).endswith(" 1.03 to 1.19 times weights and cache")


def test_claims_are_judged_by_their_own_ranges():
    judged = {claim.statement: claim for claim in claims.judge(MEASURED)}
    held = {statement for statement, claim in judged.items() if claim.held}
    assert held == {
        "MTP decodes 1.8x-2.5x faster (temperature 0)",
        "MTP + QAT int4 decodes 3x-5x faster (temperature 0)",
        "MTP has equal quality (99 % or more)",
        "MTP + QAT int4 keeps 96-99 % of the quality",
        "MTP + QAT int4 weighs a third to a quarter of 16-bit weights (heads included)",
        "int4 by rounding only loses more than QAT",
    }
    assert (
        "short of 1.8 by 0.30" in judged["MTP decodes 1.8x-2.5x faster (temperature 1)"].describe()
    )
    assert "beyond 5" in judged["MTP + QAT int4 decodes 3x-5x faster (temperature 0)"].describe()
    assert "less than 5" in judged["int4 by rounding only loses 5-15 % of the quality"].describe()


def test_rounding_that_loses_less_than_training_through_it_is_said_to():
    measured = MEASURED | {
        "mtp_int4_rounded": MEASURED["mtp_int4_rounded"] | {"quality_percent": 98.5}
    }
    claim = next(c for c in claims.judge(measured) if c.statement.endswith("more than QAT"))
    assert not claim.held


def test_the_recipes_differ_in_heads_and_rounding_only():
    wanted = compare.recipes(preset("quick"))
    assert not {name for name in wanted["standard"].differences(wanted["mtp"])} - {
        "heads", "draft_depth", "head_loss_weight", "final_head_loss_weight", "head_stride", "head_targets", "detach_until",
    }  # fmt: skip
    assert wanted["mtp"].differences(wanted["mtp_qat_int4"]) == ["quantization", "quantize_from"]
    for recipe in wanted.values():
        start = decay_start(recipe)
        assert recipe.first_quantized_step in (None, start)
        assert (
            recipe.heads == "none"
            or heads_are_detached(recipe, start - 1)
            and not heads_are_detached(recipe, start)
        )
