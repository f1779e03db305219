"""Products of matrices, compiled.

    panels.py          how weights lie in memory
    packed_linear.py   a few rows times a prepared matrix: decoding
    gemm.py            whole matrices: training
    tiles.py           the innermost loops of both
    code_products.py   ways to multiply int4 and int8 codes
    vectors.py         the vector instructions that the loops emit
    activations.py     rounding activations to int8
    embedding_rows.py  rows of a prepared matrix, decoded

What is computed is in `kernels/plain/packed_linear.py` and `kernels/plain/quantize.py`.
"""
