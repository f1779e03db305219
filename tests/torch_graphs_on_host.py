"""CUDA graphs of PyTorch's without a GPU: what a function asks PyTorch for is recorded and done again at the same places.

As with a CUDA graph, recording computes nothing, a replay uses the very numbers of the recording and the memory that its
tensors had then, and what waits for the device is an error while it is recorded. So a learning rate, a position or a batch that
was baked into a recording, and a gradient that was added to an old one, show as wrong results.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

READS = {"aten::_local_scalar_dense", "aten::nonzero", "aten::equal"}  # the host waits for them


class CaptureError(RuntimeError):
    """What cannot be done while a graph is recorded."""


class _Recorder(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.operations = []

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        options = options or {}
        if function._schema.name in READS:
            raise CaptureError(f"{function._schema.name} waits for the device")
        kept = [(tensor, tensor.clone()) for tensor in _changed(function, arguments, options)]
        result = function(*arguments, **options)
        if kept:
            for tensor, before in kept:  # undone, for nothing is computed yet
                tensor.copy_(before)
            self.operations.append(lambda: function(*arguments, **options))
            return result
        given, results = (
            {_place(tensor) for tensor in _tensors((arguments, options))},
            _tensors(result),
        )
        if any(_place(tensor) not in given for tensor in results):  # more than a view
            self.operations.append(
                lambda: _copy(_tensors(function(*arguments, **options)), results)
            )
            for tensor in results:
                tensor.fill_(
                    float("nan") if tensor.is_floating_point() or tensor.is_complex() else 1
                )
        return result


def _tensors(tree):
    return [leaf for leaf in tree_flatten(tree)[0] if isinstance(leaf, torch.Tensor)]


def _place(tensor):
    return tensor.untyped_storage().data_ptr()


def _copy(sources, targets):
    for source, target in zip(sources, targets, strict=True):
        target.copy_(source)


def _changed(function, arguments, options):
    """The tensors that the operation writes to."""
    found = []
    for position, declared in enumerate(function._schema.arguments):
        if declared.alias_info is not None and declared.alias_info.is_write:
            value = arguments[position] if position < len(arguments) else options.get(declared.name)
            found += _tensors([value])
    return found


def recorded(torch, run):
    """As minimtp.bench.baselines.pytorch.device.recorded."""
    with _Recorder() as recorder:
        run()

    def replay():
        with torch.no_grad():
            for operation in recorder.operations:
                operation()

    return replay


def captured(torch, run):
    """As minimtp.bench.baselines.pytorch.device.captured."""
    for _ in range(3):
        run()
    return recorded(torch, run)


def used(monkeypatch, module):
    """Let a module of minimtp.bench.baselines.pytorch record with this stand-in. Other streams are the current one."""
    monkeypatch.setattr("torch.cuda.Stream", lambda: None)
    for name, stand_in in (
        ("recorded", recorded),
        ("captured", captured),
        ("on_stream", lambda torch, stream, run: run()),
    ):
        if hasattr(module, name):
            monkeypatch.setattr(module, name, stand_in)
