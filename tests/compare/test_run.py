"""`minimtp compare` saves its results, continues after an interruption, and refuses bad input."""

import json
import shutil
from unittest.mock import Mock

import pytest

from minimtp import machine
from minimtp.bench.interleaved import measure_interleaved
from minimtp.cli import main
from minimtp.compare import configurations, measurement, report, run
from minimtp.errors import UserError
from minimtp.records import without_nan
from minimtp.training.data.corpus import open_corpus
from minimtp.training.presets import preset
from minimtp.training.run import checkpoint
from minimtp.training.run.interrupt import Interrupted
from minimtp.training.run.train import train

NAMES = ["standard", "mtp", "mtp_qat_int4", "mtp_int4_rounded"]


def compare(out, report=lambda line: None, **options):
    return run.compare("tiny", out, threads=2, report=report, **options)


def fail(*arguments, **options):
    pytest.fail("finished work was repeated")


def test_the_file_holds_all_results_of_all_configurations(finished):
    out, _ = finished
    result = json.loads((out / "compare.json").read_text())
    assert [c["name"] for c in result["configurations"]] == NAMES
    for configuration in result["configurations"]:
        for columns in (report.SUMMARY, *report.DECODING.values(), report.MODELS):
            assert all(cell(configuration) for _, cell in columns)
        assert configuration["greedy_texts"]["equal"] + configuration["greedy_texts"]["ties"] == 2
    assert {"claims", "device", "corpus", "recipe", "preset"} <= result.keys()
    assert (result["device"]["threads"], result["decode_threads"]) == (2, 1)
    assert result["machine"].items() >= machine.versions().items()
    assert "processor" in result["machine"]
    assert ("numba" in result["machine"]) == (result["device"]["kernels"] == "cpu")


def test_mtp_emits_more_tokens_per_step_and_int4_weights_take_less_than_a_quarter_of_the_bytes(
    finished,
):
    standard, mtp, qat, rounded = finished[1]["configurations"]
    assert standard["speedup"] == standard["tokens_per_step"] == 1.0
    assert standard["bits_per_weight"] == mtp["bits_per_weight"] == 32.0
    assert qat["weight_bytes"] == rounded["weight_bytes"] < mtp["weight_bytes"] / 4
    assert mtp["tokens_per_step"] > 1.0


def test_the_same_command_shows_a_finished_result_without_training_or_measuring(
    finished, monkeypatch
):
    out, result = finished
    monkeypatch.setattr(configurations, "train", fail)
    monkeypatch.setattr(measurement, "measure_interleaved", fail)
    lines = []
    again = compare(out, lines.append)
    assert again["configurations"] == json.loads(json.dumps(without_nan(result)))["configurations"]
    assert "MTP + QAT int4" in "\n".join(lines)


def test_a_result_of_a_version_that_did_not_measure_without_drafts_is_shown(finished, tmp_path):
    result = json.loads((finished[0] / "compare.json").read_text())
    for configuration in result["configurations"]:
        for name in [key for key in configuration if "without_drafts" in key]:
            del configuration[name]
    (tmp_path / "compare.json").write_text(json.dumps(result))
    again, shown = [], []
    assert compare(tmp_path, shown.append)["configurations"] == result["configurations"]
    compare(finished[0], again.append)
    assert shown[: len(again) - 2] == again[:-2]  # the last two lines name the folder


def test_finished_measurements_are_not_repeated_after_an_interruption(
    finished, tmp_path, monkeypatch
):
    out = tmp_path / "compare"
    shutil.copytree(finished[0], out)
    (out / "compare.json").unlink()
    measured = []

    def interrupted(variants, prompts, *, sampling, **options):
        measured.append(sampling.temperature)
        if measured == [0.0, 1.0]:
            raise KeyboardInterrupt
        return measure_interleaved(variants, prompts, sampling=sampling, **options)

    monkeypatch.setattr(measurement, "measure_interleaved", interrupted)
    with pytest.raises(KeyboardInterrupt):
        compare(out)
    assert measured == [0.0, 1.0]
    monkeypatch.setattr(measurement, "evaluate", fail)
    cache = out / "measured.json"
    cache.write_text(json.dumps(json.loads(cache.read_text()) | {"seconds": 1e6}))
    assert compare(out)["seconds"] > 1e6
    assert measured == [0.0, 1.0, 1.0]
    assert not cache.exists()


def test_finished_training_is_not_repeated_after_an_interruption(finished, tmp_path, monkeypatch):
    trained = []

    def interrupted(recipe, text, out, start, **options):
        trained.append(out.name)
        if out.name == "mtp_qat" and trained.count("mtp_qat") == 1:
            raise Interrupted(out, 3, recipe.steps)
        return train(recipe, text, out, start, **options)

    monkeypatch.setattr(configurations, "train", interrupted)
    with pytest.raises(KeyboardInterrupt, match="run the same command again to resume"):
        compare(tmp_path)
    checkpoint_file = tmp_path / "mtp" / "checkpoint.safetensors"
    before = checkpoint_file.stat().st_mtime_ns
    result = compare(tmp_path)
    assert checkpoint_file.stat().st_mtime_ns == before
    for mine, other in zip(result["configurations"], finished[1]["configurations"], strict=True):
        assert mine["bits_per_byte"] == other["bits_per_byte"]


def test_the_standard_configuration_equals_training_the_preset_bit_for_bit(finished, tmp_path):
    train(preset("tiny"), open_corpus(), tmp_path / "alone", threads=2, report=lambda line: None)
    alone = checkpoint.read(tmp_path / "alone").parameters
    branch = checkpoint.read(finished[0] / "standard").parameters
    assert alone.keys() == branch.keys()
    for name, array in alone.items():
        assert array.tobytes() == branch[name].tobytes(), name


@pytest.mark.parametrize(("load", "warned"), [(None, False), (0.2, False), (2.0, True)])
def test_a_busy_machine_is_reported_before_training(load, warned, tmp_path, monkeypatch):
    monkeypatch.setattr(run.machine, "load", lambda: load)
    monkeypatch.setattr(run, "train_configurations", Mock(side_effect=KeyboardInterrupt))
    lines = []
    with pytest.raises(KeyboardInterrupt):
        compare(tmp_path, lines.append)
    assert ("busy" in lines[0]) == warned


def test_a_folder_with_other_recipes_is_refused_and_left_unchanged(finished):
    out, _ = finished
    content = (out / "compare.json").read_bytes()
    with pytest.raises(UserError, match="a comparison with other settings .recipes"):
        compare(out, seed=5)
    assert (out / "compare.json").read_bytes() == content


def test_a_result_that_is_damaged_or_of_an_earlier_version_is_refused(finished, tmp_path):
    result = json.loads((finished[0] / "compare.json").read_text())
    for configuration in result["configurations"]:
        configuration["top1"] = configuration.pop("next_token_accuracy")
    for content in ("{", "[1]", json.dumps(result)):
        (tmp_path / "compare.json").write_text(content)
        with pytest.raises(UserError, match="delete it to measure again"):
            compare(tmp_path)


def test_a_text_that_differs_from_plain_decoding_exits_with_1_after_the_results_are_written(
    finished, monkeypatch, tmp_path, capsys
):
    sentence = "standard: token 9 of a text is 1, plain decoding gives 2"
    agree = measurement.check_greedy_texts

    def differs(variant, prompts, texts, allow_ties):
        agreement = agree(variant, prompts, texts, allow_ties)
        agreement.wrong = [sentence]
        return agreement

    shutil.copytree(finished[0], tmp_path / "copy")
    (tmp_path / "copy" / "compare.json").unlink()
    monkeypatch.setattr(measurement, "check_greedy_texts", differs)
    command = ["compare", "--preset", "tiny", "--threads", "2", "--out", str(tmp_path / "copy")]
    for attempt in ("measured", "read from the file"):
        assert main(command) == 1, attempt
        assert sentence in capsys.readouterr().err
        assert (tmp_path / "copy" / "compare.json").is_file()


def test_a_text_that_is_too_short_is_refused_before_a_file_is_written(tmp_path):
    (tmp_path / "short.txt").write_text("too short " * 200)
    with pytest.raises(UserError, match="too short|too few"):
        run.compare("quick", tmp_path / "out", corpus=[tmp_path / "short.txt"])
    assert not (tmp_path / "out").exists()
