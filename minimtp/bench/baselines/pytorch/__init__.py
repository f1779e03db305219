"""The same training and decoding in PyTorch, to be measured beside ours: what a competent user of
PyTorch would write.

    training.py    the standard model in training: eager, compiled, or whole steps as a CUDA graph
    decoding.py    its decoding with a cache: eager, or a token's pass as a CUDA graph
    bench/baselines/pytorch/matmul.py    one product of decoding, in half precision
    device.py      PyTorch on a device: imported, timed by the device's clock, recorded as a CUDA graph

The only files that import PyTorch, and not before a peer is made.
"""
