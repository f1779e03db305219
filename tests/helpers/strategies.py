"""All Hypothesis strategies that several tests share."""

from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from minimtp.backend import numpy as np


@st.composite
def weight_matrices(draw, max_magnitude=1e4, block=32):
    """float32 matrices of 1 to 3 rows and 1 to 3 blocks of columns, up to `max_magnitude`.

    The weights are normally distributed, or on a lattice with many ties and many weights exactly on
    the bounds of a grid, or arbitrary. Some groups of 32 are zero or constant.
    """
    shape = draw(st.integers(1, 3)), draw(st.integers(1, 3 if block == 32 else 2)) * block // 32, 32
    kind = draw(st.sampled_from(["normal", "lattice", "any"]))
    if kind == "normal":
        spread = 10.0 ** draw(st.floats(-6, 2))
        matrix = spread * np.random.default_rng(draw(st.integers(0, 2**32))).standard_normal(shape)
    elif kind == "lattice":
        limit = draw(st.sampled_from([16, 254]))  # a step of 2 in one format, so odd ones are ties
        matrix = draw(
            arrays.arrays(np.int16, shape, elements=st.integers(-limit, limit))
        ) * 2.0 ** draw(st.integers(-20, 5))
    else:
        limit = float(np.float32(max_magnitude))
        matrix = draw(arrays.arrays(np.float32, shape, elements=st.floats(-limit, limit, width=32)))
    for group in range(shape[1]):
        special = draw(st.sampled_from(["", "", "", "zero", "constant"]))
        if special:
            matrix[:, group] = 0.0 if special == "zero" else matrix[:, group, :1]
    return matrix.reshape(shape[0], -1).astype(np.float32).clip(-max_magnitude, max_magnitude)


@st.composite
def ragged_matrices(draw, max_magnitude=1e4):
    """float32 matrices of 1 to 3 rows and 1 to 70 columns, with weights as in `weight_matrices`."""
    return draw(weight_matrices(max_magnitude))[:, : draw(st.integers(1, 70))]


@st.composite
def uniform_grids(draw, **fixed):
    """Uniform grids of 2 to 8 bits with any policy, granularity and scale type.

    Settings in `fixed` have the given value.
    """
    from minimtp.quant.grids import UniformGrid
    from minimtp.quant.grids.uniform import POLICIES

    settings_ = {
        "bits": draw(st.integers(2, 8)),
        "policy": draw(st.sampled_from(POLICIES)),
        "granularity": draw(st.one_of(st.sampled_from(["tensor", "channel"]), st.integers(1, 40))),
        "scale_type": draw(st.sampled_from(["float16", "float32"])),
    }
    return UniformGrid(**settings_ | fixed)


def matrices_for(grid, max_magnitude=1e4):
    """Matrices that the grid accepts: whole blocks for ggml's grids, any shape for other grids."""
    from minimtp.quant.grids import BlockGrid

    return (
        weight_matrices(max_magnitude=max_magnitude, block=grid.group_size)
        if isinstance(grid, BlockGrid)
        else ragged_matrices(max_magnitude)
    )


@st.composite
def codes_and_scales(draw, min_code, max_code):
    """Any codes from `min_code` to `max_code`, int8 (N, K), with any finite scales.

    The scales are float16 numbers as float32 (N, K/32).
    """
    rows, groups = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    codes = draw(
        arrays.arrays(np.int8, (rows, 32 * groups), elements=st.integers(min_code, max_code))
    )
    scales = draw(
        arrays.arrays(np.float16, (rows, groups), elements=st.floats(-65504, 65504, width=16))
    )
    return codes, scales.astype(np.float32)


@st.composite
def recipes(draw, **fixed):
    """Valid recipes with small models and short runs. Settings in `fixed` have the given value."""
    from minimtp.training.recipe import Recipe

    heads = draw(st.sampled_from(["none", "parallel", "sequential", "token_conditioned", "eagle3"]))
    gated = fixed.get("heads", heads) in ("token_conditioned", "eagle3")
    num_kv_heads, head_dim = draw(st.sampled_from([1, 2])), draw(st.sampled_from([16, 32]))
    num_heads = num_kv_heads * draw(st.sampled_from([1, 2]))
    batch, context_length = draw(st.integers(1, 4)), draw(st.integers(2, 24))
    steps, warmup = draw(st.integers(1, 60)), draw(st.floats(0, 1))
    curriculums = ["none"] if heads == "none" else ["none", "forward", "reverse"]
    tokens_per_step = batch * context_length
    settings_ = {
        "context_length": context_length,
        "num_layers": draw(st.integers(1, 2)),
        "hidden_size": num_heads * head_dim,
        "num_heads": num_heads,
        "num_kv_heads": num_kv_heads,
        "intermediate_size": draw(st.sampled_from([32, 64])),
        "tied_embeddings": draw(st.booleans()),
        "heads": heads,
        "draft_depth": 0 if heads == "none" else draw(st.integers(1, 4)),
        "head_loss_weight": draw(st.floats(0, 1)),
        "final_head_loss_weight": draw(st.floats(0, 1)),
        "head_loss_decay": draw(st.floats(0.1, 1)),
        "curriculum": draw(st.sampled_from(curriculums)),
        "draft_vocabulary_size": draw(st.none() | st.integers(1, 257)) if gated else None,
        "head_start_scale": draw(st.floats(0.1, 2)) if gated else 1.0,
        "batch_size": batch,
        "tokens": tokens_per_step * steps + draw(st.integers(0, tokens_per_step - 1)),
        "warmup_fraction": warmup,
        "decay_fraction": draw(st.floats(0, 1 - warmup)),
        "final_learning_rate_factor": draw(st.floats(0, 1)),
        "learning_rate": draw(st.floats(1e-5, 1)),
        "seed": draw(st.integers(0, 2**63 - 1)),
    }
    if settings_["hidden_size"] % 32 == 0:
        settings_["quantization"] = draw(st.sampled_from(["none", "qat"]))
        settings_["quantize_from"] = draw(st.integers(0, steps - 1)) / steps
    return Recipe(**settings_ | fixed)


@st.composite
def models(draw, **fixed):
    """Models of `recipes` with no weight at its initial value.

    They are in full precision, or fake-quantized or packed if the recipe quantizes.
    """
    from minimtp.quant.qat.convert import convert
    from minimtp.quant.qat.prepare import prepare_qat
    from minimtp.training.build import build_model, quantization_spec

    recipe = draw(recipes(**fixed))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    model = build_model(recipe, rng)
    # Matrices that are initialized to zero would hide errors in the layers before them.
    for parameter in model.parameters():
        noise = rng.standard_normal(parameter.data.shape, np.float32)
        parameter.data = parameter.data + 0.05 * noise
    if recipe.quantization == "none":
        return model
    model = prepare_qat(model, quantization_spec(recipe))
    return convert(model) if draw(st.booleans()) else model


@st.composite
def documents(draw, max_size=200):
    """Lists of documents (name, content) with arbitrary bytes, sorted by their unique names."""
    names = draw(st.sets(st.text("abcdefgh/", min_size=1, max_size=8), min_size=1, max_size=30))
    return [(name, draw(st.binary(min_size=1, max_size=max_size))) for name in sorted(names)]


@st.composite
def matmul_sizes(draw):
    """(rows, outputs, columns, seed) of a matmul in decoding, with whole groups of columns."""
    sizes = (
        draw(st.integers(1, 20) | st.integers(21, 70)),
        draw(st.integers(1, 100)),
        32 * draw(st.integers(1, 5)),
    )
    return *sizes, draw(st.integers(0, 2**32))


@st.composite
def tree_forms(draw, max_nodes=7):
    """Depths of the nodes of a tree in depth-first order: the root, then up to `max_nodes`."""
    form = [0]
    for _ in range(draw(st.integers(0, max_nodes))):
        form.append(draw(st.integers(1, form[-1] + 1)))
    return form


@st.composite
def matmul_operands(draw, max_size=70):
    """Pairs (a, b) of float32 matrices with integer values that can be multiplied.

    They have every memory layout that training uses: contiguous, transposed, batched, and batched
    slices of larger arrays.
    """
    rows, depth, columns = (draw(st.integers(1, max_size)) for _ in range(3))
    count, seed = draw(st.sampled_from([None, 1, 3])), draw(st.integers(0, 2**32))
    rng = np.random.default_rng(seed)

    def matrix(height: int, width: int) -> np.ndarray:
        transposed, cut = draw(st.booleans()), draw(st.booleans())
        shape = (width, height) if transposed else (height, width)
        numbers = rng.integers(-9, 10, (count or 1, shape[0] + 5 * cut, shape[1])).astype(
            np.float32
        )[:, : shape[0]]
        numbers = numbers.swapaxes(1, 2) if transposed else numbers
        return numbers if count else numbers[0]

    return matrix(rows, depth), matrix(depth, columns)


LAYOUTS = [(a, b) for a in (False, True) for b in (False, True)]


def laid_out(matrices, transposed):
    """Return the matrices in memory as rows, or as columns where `transposed`, one of LAYOUTS."""
    return [
        np.ascontiguousarray(matrix.T).T if flip else np.ascontiguousarray(matrix)
        for matrix, flip in zip(matrices, transposed, strict=True)
    ]
