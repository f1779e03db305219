"""Heads as other programs publish them: what is accepted, and one sentence for what is not."""

import json

import pytest
from safetensors.numpy import load_file, save_file

import minimtp
from minimtp.backend import numpy as np
from minimtp.errors import UserError
from minimtp.formats.eagle3 import gguf
from minimtp.formats.gguf import writer
from minimtp.model.draft_head import DraftHead
from minimtp.plan.costs import sizes
from minimtp.training.tokenizers.byte_tokenizer import ByteTokenizer
from tests.formats.eagle3.cases import draft_logits, loaded, model_of, read_back
from tests.formats.gguf.helpers import needs_gguf

MODEL = model_of("untied, both")


@pytest.fixture
def draft(tmp_path):
    """A folder with the head of MODEL."""
    minimtp.export(loaded(MODEL), tmp_path / "model", draft=tmp_path / "draft")
    return tmp_path / "draft"


def change(folder, remove=(), **keys):
    path = folder / "config.json"
    content = json.loads(path.read_text()) | keys
    path.write_text(json.dumps({k: v for k, v in content.items() if k not in remove}))


def change_tensors(folder, function):
    path = folder / "model.safetensors"
    save_file(function(load_file(path)), path)


LAYERS = "eagle_aux_hidden_state_layer_ids"


@pytest.mark.parametrize(
    ("removed", "changed"),
    [
        # SpecForge and SGLang: the layers whose outputs are read, in eagle_config alone
        ([LAYERS], {"architectures": ["LlamaForCausalLMEagle3"]}),
        # the authors' first heads: an ordinary architecture, and no layers
        ([LAYERS, "eagle_config", "target_hidden_size"], {"architectures": ["LlamaForCausalLM"]}),
    ],
)
def test_the_layers_are_found_wherever_a_file_names_them(draft, removed, changed):
    model = model_of("untied, both")
    change(draft, removed, **changed)
    found = read_back(model, draft)
    # Without layers in the file: 2, L/2, L-3.
    expected = (1, 2, 3) if "eagle_config" not in removed else (2, 2, 1)
    assert found.heads.layers == expected


def test_the_norm_before_fc_may_be_named_in_eagle_config_alone(tmp_path):
    """As in heads of NVIDIA (vllm #42143)."""
    model = model_of("norm before fc")
    minimtp.export(loaded(model), tmp_path / "model", draft=tmp_path / "draft")
    change(tmp_path / "draft", ["norm_before_fc"])
    again = read_back(model, tmp_path / "draft")
    assert draft_logits(again).tobytes() == draft_logits(model).tobytes()


def test_names_of_speculators_are_read_like_the_others(draft):
    def renamed(tensors):
        return {name.replace("midlayer", "layers.0"): array for name, array in tensors.items()}

    change_tensors(draft, renamed)
    assert draft_logits(read_back(MODEL, draft)).tobytes() == draft_logits(MODEL).tobytes()


def test_a_head_without_an_output_uses_the_rows_of_the_model(draft):
    change_tensors(
        draft, lambda tensors: {n: a for n, a in tensors.items() if n != "lm_head.weight"}
    )
    model = model_of("untied, both")
    model.heads.output = None
    assert draft_logits(read_back(MODEL, draft)).tobytes() == draft_logits(model).tobytes()


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"num_hidden_layers": 2}, "num_hidden_layers 2"),
        ({"fc_norm": True}, "fc_norm True"),
        ({"norm_output": True}, "norm_output True"),
        ({"attention_bias": True}, "attention_bias True"),
        ({"mlp_bias": True}, "mlp_bias True"),
        ({"bias": True}, "bias True"),
        ({"sliding_window": 16}, "sliding_window 16"),
        ({"layer_types": ["sliding_attention"]}, "layer_types sliding_attention"),
        ({"hidden_act": "gelu"}, "hidden_act gelu"),
        ({"model_type": "qwen3"}, "model_type qwen3"),
        ({"speculators_model_type": "dflash"}, "speculators_model_type dflash"),
        ({"quantization_config": {"quant_method": "fp8"}}, "quantization_config"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2}}, "RoPE scaling yarn"),
        ({"target_hidden_size": 64}, "target_hidden_size 64"),
        ({"hidden_size": 64, "target_hidden_size": None}, "hidden_size 64"),
        ({"vocab_size": 300}, "a vocabulary of 300"),
        ({LAYERS: [1, 2, 5]}, "layers 1, 2, 5"),
        ({LAYERS: [-1, 2, 3]}, "layers -1, 2, 3"),
        ({LAYERS: [1, 2]}, "fc.weight"),
        ({LAYERS: [0] * 2000}, "a list of length at most 1024"),
        (
            {"num_attention_heads": 1024, "num_key_value_heads": 1024, "head_dim": 65536},
            "describes a draft head of 15,[0-9,]+ numbers, but its tensors hold",
        ),
        ({"intermediate_size": 96}, "gate_proj"),
        ({"norm_before_fc": True}, "input_norm"),
        ({"num_attention_heads": "4"}, "num_attention_heads"),
    ],
)
def test_what_a_head_cannot_have_gets_one_sentence_that_names_it(draft, keys, named):
    change(draft, **keys)
    with pytest.raises(UserError, match=named):
        read_back(MODEL, draft)


@pytest.mark.parametrize(
    ("name", "array", "named"),
    [
        ("d2t", np.zeros(100, np.float32), "d2t has the type F32"),
        ("d2t", np.full(100, 200), "d2t names tokens that are not among the 257"),
        ("d2t", -np.arange(100), "d2t names a token twice"),
        ("d2t", np.arange(100) - 1, "d2t names tokens that are not among the 257"),
        ("d2t", np.zeros(99, np.int64), "100 rows in lm_head.weight, but d2t names 99 tokens"),
        ("lm_head.weight", np.zeros((99, 32), np.float32), "99 rows in lm_head.weight, but d2t"),
        ("fc.bias", np.zeros(32, np.float32), "fc.bias"),
        ("fc.weight", np.full((32, 96), np.nan, np.float32), "fc.weight"),
        ("embed_tokens.weight", np.zeros((9, 32), np.float32), "embed_tokens.weight"),
    ],
)
def test_wrong_tensors_get_one_sentence_that_names_them(draft, name, array, named):
    change_tensors(draft, lambda tensors: tensors | {name: array})
    with pytest.raises(UserError, match=named):
        read_back(MODEL, draft)


@needs_gguf
@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("block_count", 2, "2 layers"),
        ("target_hidden_size", 64, "target_hidden_size 64"),
        ("target_layers", [1, 2], "target_layers"),
        ("target_layers", [1, 2, 9], "layers 1, 2, 9"),
        ("norm_before_fc", True, "enc.output_norm.weight"),
    ],
)
def test_a_gguf_head_that_does_not_fit_gets_one_sentence(key, value, named, tmp_path):
    content = gguf.head_content(MODEL, ByteTokenizer(), "draft")

    def add_metadata(file):
        content.add_metadata(file)
        file.kv_data[0][f"eagle3.{key}"].value = value

    with writer.written(tmp_path / "draft.gguf", content._replace(add_metadata=add_metadata)):
        pass
    with pytest.raises(UserError, match=named):
        read_back(MODEL, tmp_path / "draft.gguf")


def without_names(tensors):
    return {name: array for name, array in tensors.items() if name != "d2t"}


def without_tokens(tensors):
    output = tensors["lm_head.weight"][:0]
    return tensors | {"d2t": np.zeros(0, np.int64), "lm_head.weight": output}


def test_rows_without_the_names_of_their_tokens_are_refused(draft):
    change_tensors(draft, without_names)
    with pytest.raises(UserError, match="lacks d2t, which names the tokens of the 100 rows"):
        read_back(MODEL, draft)


def test_a_draft_vocabulary_without_tokens_is_refused(draft):
    change_tensors(draft, without_tokens)
    with pytest.raises(UserError, match="d2t names no tokens"):
        read_back(MODEL, draft)


@needs_gguf
@pytest.mark.parametrize("form", [None, "llama", "speculators"])
def test_a_head_alone_is_not_a_model_and_a_model_is_not_a_head(form, tmp_path):
    name = "draft" if form else "draft.gguf"
    done = minimtp.export(
        loaded(MODEL), tmp_path / f"model-{name}", draft=tmp_path / name, draft_format=form
    )
    with pytest.raises(UserError, match="is an EAGLE-3 draft head without its model.*--draft"):
        minimtp.load(tmp_path / name)
    model = minimtp.load(done.path)
    assert isinstance(minimtp.load_draft(done.draft.path, model), DraftHead)
    assert isinstance(minimtp.load_draft(done.path, model), minimtp.LoadedModel)


@pytest.mark.parametrize("form", ["llama", "speculators"])
def test_no_plan_takes_a_head_for_a_model(form, tmp_path):
    minimtp.export(loaded(MODEL), tmp_path / "model", draft=tmp_path / "draft", draft_format=form)
    assert sizes.model(str(tmp_path / "model")).hidden_size == 32
    for path in (tmp_path / "draft", tmp_path / "draft" / "config.json"):
        with pytest.raises(UserError, match="describes a draft head: give the config.json of its"):
            sizes.model(str(path))


def test_a_head_is_refused_for_a_model_that_it_was_not_loaded_for(draft):
    head = minimtp.load_draft(draft, loaded(MODEL))
    small = loaded(model_of("plain"))
    minimtp.Decoder(small, minimtp.DraftConfig(head))  # the same sizes
    wider = minimtp.LoadedModel("other", build_wider(), ByteTokenizer())
    with pytest.raises(UserError, match="another model"):
        minimtp.Decoder(wider, minimtp.DraftConfig(head))


def build_wider():
    from minimtp.training.build import build_model
    from tests.formats.eagle3.cases import BASE

    recipe = minimtp.Recipe(
        **BASE.to_dict()
        | {
            "hidden_size": 64,
            "heads": "none",
            "draft_depth": 0,
            "head_layers": "auto",
            "norm_before_fc": True,
        }
    )
    return build_model(recipe, np.random.default_rng(0))
