"""Compiled matrix products.

    panels.py          the memory layout of weights
    packed_linear.py   a few rows times a prepared matrix: decoding
    gemm.py            whole matrices: training
    tiles.py           the innermost loops of both
    bfloat16/          whole matrices of bfloat16 numbers: training in this precision
    code_products.py   ways to multiply int4 and int8 codes
    vectors.py         the vector instructions that the loops emit
    activations.py     rounding activations to int8
    embedding_rows.py  embedding lookups in a prepared matrix

See `kernels/plain/packed_linear.py` and `kernels/plain/quantize.py` for the definitions.
"""
