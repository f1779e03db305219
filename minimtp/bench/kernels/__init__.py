"""`minimtp bench kernels`: the matrix products of decoding, next to the memory bandwidth, and those
of training, next to NumPy's.
"""
