"""`minimtp bench kernels`: the matrix products of decoding, next to the memory bandwidth."""
