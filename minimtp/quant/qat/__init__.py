"""Quantization-aware training: a model trains with weights, activations and KV cache rounded as in
its deployed form.

spec.py            QuantizationSpec: which matrix gets which grid
prepare.py         prepare_qat: Linear -> FakeQuantizedLinear, Embedding -> FakeQuantizedEmbedding
modules.py         the fake-quantized modules
fake_quantize.py   the operations that round, and their straight-through gradients
learned.py         steps, offsets and bounds of the grid as parameters
start_steps.py     training that starts from the codes and steps of a packed model
kv_cache.py        the quantized KV cache
convert.py         convert: fake-quantized -> packed; restore: packed weights from a file
"""
