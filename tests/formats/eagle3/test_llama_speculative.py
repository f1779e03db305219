"""llama.cpp's own speculative decoding drafts and accepts as we do, with the files that we write.

MINIMTP_LLAMA_SPECULATIVE=/path/to/llama-speculative-simple pytest -n0 -m slow \
tests/formats/eagle3/test_llama_speculative.py

The program is an example of llama.cpp (examples/speculative-simple).
"""

import os
import re
import subprocess

import pytest

import minimtp
from minimtp.backend import numpy as np
from minimtp.cli import main
from tests.cli.helpers import TEXT
from tests.formats.gguf.helpers import needs_gguf

PROGRAM = os.environ.get("MINIMTP_LLAMA_SPECULATIVE")
PROMPTS, NEW_TOKENS, DRAFTS = 50, 96, 3
OPTIONS = (
    "--spec-type draft-eagle3 --spec-draft-p-min 0 --temp 0 -t 1 -c 256 -fa off -fit off "
    "-ctk f32 -ctv f32 -ctkd f32 -ctvd f32"
)

pytestmark = [
    pytest.mark.slow,
    needs_gguf,
    pytest.mark.skipif(
        PROGRAM is None, reason="MINIMTP_LLAMA_SPECULATIVE names no llama-speculative-simple"
    ),
]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A small trained model and its head, as GGUF files."""
    folder = tmp_path_factory.mktemp("speculative")
    (folder / "poem.txt").write_bytes(TEXT)
    options = (
        "--preset tiny --context-length 256 --num-layers 4 --tokens 60k --evaluation-tokens 0 "
        "--heads eagle3 --draft-depth 3 --head-layers 1,2,3"
    )
    corpus, out = ["--corpus", str(folder / "poem.txt")], str(folder / "run")
    assert main(["train", *options.split(), *corpus, "--out", out]) == 0
    model, draft = str(folder / "model.gguf"), str(folder / "draft.gguf")
    assert main(["export", out, "--out", model, "--draft", draft]) == 0
    return model, draft


def by_llama(files, prompt):
    """Return the new text, the drafted and the accepted tokens of llama.cpp."""
    model, draft = files
    command = [PROGRAM, "-m", model, "-md", draft, "-p", prompt, "-n", str(NEW_TOKENS)]
    command += ["--spec-draft-n-max", str(DRAFTS), *OPTIONS.split()]
    for _ in range(10):  # a thread writes the log, and the end of the program may cut it off
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        counts = re.findall(r"(?:n_drafted|n_accept) *= (\d+)", done.stdout + done.stderr)
        if len(counts) == 2:
            return done.stdout, *map(int, counts)
    raise AssertionError(f"no counts: {done.stderr[-2000:]}")


def _sum(steps_of_length):
    return sum(length * steps for length, steps in enumerate(steps_of_length))


def test_on_50_prompts_text_and_acceptance_are_those_of_llama_cpp(files):
    model = minimtp.load(files[0])
    head = minimtp.load_draft(files[1], model)
    decoder = minimtp.Decoder(model, minimtp.DraftConfig(head, length=DRAFTS, min_confidence=0))
    words, rng = TEXT.decode().split("\n")[0].split(), np.random.default_rng(0)
    ours, theirs = np.zeros(2), np.zeros(2)
    for _ in range(PROMPTS):
        prompt = " ".join(rng.choice(words, 4)) + " "
        generation = decoder.generate(prompt, max_new_tokens=NEW_TOKENS)
        text = model.tokenizer.decode(list(generation))
        counts = generation.statistics
        ours += _sum(counts.drafts_of_length), _sum(counts.drafts_accepted)
        output, *found = by_llama(files, prompt)
        theirs += found
        assert text[: NEW_TOKENS // 2] in output
    assert theirs[1] > 0.1 * theirs[0]  # otherwise equal rates would say little
    assert abs(ours[1] / ours[0] - theirs[1] / theirs[0]) < 0.02
