"""Matrix products in bfloat16, for processors that have instructions for them.

products.py  the product, in blocks
panels.py    the operands of a block, rounded and in the order in which the instructions read them
avx512.py    a tile of the result with the instruction of AVX-512 BF16
amx.py       a tile of the result with the matrix instructions of AMX
"""
