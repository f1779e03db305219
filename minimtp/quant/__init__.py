"""Quantization: weights as codes of a few bits times scales.

Begin with grids/, which says what rounding means here.

    grids/            number formats: which values a weight can take
    qat/              training with rounding
    ptq/              rounding a finished model
    activations.py    rounding the inputs of a matrix product
    packing.py        codes and scales as bytes (bit_packing.py: the bytes of the codes)
    packed_matrix.py  the modules that hold these bytes and compute with them
"""
