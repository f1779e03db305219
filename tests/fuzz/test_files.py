"""Mutants of the files that minimtp reads back: the right result, or one sentence with the name.

Caches and logs are read as far as they are intact. A damaged file of the user's is refused.
`tests/kernels/compiler/test_kernel_cache.py` does the same with Numba's cache.
"""

import argparse
import io
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from minimtp.backend import numpy as np
from minimtp.cli.options.recipe import chosen_recipe
from minimtp.errors import UserError
from minimtp.quant.packed_matrix import stored_arrays
from minimtp.quant.ptq.methods import round_to_nearest
from minimtp.quant.qat.spec import QuantizationSpec
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
