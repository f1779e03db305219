"""Presets and files: known sizes, and one sentence for a file that cannot be used."""

import json

import pytest

from minimtp.errors import UserError
from minimtp.plan.costs.memory import Drafter, cache_bytes_per_token, max_requests, weight_bytes
from minimtp.plan.costs.sizes import HALF, INT4, Hardware, hardware, model, names


@pytest.mark.parametrize(
    ("name", "billions"), [("1b", 1.236), ("8b", 8.030), ("13b", 13.016), ("70b", 70.553)]
)
def test_the_models_have_the_published_number_of_parameters(name, billions):
    assert model(name).parameters / 1e9 == pytest.approx(billions, abs=0.001)


def test_every_preset_of_hardware_can_be_read_and_names_its_source():
    for name in names("hardware"):
        device = hardware(name)
        assert device.source and device.dollars_per_hour > 0
        assert device.memory_gigabytes >= 4


def test_a_70b_at_four_bits_is_39_gigabytes_and_a_13b_at_sixteen_bits_26():
    large, small = model("70b"), model("13b")
    assert 4.5 / 8 * large.parameters / 1e9 == pytest.approx(39.7, abs=0.1)
    assert weight_bytes(large, INT4) / 1e9 == pytest.approx(40.7, abs=0.1)  # tables at 8.5 bits
    assert weight_bytes(small, HALF) / 1e9 == pytest.approx(26.0, abs=0.1)


def test_the_cache_of_llama_3_takes_an_eighth_of_a_megabyte_per_token():
    # 2 x 32 layers x 8 heads x 128 x 2 bytes
    assert cache_bytes_per_token(model("8b"), 16) == 131_072
    assert cache_bytes_per_token(model("8b"), 16, Drafter(1)) == 131_072 * 33 / 32


def test_requests_fit_as_long_as_weights_and_caches_do():
    assert max_requests(100, 40, 2, 10) == 3
    assert max_requests(100, 99, 2, 10) == 0
    assert max_requests(100, 200, 2, 10) == 0


def test_a_config_file_without_key_value_heads_has_as_many_as_heads(tmp_path):
    file = tmp_path / "config.json"
    content = {
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "vocab_size": 100, "architectures": ["LlamaForCausalLM"],
    }  # fmt: skip
    file.write_text(json.dumps(content))
    size = model(str(file))
    assert size.kv_size == 64 and size.head_size == 16
    assert size.parameters == 2 * (4 * 64 * 64 + 3 * 64 * 128) + 2 * 100 * 64


HARDWARE = {"memory_gigabytes": 80, "gigabytes_per_second": 2000, "teraflops": 300}


@pytest.mark.parametrize(
    "change",
    [
        {"gigabytes_per_second": 0}, {"gigabytes_per_second": -1}, {"teraflops": "fast"},
        {"memory_gigabytes": None}, {"teraflops": float("nan")}, {"memory_gigabytes": 1e400},
        {"bandwidth_efficiency": 1.5}, {"bandwidth_efficiency": 0}, {"dollars_per_hour": -1},
        {"teraflops": [300]}, {"bandwith": 3}, {"layer_microseconds": True},
    ],
    ids=str,
)  # fmt: skip
def test_hardware_with_an_impossible_value_is_refused_in_one_sentence(tmp_path, change):
    file = tmp_path / "card.json"
    file.write_text(json.dumps(HARDWARE | change))
    with pytest.raises(UserError) as refused:
        hardware(str(file))
    message = str(refused.value)
    assert str(file) in message and next(iter(change)) in message
    assert "\n" not in message


@pytest.mark.parametrize("key", list(HARDWARE))
def test_hardware_without_a_required_key_is_refused_with_the_key(tmp_path, key):
    file = tmp_path / "card.json"
    file.write_text(json.dumps({k: v for k, v in HARDWARE.items() if k != key}))
    with pytest.raises(UserError, match=f"{key} is missing"):
        hardware(str(file))


@pytest.mark.parametrize("content", ["", "{", "[]", "3", "null", '{"a":', "\x00", "[" * 10_000])
def test_a_file_that_is_no_hardware_is_refused(tmp_path, content):
    file = tmp_path / "card.json"
    file.write_text(content)
    with pytest.raises(UserError, match="card.json"):
        hardware(str(file))


def test_heads_that_do_not_divide_the_width_are_refused(tmp_path):
    file = tmp_path / "config.json"
    content = {
        "hidden_size": 65, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "vocab_size": 100,
    }  # fmt: skip
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match="hidden_size 65 is not a multiple"):
        model(str(file))
    file.write_text(json.dumps(content | {"hidden_size": 64, "num_key_value_heads": 3}))
    with pytest.raises(UserError, match="num_key_value_heads 3"):
        model(str(file))


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(UserError, match="--hardware 'h101' is neither .* h100"):
        hardware("h101")
    with pytest.raises(UserError, match="--model '7b' is neither"):
        model("7b")


def test_weights_that_fit_the_cache_of_a_processor_get_its_bandwidth():
    device = Hardware(
        1, 30, 0.1, cache_megabytes=16, cache_gigabytes_per_second=80, bandwidth_efficiency=1.0
    )
    assert device.bytes_per_second(16e6) == 80e9
    assert device.bytes_per_second(17e6) == 30e9
