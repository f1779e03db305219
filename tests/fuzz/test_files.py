"""Mutants of the files that minimtp reads back: the right result, or one sentence with the name.

Caches and logs are read as far as they are intact. A damaged file of the user's is refused.
`tests/kernels/test_kernel_cache.py` does the same with Numba's cache.
"""

import argparse
import copy
import io
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from minimtp.backend import numpy as np
from minimtp.bench.quality import measure as quality
from minimtp.cli.options.recipe import chosen_recipe
from minimtp.compare import run as comparison
from minimtp.compare.configurations import TITLES
from minimtp.compare.report import print_report
from minimtp.compare.result_cache import ResultCache
from minimtp.compare.schema import speed_part
from minimtp.decode.policy.cost import MEASURED, Costs
from minimtp.errors import UserError
from minimtp.quant.packed_matrix import stored_arrays
from minimtp.quant.ptq.methods import round_to_nearest
from minimtp.quant.qat.spec import QuantizationSpec
from minimtp.records import notice
from minimtp.training.build import build_model
from minimtp.training.presets import preset
from minimtp.training.recipe import Recipe
from minimtp.training.run import checkpoint
from minimtp.training.run.checkpoint import FILE_NAME, HEADER_KEY, Checkpoint
from minimtp.training.run.folder import LoadedRun, load_run
from minimtp.training.run.log import LOG_NAME, RunLog, read_log
from minimtp.training.run.plot import draw_losses
from minimtp.training.run.start import Start
from minimtp.training.run.tensor_file import checksum, write_safetensors
from minimtp.training.run.train import train
from tests.fuzz.mutate import (
    check_sentence,
    damaged_bytes,
    damaged_json,
    json_bytes,
    must_be_refused_or_right,
)

pytestmark = pytest.mark.slow

EVALUATION = {
    "bits_per_byte": 2.5, "accuracy": [0.5, 0.25], "acceptance": [0.5], "nats": [1.7, 2.0],
    "tokens": 100, "bytes": 100,
}  # fmt: skip


def quiet(line: str) -> None:
    pass


def mutants(value: object, count: int, seed: int = 0) -> Iterator[bytes]:
    """Yield `count` mutants of a JSON file: half of its values, half of its bytes."""
    rng, data = random.Random(seed), json_bytes(value)
    for number in range(count):
        yield json_bytes(damaged_json(value, rng)) if number % 2 else damaged_bytes(data, rng)


def refusals(
    path: Path,
    contents: Iterator[bytes],
    read: Callable[[], object],
    is_right: Callable[[object], bool] = lambda result: True,
) -> int:
    """Read every content from `path`. Return how many were refused."""
    count = 0
    for number, content in enumerate(contents):
        path.write_bytes(content)
        megabytes = 20 + 40 * len(content) / 2**20 if number % 5 == 0 else None
        count += must_be_refused_or_right(read, is_right, names=path, megabytes=megabytes)
    return count


# --- checkpoints


@pytest.fixture(scope="module", params=["float", "packed"])
def run(request, tmp_path_factory) -> tuple[Path, LoadedRun]:
    """A run folder with optimizer, state and heads, and the run as it is loaded."""
    folder = tmp_path_factory.mktemp(request.param)
    recipe, spec = preset("tiny", heads="parallel"), QuantizationSpec()
    model = build_model(recipe, np.random.default_rng(1))
    parameters = {name: parameter.data for name, parameter in model.named_parameters()}
    moments = {f"{kind}.{name}": abs(a) for name, a in parameters.items() for kind in MOMENTS}
    state = {"seconds": 1.5, "shards": 2, "evaluation": EVALUATION, "evaluated_at": 5}
    stored = Checkpoint(
        recipe, parameters, moments, 5, 640, {"name": "poem", "sources": ["p.txt"]}, state=state
    )
    if request.param == "packed":
        stored.parameters, stored.optimizer = stored_arrays(round_to_nearest(model, spec)), {}
        stored.packed = asdict(spec)
    checkpoint.write(folder, stored)
    checkpoint.write(folder / "intact", stored)  # a packed model stays mapped from its file
    return folder, load_run(folder / "intact")


MOMENTS = ("first", "second")


def same_model(one: LoadedRun, other: LoadedRun) -> bool:
    mine, theirs = stored_arrays(one.model), stored_arrays(other.model)
    return mine.keys() == theirs.keys() and all(
        mine[name].tobytes() == theirs[name].tobytes() for name in mine
    )


def test_a_checkpoint_with_damaged_bytes_is_refused_or_loads_unchanged(run):
    folder, good = run
    path, rng = folder / FILE_NAME, random.Random(1)
    data = path.read_bytes()
    header = 8 + int.from_bytes(data[:8], "little")
    both = [  # half of the faults are in the header
        damaged_bytes(data[:header], rng) + data[header:]
        if number % 2
        else damaged_bytes(data, rng)
        for number in range(400)
    ]
    refused = refusals(
        path,
        iter(both),
        lambda: load_run(folder),
        lambda loaded: (
            same_model(loaded, good)
            and loaded.recipe == good.recipe
            and (loaded.step, loaded.state) == (good.step, good.state)
        ),
    )
    path.write_bytes(data)
    assert refused > 350


def test_a_checkpoint_with_a_changed_header_and_a_valid_checksum_is_refused_or_valid(run):
    """Nothing in the header can make the weights differ from those in the file."""
    folder, good = run
    path, rng = folder / FILE_NAME, random.Random(2)
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    outer = json.loads(data[8 : 8 + length])
    header = json.loads(outer["__metadata__"][HEADER_KEY])
    with checkpoint.open_tensors(path, "") as file:
        arrays = file.read_arrays()

    def changed() -> Iterator[bytes]:
        for number in range(500):
            if number % 4:  # what minimtp stores
                text = json_bytes(damaged_json(header, rng)).decode()
                metadata = {HEADER_KEY: text, "crc32": str(checksum(text, arrays))}
                file = io.BytesIO()
                write_safetensors(file, arrays, metadata)
                yield file.getvalue()
            else:  # what safetensors stores: names, types, shapes, offsets
                encoded = json_bytes(damaged_json(outer, rng))
                yield len(encoded).to_bytes(8, "little") + encoded + data[8 + length :]

    refused = refusals(
        path, changed(), lambda: load_run(folder), lambda loaded: same_model(loaded, good)
    )
    path.write_bytes(data)
    assert refused > 250


def test_a_run_with_a_changed_header_is_resumed_or_refused_with_the_name_of_its_file(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("minimtp.training.run.loop.draw_losses", lambda folder: None)
    Path("poem.txt").write_text("roses are red, violets are blue\n" * 1000)
    recipe = preset("tiny", tokens=1280, checkpoint_every=4, evaluation_tokens=256)
    out, rng = tmp_path / "run", random.Random(4)
    train(recipe, ["poem.txt"], out, stop_at_step=5, device="cpu", threads=1, report=quiet)
    path, log = out / FILE_NAME, (out / LOG_NAME).read_bytes()
    with checkpoint.open_tensors(path, "") as file:
        header, arrays = json.loads(file.metadata[HEADER_KEY]), file.read_arrays()

    def changed() -> Iterator[bytes]:
        for _ in range(200):
            text = json_bytes(damaged_json(header, rng)).decode()
            file = io.BytesIO()
            write_safetensors(
                file, arrays, {HEADER_KEY: text, "crc32": str(checksum(text, arrays))}
            )
            (out / LOG_NAME).write_bytes(log)
            yield file.getvalue()

    def resume() -> object:
        start = Start(resume=True)
        return train(None, (), out, start, stop_at_step=6, device="cpu", threads=1, report=quiet)

    refused = 0
    for content in changed():
        path.write_bytes(content)
        try:
            assert resume().step >= 1
        except UserError as error:
            refused += 1
            other_text = "with fingerprint" in str(error) or "no longer at" in str(error)
            check_sentence(str(error), "" if other_text else path)
    assert refused > 80


# --- recipes


def test_a_recipe_file_is_refused_with_its_name_or_gives_a_valid_recipe(tmp_path):
    path = tmp_path / "recipe.json"
    recipe = preset("tiny", heads="token_conditioned", quantization="qat").to_dict()
    options = argparse.Namespace(recipe=str(path), preset=None, resume=False, start_from=None)
    whole = {"format_version": 2, "recipe": recipe, "step": 3}
    for value in (whole, recipe):
        refused = refusals(
            path,
            mutants(value, 300),
            lambda: chosen_recipe(options),
            lambda chosen: Recipe.from_dict(chosen.to_dict()) == chosen,
        )
        assert refused > 200


# --- logs


def test_the_intact_lines_of_a_damaged_log_survive_and_a_run_continues(tmp_path, monkeypatch):
    lines = [
        {"step": k, "tokens": 64 * k, "losses": [2.0, None], "learning_rate": 0.01,
         "gradient_norm": 1.0, "seconds": 0.5 * k} for k in range(1, 21)
    ]  # fmt: skip
    lines.insert(10, {"step": 10, "tokens": 640, "evaluation": EVALUATION})
    path, rng = tmp_path / LOG_NAME, random.Random(3)
    texts = [json.dumps(line).encode() for line in lines]
    for number in range(400):
        if number % 2:
            content = damaged_bytes(b"\n".join([*texts, b""]), rng)
        else:
            at = rng.randrange(len(texts))
            changed = json_bytes(damaged_json(lines[at], rng))
            content = b"\n".join([*texts[:at], changed, *texts[at + 1 :], b""])
        path.write_bytes(content)
        said: list[str] = []
        with RunLog(tmp_path, 20, 10, said.append) as log:
            log.write(step=21, tokens=1344, losses=[1.0, None])
        kept = path.read_bytes().splitlines()
        intact = [text for text in texts if text in content.split(b"\n")]
        assert set(intact) < set(kept), (number, content[:300])
        assert len(said) <= 1
        for sentence in said:
            check_sentence(sentence, path)
        assert read_log(tmp_path)[-1]["step"] == 21
        if number % 20 == 0:
            draw_losses(tmp_path)


# --- comparisons


def result_of_a_comparison() -> dict:
    speed = {
        "tokens_per_second": 10.0, "tokens_per_second_slowest": 9.0,
        "tokens_per_second_fastest": 11.0, "tokens_per_step": 1.5, "speedup": 2.0,
        "draft_depth": 3, "min_confidence": 0.1, "acceptance": [0.5, None],
    }  # fmt: skip
    configurations = [
        {
            "name": name, "title": title, "folder": f"out/{name}", "bits_per_byte": 2.5,
            "next_token_accuracy": 0.5, "accuracy": [0.5], "quality_percent": 99.0,
            "weight_bytes": 1000, "bits_per_weight": 4.5, "peak_memory_bytes": 3000,
            "cache_bytes": 500, "greedy_texts": {"texts": 2, "equal": 2, "ties": 0, "wrong": []},
            **speed, **{f"{key}_t1": value for key, value in speed.items()},
        } for name, title in TITLES.items()
    ]  # fmt: skip
    return SETTING | {"configurations": configurations, "seconds": 12.5, "claims": []}


SETTING = {
    "preset": "tiny", "recipes": {"standard": {"tokens": 5}}, "sizes": {"prompts": 2},
    "corpus": {"name": "poem"}, "device": {"name": "cpu", "kernels": "plain", "threads": 1},
    "minimtp_version": "0.2.0",
}  # fmt: skip


def test_a_damaged_compare_json_is_refused_or_can_be_printed(tmp_path):
    path, result = tmp_path / comparison.FILE_NAME, result_of_a_comparison()

    def show() -> object:
        found = comparison.finished_result(tmp_path, SETTING)
        print_report(found, tmp_path, quiet)
        comparison.require_equal_texts(found["configurations"])
        return found

    path.write_text(json.dumps(result))
    assert show() == result
    assert refusals(path, mutants_without_wrong_texts(result, 500), show) > 300


def mutants_without_wrong_texts(result: dict, count: int) -> Iterator[bytes]:
    """Leave out the mutants with a drafted text that differs. For them, exit code 1 is right."""
    for content in mutants(result, count):
        if b'"wrong": []' in content and content.count(b'"wrong": []') == len(TITLES):
            yield content


def test_a_damaged_measured_json_gives_valid_parts_and_at_most_one_line_each(tmp_path):
    part = {name: result_of_a_comparison()["configurations"][0] for name in TITLES}
    path, form = tmp_path / comparison.CACHE_NAME, speed_part("", TITLES)
    content = {"setting": SETTING, "parts": {"temperature 0": part}, "seconds": 3.5}
    for mutant in mutants(content, 300):
        path.write_bytes(mutant)
        said: list[str] = []
        cache = ResultCache(path, SETTING, said.append)
        found = cache.get("temperature 0", lambda: copy.deepcopy(part), form)
        assert all(0 < found[name]["tokens_per_second"] < 1e308 for name in TITLES)
        assert cache.seconds >= 0 and len(said) <= 2
        for sentence in said:
            check_sentence(sentence, path)
        assert json.loads(path.read_bytes())["parts"]


def test_a_damaged_quality_json_is_refused_or_gives_valid_cells(tmp_path):
    path = tmp_path / quality.FILE_NAME
    setting = {"measurement": "quality", "preset": "tiny"}
    cells = {
        f"{method} at {bits} bits, seed 0": {
            "seed": 0, "bits": bits, "method": method, "nats": 1.5, "bytes": 9,
            "bits_per_weight": 4.5, "seconds": 1.0,
        } for bits, method in ((32, "fp"), (4, "rtn"))
    }  # fmt: skip

    def show() -> object:
        found = quality._finished_cells(tmp_path, setting)
        return quality.summary(list(found.values())) if len(found) == 2 else None

    assert refusals(path, mutants(setting | {"cells": cells}, 300), show) > 200


# --- the costs of forward passes


def test_a_damaged_cost_file_is_measured_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MINIMTP_CACHE", str(tmp_path))
    measured = [0.001 * (1 + k) for k in range(len(MEASURED))]
    monkeypatch.setattr("minimtp.decode.policy.cost.measure", lambda target: measured)
    monkeypatch.setattr("minimtp.decode.policy.cost._fitting", lambda target: list(MEASURED))
    identity = {"model": "x", "threads": 1}
    Costs(None, 7, identity).at(0)
    (path,) = tmp_path.iterdir()
    for mutant in mutants(json.loads(path.read_text()), 400):
        path.write_bytes(mutant)
        seconds, end = Costs(None, 7, identity).at(0)
        assert end == 128 and len(seconds) == 8 and seconds == sorted(seconds)
        assert 0 < seconds[0] and seconds[-1] <= 3600
        said = capsys.readouterr().err.splitlines()
        assert len(said) <= 1
        for line in said:
            check_sentence(line, path)


def test_a_notice_without_standard_error_is_lost_but_stops_nothing(monkeypatch):
    monkeypatch.setattr("sys.stderr", None)
    notice("nobody reads this")
