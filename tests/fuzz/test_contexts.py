"""Every command at any context length, on texts of any length: a result or one sentence, in bounded
memory.
"""

import argparse
import contextlib
import json
import random
import shutil
import tracemalloc
from pathlib import Path

import pytest

from minimtp import kernels
from minimtp.backend import numpy as np
from minimtp.cli import main
from minimtp.training.build import build_model
from minimtp.training.run import checkpoint
from minimtp.training.run.checkpoint import Checkpoint
from minimtp.training.tokenizers.tokenizer import ByteTokenizer
from tests.fuzz.mutate import check_sentence, time_limit
from tests.training.helpers import recipe_of

CONTEXTS = (2, 3, 7, 64, 255, 2_047, 2_400, 8_192, 65_537, 1_000_000)
LENGTHS = (0, 1, 5, 20, 100, 700, 3_000, 30_000)  # bytes of text
NUMBERS = (1, 2, 7, 64, 300, 2_049, 9_000, 70_000, 2_000_000)  # of the options
MAX_BYTES = 60e6
SOURCE = Path(argparse.__file__).read_bytes()


def write_run(folder: Path, context: int, heads: str) -> None:
    depth = {} if heads == "none" else {"heads": heads, "draft_depth": 2}
    recipe = recipe_of(context_length=context, batch_size=1, tokens=context, **depth)
    model = build_model(recipe, np.random.default_rng(0))
    parameters = {name: parameter.data for name, parameter in model.named_parameters()}
    tokenizer = ByteTokenizer().to_dict()
    checkpoint.write(folder, Checkpoint(recipe, parameters, step=1, tokenizer=tokenizer))


def command(rng: random.Random) -> list[str]:
    """Return the words of a command with random options."""
    kind = rng.choice(["evaluate", "evaluate", "generate", "quantize", "quantize"])
    words = [kind, "run"]
    if kind == "evaluate":
        words += ["--corpus", "text.txt"]
        words += rng.choice([[], ["--tokens", str(rng.choice(NUMBERS))]])
        words += rng.choice([[], ["--against", "other"]])
        words += rng.choice([[], ["--json"]])
    elif kind == "generate":
        words += ["--prompt", SOURCE[: rng.choice([1, 5, 63, 64, 300])].decode()]
        words += ["--max-new-tokens", str(rng.choice([1, 2, 60]))]
        words += ["--draft", rng.choice(["heads", "ngram", "none", "model:other"])]
    else:
        words += ["--method", rng.choice(["rtn", "hqq", "importance", "awq", "gptq"])]
        words += ["--calibration", "text.txt", "--out", "new"]
        words += rng.choice([[], ["--head-grid", "measured"]])
    return words + rng.choice([[], [], ["--context", str(rng.choice(NUMBERS))]])


@pytest.mark.slow
def test_no_context_ends_a_command_with_a_traceback_or_takes_memory_that_nothing_needs(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    kernels.use("plain")
    rng, outcomes = random.Random(0), {0: 0, 2: 0}
    for trial in range(800):
        context, other = rng.choice(CONTEXTS), rng.choice(CONTEXTS)
        heads = rng.choice(["none", "parallel", "sequential", "token_conditioned", "eagle3"])
        for folder, length in (("run", context), ("other", other)):
            shutil.rmtree(folder, ignore_errors=True)
            write_run(Path(folder), length, heads)
        shutil.rmtree("new", ignore_errors=True)
        Path("text.txt").write_bytes(SOURCE[: rng.choice(LENGTHS)])
        words = command(rng)
        tracemalloc.start()
        with time_limit(120), contextlib.suppress(SystemExit):
            code = main(words)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        said = capsys.readouterr()
        about = f"{trial}: context {context}, {heads}, {words}: {said}"
        assert code in outcomes, about
        outcomes[code] += 1
        assert peak < MAX_BYTES, f"{peak:,} bytes: {about}"
        if code == 2:
            check_sentence(said.err.splitlines()[-1], "")
            assert not Path("new").exists(), about
        elif "--json" in words:
            figures = json.loads(said.out)
            limits = [context, len(Path("text.txt").read_bytes())]
            limits += [other] if "--against" in words else []
            for option in ("--tokens", "--context"):
                limits += [int(words[words.index(option) + 1])] if option in words else []
            assert 1 <= figures["window"] <= min(limits), about
            assert np.isfinite(figures["perplexity"]), about
    kernels.use("auto")
    assert outcomes[0] > 200 and outcomes[2] > 100, outcomes
