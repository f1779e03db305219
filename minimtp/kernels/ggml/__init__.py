"""The block formats of ggml, the library of llama.cpp, in plain arrays.

blocks.py               Q4_0, Q4_1, Q8_0: groups of 32 weights
superblocks.py          Q4_K, Q6_K: 256 weights with quantized scales
scale_search.py         how ggml searches for scales
five_bits.py            Q5_0, Q5_1
importance_weighted.py  Q4_0 and Q4_1 if the importance of each column is known
integer_products.py     the exact sums in a product of Q4_0 weights and int8 activations
"""
