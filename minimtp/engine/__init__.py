"""Automatic differentiation, modules and the optimizer, written by hand.

Files:

    tensor.py     Tensor, Op, and the backward pass
    ops.py        the elementary operations, and Tensor's operators (broadcasting.py)
    fused.py      the operations a language model needs
    precision.py  matmul in fewer bits
    module.py     models as trees of modules
    flat.py       all parameters in one array
    optim.py      AdamW
    replicas.py   one batch on several threads
    gradcheck.py  derivatives tested by central differences
"""

from minimtp.engine import ops  # noqa: F401  (gives Tensor its operators)
