"""The same training and decoding in PyTorch, as a competent user of PyTorch would write it.

    training.py    trains the standard model: eager, compiled, or whole steps as a CUDA graph
    decoding.py    decodes with a cache: eager, or the forward pass of a token as a CUDA graph
    matmul.py      one matrix product of decoding, in half precision
    device.py      PyTorch on a device: import, the device's clock, CUDA graphs

Only these files import PyTorch, and only when a baseline is created.
"""
