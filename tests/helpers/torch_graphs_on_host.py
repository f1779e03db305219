"""A stand-in for PyTorch's CUDA graphs without a GPU: record PyTorch operations and replay them.

It has four properties of a CUDA graph. Recording computes nothing. A replay uses the Python numbers
of the recording. It uses the memory that the tensors had then. Operations that wait for the device
raise an error during a recording. So wrong results reveal a learning rate, a position or a batch
that was recorded as a constant, and a gradient that was added to an old one.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from minimtp.bench.baselines.pytorch import decoding, training

# The host waits for the results of these.
READS = {"aten::_local_scalar_dense", "aten::nonzero", "aten::equal"}


class CaptureError(RuntimeError):
    """An operation that a CUDA graph cannot record."""


class _Recorder(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.operations = []

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        options = options or {}
        if function._schema.name in READS:
            raise CaptureError(f"{function._schema.name} waits for the device")

        def call():
            return function(*arguments, **options)

        written = [(tensor, tensor.clone()) for tensor in _written(function, arguments, options)]
        result = call()
        if written:
            for tensor, before in written:  # undo it, because recording computes nothing
                tensor.copy_(before)
            self.operations.append(call)
            return result
        results = _tensors(result)
        given = {_address(tensor) for tensor in _tensors((arguments, options))}
        if any(_address(tensor) not in given for tensor in results):  # not only views
            self.operations.append(lambda: _copy(_tensors(call()), results))
            for tensor in results:
                has_nan = tensor.is_floating_point() or tensor.is_complex()
                tensor.fill_(float("nan") if has_nan else 1)
        return result


def _tensors(tree):
    return [leaf for leaf in tree_flatten(tree)[0] if isinstance(leaf, torch.Tensor)]


def _address(tensor):
    return tensor.untyped_storage().data_ptr()


def _copy(sources, targets):
    for source, target in zip(sources, targets, strict=True):
        target.copy_(source)


def _written(function, arguments, options):
    """Return the tensors that the operation writes to."""
    found = []
    for position, declared in enumerate(function._schema.arguments):
        if declared.alias_info is not None and declared.alias_info.is_write:
            value = arguments[position] if position < len(arguments) else options.get(declared.name)
            found += _tensors([value])
    return found


def recorded(torch, run):
    """Stand in for `recorded` of minimtp/bench/baselines/pytorch/device.py."""
    with _Recorder() as recorder:
        run()

    def replay():
        with torch.no_grad():
            for operation in recorder.operations:
                operation()

    return replay


def captured(torch, run):
    """Stand in for `captured` of minimtp/bench/baselines/pytorch/device.py."""
    for _ in range(3):
        run()
    return recorded(torch, run)


def on_stream(torch, stream, run):
    """Stand in for `on_stream` of minimtp/bench/baselines/pytorch/device.py: use no stream."""
    return run()


def replace_cuda_graphs(monkeypatch):
    """Let the PyTorch baselines record with this stand-in."""
    monkeypatch.setattr("torch.cuda.Stream", lambda: None)
    monkeypatch.setattr(training, "on_stream", on_stream)
    monkeypatch.setattr(training, "recorded", recorded)
    monkeypatch.setattr(decoding, "captured", captured)
