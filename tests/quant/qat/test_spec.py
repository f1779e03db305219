"""The spec assigns a grid to every matrix and rejects unknown names."""

import pytest

from minimtp.backend import numpy as np
from minimtp.errors import UserError
from minimtp.quant.packed_matrix import PackedMatrix
from minimtp.quant.qat.convert import convert
from minimtp.quant.qat.kv_cache import AttentionWithQuantizedCache
from minimtp.quant.qat.modules import FakeQuantizedMatrix
from minimtp.quant.qat.prepare import prepare_qat
from minimtp.quant.qat.spec import QuantizationSpec
from minimtp.training.build import build_model, quantization_spec
from minimtp.training.presets import preset


@pytest.mark.parametrize(
    "field", ["weights", "embedding", "heads", "activations", "straight_through"]
)
def test_an_unknown_name_in_a_spec_is_an_error_that_lists_the_known_names(field):
    with pytest.raises(UserError, match="unknown .* 'int3': use"):
        QuantizationSpec(**{field: "int3"})


def test_a_recipe_can_give_every_part_its_own_grid():
    """Trunk, embedding, output, heads, activations and cache are quantized as the recipe states, in
    training and in the packed model.
    """
    recipe = preset(
        "tiny",
        heads="sequential",
        draft_depth=2,
        quantization="qat",
        tied_embeddings=False,
        weight_grid="int3-ggml-signed-g32,qkv=q5_0,down=int4-affine-channel",
        embedding_grid="q8_0",
        output_grid="int6-full-mid-g16",
        head_grid="q4_1",
        activations="int8-token",
        kv_cache="int4",
    )
    model = prepare_qat(build_model(recipe, np.random.default_rng(0)), quantization_spec(recipe))
    packed = convert(model)

    def grid_of(name):
        if name.startswith("heads."):
            return "q4_1"
        tables = {"trunk.embedding": "q8_0", "trunk.output": "int6-full-mid-g16"}
        finer = {"qkv": "q5_0", "down": "int4-affine-channel"}
        return tables.get(name) or finer.get(name.rpartition(".")[2], "int3-ggml-signed-g32")

    for each, kind in ((model, FakeQuantizedMatrix), (packed, PackedMatrix)):
        matrices = {name: m for name, m in each.named_modules() if isinstance(m, kind)}
        assert len(matrices) > 4
        assert {name: m.grid.name for name, m in matrices.items()} == {
            name: grid_of(name) for name in matrices
        }
        caches = {
            type(block.attention)
            for block in [*each.trunk.blocks, *(head.block for head in each.heads.steps)]
        }
        assert caches == {AttentionWithQuantizedCache}
    assert {m.activations for _, m in packed.named_modules() if isinstance(m, PackedMatrix)} == {
        "int8-token"
    }
