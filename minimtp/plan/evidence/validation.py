"""Predicted beside measured tokens/s, for every configuration of comparisons (compare.json).

A prediction never uses the number that it predicts. There are three ways, by what a file holds:

    c(T)      the pass times of the same configuration, which `compare` times alone (measured.py);
              the cost of drafting on training text; how many drafts are accepted, which is
              counted, not timed. The time of the loop and of sampling comes from plain decoding
              of the *other* configurations.
    kernels   files of earlier versions hold no c(T), but the speed of the same configuration
              without drafts, which is c(1). c(T) grows from there like a matrix product with as
              many weights, in a file of `bench kernels` of the same processor. This predicts
              drafting from plain decoding.
    roofline  bandwidth and peak of the processor alone (presets.toml): nothing of `compare`.

Earlier files do not say how often a j-th token was drafted. `compare` ends a draft when the drafter
is not confident, so N_j falls with j. It is taken as rho^(j-1), with the rho that gives the counted
tokens per step.
"""

import math
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from minimtp.plan.costs.cost import Roofline
from minimtp.plan.costs.memory import Drafter
from minimtp.plan.costs.sizes import Hardware, ModelSize, Precision, hardware
from minimtp.plan.evidence.compared import Validated
from minimtp.plan.evidence.decoding import validate_decoding
from minimtp.plan.measured import (
    Comparison,
    MeasuredConfiguration,
    PassTimes,
    has_costs,
    loop_and_row_seconds,
    measured_cost,
    plain_speed,
    read_comparison,
)
from minimtp.records import AboveZero, Positive, read_json

FLOAT = Precision(32.0, 32.0)
LOW_BIT = Precision(4.5, 8.5)
PROCESSORS = {  # by a part of the name: the preset, and the kernels measured beside the file
    "family 25, model 17": ("zen4-core", "bench-kernels.json"),
    "family 6, model 207": ("emerald-rapids-core", "bench-kernels-intel.json"),
}
# Earlier files do not name the generation of the processor; their names do.
FILES = {"zen5": ("zen5-core", "bench-kernels-zen5.json")}
# The rest of a pass (norms, attention, the loop) grows by this share for each further row, and a
# draft has this part of the rest of one layer: from c(8) and the cost of drafting in
# bench-decode.json, less the products in bench-kernels.json.
REST_GROWTH = 0.1
REST_OF_A_DRAFT = 0.3
UNDRAFTED = {"mtp_int4_rounded": "mtp_qat_int4"}  # whose plain decoding was measured
STANDARD = "standard"


class Kind(Struct):
    """What tells a bench-decode.json from a compare.json."""

    measurement: str = ""


class Product(Struct):
    format: str
    outputs: Positive
    inputs: Positive
    microseconds: dict[str, AboveZero]


class Kernels(Struct):
    """What is read of bench-kernels.json."""

    products: list[Product]


def validate(paths: Sequence[str | Path]) -> list[Validated]:
    """Predict all configurations of these files: compare.json or bench-decode.json. Raises
    UserError if one cannot be read.
    """
    return [row for path in paths for row in _rows_of(Path(path))]


def _rows_of(path: Path) -> list[Validated]:
    kind = read_json(path, Kind, advice="give a compare.json or a bench-decode.json")
    return validate_decoding(path) if kind.measurement == "decode" else _validate(path)


def _validate(path: Path) -> list[Validated]:
    found = read_comparison(path)
    preset, kernels_file = _processor(path, found)
    device = hardware(preset) if preset else None
    kernels = None
    if kernels_file and (path.parent / kernels_file).is_file():
        advice = "run minimtp bench kernels again"
        kernels = read_json(path.parent / kernels_file, Kernels, advice=advice)
    rows = []
    for configuration in found.configurations:
        for temperature in (0, 1):
            rows.append(
                Validated(
                    path.name,
                    configuration.name,
                    temperature,
                    configuration.at("tokens_per_second", temperature),
                    _by_c(found, configuration, temperature),
                    _by_kernels(found, configuration, temperature, kernels),
                    _by_roofline(found, configuration, temperature, device),
                )
            )
    return rows


def _processor(path: Path, found: Comparison) -> tuple[str | None, str | None]:
    for words, known in (*PROCESSORS.items(), *FILES.items()):
        if words in found.machine.processor or words in path.stem:
            return known
    return None, None


def drafted_shares(configuration: MeasuredConfiguration, temperature: int) -> list[float]:
    """Return N_j: as counted, or rho^(j-1) with the counted tokens per step."""
    counted = configuration.at("drafted", temperature)
    if counted is not None:
        return counted
    accepted = [share or 0.0 for share in configuration.at("acceptance", temperature)]
    tokens = configuration.at("tokens_per_step", temperature)
    low, high = 0.0, 1.0
    for _ in range(50):
        rho = (low + high) / 2
        guess = 1 + sum(share * rho**j for j, share in enumerate(accepted))
        low, high = (rho, high) if guess < tokens else (low, rho)
    return [high**j for j in range(len(accepted))]


def _by_c(
    found: Comparison, configuration: MeasuredConfiguration, temperature: int
) -> float | None:
    if not has_costs(configuration):
        return None
    others = [other for other in found.configurations if other is not configuration]
    loop, row = loop_and_row_seconds(others, temperature)
    cost = measured_cost(configuration, loop, row, temperature)
    drafts = configuration.at("drafted", temperature) or []
    seconds = _passes(cost.passes, drafts) + loop + row * (1 + sum(drafts))
    seconds += cost.draft_seconds(1, len(drafts), 0)
    return configuration.at("tokens_per_step", temperature) / seconds


def _passes(passes: PassTimes, drafted: Sequence[float]) -> float:
    """Return the mean of c(1 + K) over the lengths K of the drafts."""
    shares = [1.0, *drafted, 0.0]
    lengths = (high - low for high, low in zip(shares, shares[1:], strict=False))
    return sum(share * passes(1 + length) for length, share in enumerate(lengths))


def _by_roofline(
    found: Comparison,
    configuration: MeasuredConfiguration,
    temperature: int,
    device: Hardware | None,
) -> float | None:
    if device is None:
        return None
    drafted = drafted_shares(configuration, temperature)
    cost = _roofline(found, configuration, device)
    context = found.sizes.prompt + found.sizes.max_new_tokens / 2
    mean_rows = 1 + sum(drafted)
    low = math.floor(mean_rows)
    at_low, at_high = (cost.pass_seconds(1, rows, context) for rows in (low, low + 1))
    seconds = at_low + (mean_rows - low) * (at_high - at_low)
    seconds += sum(drafted) * _head_bytes(found, configuration) / cost.bandwidth
    return configuration.at("tokens_per_step", temperature) / seconds


def _roofline(
    found: Comparison, configuration: MeasuredConfiguration, device: Hardware
) -> Roofline:
    recipe = found.recipe
    size = ModelSize(
        hidden_size=recipe.hidden_size,
        intermediate_size=recipe.intermediate_size,
        num_hidden_layers=recipe.num_layers,
        num_attention_heads=recipe.num_heads,
        num_key_value_heads=recipe.num_kv_heads,
        vocab_size=recipe.vocabulary_size,
        tie_word_embeddings=True,
    )
    precision = LOW_BIT if "int4" in configuration.name else FLOAT
    return Roofline(size, precision, device, Drafter(0), cache_bits=32.0)


def _head_bytes(found: Comparison, configuration: MeasuredConfiguration) -> float:
    """Return the bytes that one draft reads: a seventh of the heads, and the output matrix."""
    heads = found.by_name["mtp"].weight_bytes - found.by_name[STANDARD].weight_bytes
    output = 4 * found.recipe.vocabulary_size * found.recipe.hidden_size
    scale = configuration.weight_bytes / found.by_name["mtp"].weight_bytes
    return scale * (heads / 7 + output)


def _by_kernels(
    found: Comparison,
    configuration: MeasuredConfiguration,
    temperature: int,
    kernels: Kernels | None,
) -> float | None:
    if kernels is None or configuration.name == STANDARD:
        return None
    like = found.by_name[UNDRAFTED.get(configuration.name, configuration.name)]
    greedy, plain = plain_speed(like, 0), plain_speed(like, temperature)
    if greedy is None or plain is None:
        return None
    grid = "q4_0" if "int4" in configuration.name else "f32"
    rest = max(0.0, 1 / greedy - _products(found, kernels, grid, 1))
    sampling = max(0.0, 1 / plain - 1 / greedy)  # for each row, and for each draft
    drafted = drafted_shares(configuration, temperature)
    shares = [1.0, *drafted, 0.0]
    lengths = [high - low for high, low in zip(shares, shares[1:], strict=False)]
    seconds = sum(
        share * (_products(found, kernels, grid, 1 + length) + rest * (1 + REST_GROWTH * length))
        for length, share in enumerate(lengths)
    )
    draft = _draft_products(found, kernels, grid)
    draft += REST_OF_A_DRAFT * rest / found.recipe.num_layers
    seconds += sum(drafted) * draft + sampling * (1 + 2 * sum(drafted))
    return configuration.at("tokens_per_step", temperature) / seconds


def _products(found: Comparison, kernels: Kernels, grid: str, rows: int) -> float:
    """Return the seconds of all matrix products of a pass: those of one product with as many
    weights, because a pass streams through as many bytes.
    """
    recipe = found.recipe
    width, kv = recipe.hidden_size, recipe.hidden_size // recipe.num_heads * recipe.num_kv_heads
    layer = 2 * width * (width + kv) + 3 * recipe.intermediate_size * width
    weights = recipe.num_layers * layer + recipe.vocabulary_size * width
    return _product(kernels, grid, weights, rows)


def _draft_products(found: Comparison, kernels: Kernels, grid: str) -> float:
    width = found.recipe.hidden_size
    heads = found.by_name["mtp"].weight_bytes - found.by_name[STANDARD].weight_bytes
    output = "q8_0" if grid == "q4_0" else grid
    own = _product(kernels, grid, heads // 4 // 7, 1)
    return own + _product(kernels, output, found.recipe.vocabulary_size * width, 1)


def _product(kernels: Kernels, grid: str, weights: int, rows: int) -> float:
    """Return the seconds of a product: between the two next measured sizes, in logarithms."""
    measured = sorted(
        (p.outputs * p.inputs, PassTimes({int(r): t * 1e-6 for r, t in p.microseconds.items()}))
        for p in kernels.products
        if p.format == grid
    )
    sizes = [size for size, _ in measured]
    index = min(max(sum(size < weights for size in sizes), 1), len(sizes) - 1)
    (low, low_time), (high, high_time) = measured[index - 1], measured[index]
    share = math.log(weights / low) / math.log(high / low)
    first, second = math.log(low_time(rows)), math.log(high_time(rows))
    return math.exp(first + share * (second - first))
