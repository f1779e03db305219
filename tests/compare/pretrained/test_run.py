"""`minimtp compare --from MODEL` measures everything, resumes, and refuses what does not fit."""

import json
import shutil
from unittest.mock import Mock

import pytest

import minimtp
from minimtp.bench.interleaved import measure_interleaved
from minimtp.cli import main
from minimtp.compare.pretrained import configurations, measurement, quality, run
from minimtp.compare.pretrained.configurations import LLAMA, TITLES
from minimtp.errors import UserError
from minimtp.records import without_nan
from minimtp.training.evaluate import evaluate_model
from minimtp.training.run.interrupt import Interrupted

KINDS = ("code", "prose", "chat", "edit")
OURS = [name for name in TITLES if name != LLAMA]


def compare(pretrained, out, report=lambda line: None):
    loaded = minimtp.load(pretrained)
    return run.compare_pretrained(loaded, out, "tiny", threads=2, report=report)


def fail(*arguments, **options):
    pytest.fail("finished work was repeated")


def test_the_file_holds_all_results_by_kind_of_text(finished):
    out, _ = finished
    result = json.loads((out / "compare.json").read_text())
    by_name = {c["name"]: c for c in result["configurations"]}
    assert list(by_name)[: len(OURS)] == OURS
    for configuration in by_name.values():
        for key in ("nats", "kl", "agreement", "quality_percent"):
            assert list(configuration[key]) == list(KINDS[:3])
        for key in ("tokens_per_second", "tokens_per_step", "speedup", "repetition"):
            assert list(configuration[key]) == list(KINDS)
        assert configuration["weight_bytes"] > 0 and configuration["memory_bytes"] > 0
    assert {"claims", "targets", "texts", "steps", "peak_memory_bytes", "machine"} <= result.keys()


def test_heads_do_not_change_the_trunk_and_rounding_changes_it(finished):
    by_name = {c["name"]: c for c in finished[1]["configurations"]}
    assert by_name["mtp"]["nats"] == by_name["standard"]["nats"]
    assert set(by_name["mtp"]["kl"].values()) == {0.0}
    for name in ("int4_rtn", "int4_gptq", "mtp_qat_int4"):
        assert all(kl > 0 for kl in by_name[name]["kl"].values())
    assert by_name["int4_rtn"]["weight_bytes"] < by_name["standard"]["weight_bytes"] / 4
    assert by_name["mtp_qat_int4"]["weight_bytes"] >= by_name["int4_rtn"]["weight_bytes"]


def test_every_drafted_text_equals_plain_decoding(finished):
    for configuration in finished[1]["configurations"]:
        if configuration["name"] in measurement.DRAFTING:
            for counts in configuration["greedy_texts"].values():
                assert counts["equal"] + counts["ties"] == counts["texts"] > 0


def test_the_same_command_shows_a_finished_result_without_repeating_work(
    pretrained, finished, monkeypatch
):
    out, result = finished
    for name in ("train", "quantize"):
        monkeypatch.setattr(configurations, name, fail)
    monkeypatch.setattr(measurement, "measure_interleaved", fail)
    lines = []
    again = compare(pretrained, out, lines.append)
    assert again["configurations"] == json.loads(json.dumps(without_nan(result)))["configurations"]
    assert "MTP + QAT int4" in "\n".join(lines)


def test_an_interrupted_comparison_continues_with_what_is_missing(
    pretrained, finished, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    shutil.copytree(finished[0], out)
    (out / "compare.json").unlink()
    shutil.rmtree(out / "mtp")
    for name in ("measured.json", "steps.json"):
        (out / name).unlink(missing_ok=True)
    trained, train = [], configurations.train

    def stop_first(recipe, corpus, folder, start, **options):
        trained.append(folder.name)
        if len(trained) == 1:
            raise Interrupted(folder, 1, 2)
        return train(recipe, corpus, folder, start, **options)

    monkeypatch.setattr(configurations, "train", stop_first)
    monkeypatch.setattr(configurations, "quantize", fail)
    with pytest.raises(KeyboardInterrupt, match="run the same command again"):
        compare(pretrained, out)
    result = compare(pretrained, out)
    assert trained == ["mtp", "mtp"]
    for ours, first in zip(result["configurations"], finished[1]["configurations"], strict=True):
        assert ours["nats"] == first["nats"]


def test_a_damaged_part_of_measured_json_is_measured_again_and_the_others_are_not(
    pretrained, finished, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    shutil.copytree(finished[0], out)
    (out / "compare.json").unlink()
    speeds = []

    def interrupted(variants, prompts, **options):
        speeds.append(prompts)
        if len(speeds) == len(KINDS):
            raise KeyboardInterrupt
        return measure_interleaved(variants, prompts, **options)

    monkeypatch.setattr(measurement, "measure_interleaved", interrupted)
    with pytest.raises(KeyboardInterrupt):
        compare(pretrained, out)
    path = out / "measured.json"
    content = json.loads(path.read_text())
    parts = content["parts"]
    parts["quality of int4_rtn on code"]["nats"] = "a lot"
    parts["quality of int4_gptq on chat"] = []
    parts["memory"]["mtp"] = -1
    del parts["speed on code"]["mtp"]["greedy_texts"]
    path.write_text(json.dumps(content))

    evaluate = Mock(side_effect=evaluate_model)
    monkeypatch.setattr(quality, "evaluate_model", evaluate)
    lines = []
    result = compare(pretrained, out, lines.append)
    assert evaluate.call_count == 2
    assert len(speeds) == len(KINDS) + 2  # on code, and on the kind that was interrupted
    assert [line for line in lines if line.endswith("is measured again")] == [
        f'{path}: nats is "a lot", but must be a number: quality of int4_rtn on code is measured '
        "again",
        f"{path}: the file holds a list of 0, but must be an object: quality of int4_gptq on chat "
        "is measured again",
        f"{path}: mtp is -1, but must be a whole number of at least 1: memory is measured again",
        f"{path}: mtp.greedy_texts is missing: speed on code is measured again",
    ]
    for ours, first in zip(result["configurations"], finished[1]["configurations"], strict=True):
        assert ours.keys() == first.keys()
        assert all(ours[key] == first[key] for key in ("nats", "kl", "agreement"))


def test_a_folder_of_another_comparison_is_refused(pretrained, finished, tmp_path):
    loaded = minimtp.load(pretrained)
    with pytest.raises(UserError, match="other settings .seed"):
        run.compare_pretrained(loaded, finished[0], "tiny", threads=2, seed=1)
    out = tmp_path / "out"
    out.mkdir()
    shutil.copy(finished[0] / "setting.json", out)
    with pytest.raises(
        UserError, match="setting.json belongs to a comparison with other settings .seed"
    ):
        run.compare_pretrained(loaded, out, "tiny", threads=2, seed=1)


def test_a_quantized_model_is_refused(finished, tmp_path):
    packed = minimtp.load(finished[0] / "int4_rtn")
    with pytest.raises(UserError, match="quantized already"):
        run.compare_pretrained(packed, tmp_path / "out", "tiny")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset", "gpu"], "one of tiny, quick, laptop with --from, not 'gpu'"),
        (["--preset", "big"], "one of tiny, quick, laptop with --from, not 'big'"),
        (["--threads", "0"], "from 1 to 1024"),
        (["--corpus", "."], "leave out --corpus"),
    ],
)
def test_options_that_do_not_fit_are_refused(pretrained, tmp_path, capsys, arguments, message):
    out = str(tmp_path / "out")
    assert main(["compare", "--from", str(pretrained), "--out", out, *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_comparison_does_not_write_into_the_model_itself(pretrained, capsys):
    assert main(["compare", "--from", str(pretrained), "--out", str(pretrained)]) == 2
    assert "is the model itself" in capsys.readouterr().err


def test_a_plan_of_the_comparison_is_refused_with_one_sentence(finished, capsys):
    assert main(["plan", str(finished[0] / "compare.json")]) == 2
    assert "give the folder of one of them" in capsys.readouterr().err
