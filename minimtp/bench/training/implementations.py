"""The sides of `minimtp bench train`, each in a process of its own: minimtp, and PyTorch as it is
used (../torch_peer).

Several libraries in one process disturb each other's threads, and on a GPU each keeps what memory
it ever took. So a side lives in a process that sleeps until it is sent the batches of a round, and
on a GPU it gives back what only a step needs when the round is over: all of them together may need
more than there is. Taking it again, and recording a graph again, falls into the first steps of the
next round, which are not counted.
"""

import signal
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from importlib.util import find_spec
from multiprocessing import get_context
from time import perf_counter
from typing import NamedTuple

import minimtp
from minimtp import kernels, machine
from minimtp.backend import choose_device, empty_gpu_pool
from minimtp.backend import numpy as np
from minimtp.bench import gpu
from minimtp.bench.baselines.pytorch.training import CompiledTorchPeer, GraphedTorchPeer, TorchPeer
from minimtp.errors import MeasurementFailed, UserError
from minimtp.training.data.batches import Batches
from minimtp.training.presets import with_heads
from minimtp.training.recipe import Recipe
from minimtp.training.trainer import Trainer


class Minimtp:
    """The recipe's model in training, as `minimtp train` does it."""

    def __init__(self, recipe: Recipe, threads: int, device: str = "cpu") -> None:
        self.device = choose_device(device)
        name, reason = kernels.describe(self.device.name)
        self.trainer = Trainer(recipe, None, self.device, threads)
        self.about = {
            "title": f"minimtp {minimtp.__version__}",
            "threads": self.trainer.shards,
            "how": f"kernels {name}: {reason}",
            "versions": machine.versions(),
        }

    def run(self, batches: Sequence[np.ndarray]) -> list[float]:
        """A step on each of the batches (B, T + 1); their mean losses in nats, each before its
        step."""
        with closing(Batches(batches.__getitem__, self.device, len(batches))) as source:
            return [
                float(self.trainer.advance(source.at(step))[0][0]) for step in range(len(batches))
            ]

    def elapsed(self, run: Callable[[], object]) -> float | None:
        """Run it: the GPU's own seconds, None on the CPU."""
        if self.device.name != "cpu":
            return gpu.elapsed(self.device.xp, run)
        run()
        return None

    def release(self) -> None:
        """Give back the GPU memory that only a step needs."""
        empty_gpu_pool()


class MinimtpThroughRounding(Minimtp):
    """The same model in quantization-aware training from the first step on."""

    name = "minimtp QAT"

    def __init__(self, recipe: Recipe, threads: int, device: str = "cpu") -> None:
        super().__init__(replace(recipe, quantization="qat"), threads, device)
        self.about["title"] = self.name


class MinimtpWithHeads(Minimtp):
    """The same trunk with heads for three tokens more, trained as `minimtp compare` trains heads:
    in most steps detached."""

    name = "minimtp MTP, 4 tokens"

    def __init__(self, recipe: Recipe, threads: int, device: str = "cpu") -> None:
        super().__init__(replace(with_heads(recipe), draft_depth=AHEAD), threads, device)
        self.about |= {"title": self.name, "ahead": AHEAD}


AHEAD = 3  # tokens of a batch behind those that a side without heads sees
OURS = "minimtp"
PEERS = {  # by device
    "cpu": {"torch": TorchPeer, "torch.compile": CompiledTorchPeer},
    "cuda": {"torch": TorchPeer, "torch.graph": GraphedTorchPeer},
}
OTHERS = {"qat": MinimtpThroughRounding, "heads": MinimtpWithHeads} | PEERS["cpu"] | PEERS["cuda"]
UNCOUNTED = {"cpu": 0, "cuda": 1}  # steps at the beginning of a round


class Round(NamedTuple):
    """What became of a list of batches."""

    seconds: float  # by the host's clock
    device_seconds: float | None  # by the GPU's
    losses: list[float]


def play(side: Minimtp | TorchPeer, batches: Sequence[np.ndarray], uncounted: int) -> Round:
    """A step on each batch; the first `uncounted` leave no trace in what is returned."""
    losses: list[float] = []
    if uncounted:
        side.run(batches[:uncounted])
    began = perf_counter()
    on_device = side.elapsed(lambda: losses.extend(side.run(batches[uncounted:])))
    seconds = perf_counter() - began
    if on_device is not None:
        side.release()
    return Round(seconds, on_device, losses)


class Worker:
    """One side in a process of its own, idle until `run`; `about` says what it is.

    Raises ImportError when what the side needs is not there, UserError for settings it refuses.
    """

    def __init__(
        self, name: str, recipe: Recipe, threads: int, device: str, kernel_choice: str | None
    ) -> None:
        context = get_context(
            "spawn"
        )  # nothing of this process's threads and settings goes along but the environment
        self.connection, theirs = context.Pipe()
        settings = name, recipe, threads, device, kernel_choice
        self.process = context.Process(target=_work, args=(theirs, *settings), daemon=True)
        self.process.start()
        theirs.close()
        self.about: dict[str, object] = self._answer()

    def run(self, batches: Sequence[np.ndarray], uncounted: int = 0) -> Round:
        """See `play`. The batches are (B, T + 1 + AHEAD), of which a side gets what it can use."""
        unseen = AHEAD - self.about.get("ahead", 0)
        return self._answer(
            ([tokens[:, : tokens.shape[1] - unseen] for tokens in batches], uncounted)
        )

    def close(self) -> None:
        """End the process, whatever it is doing."""
        self.process.terminate()
        self.process.join()
        self.connection.close()

    def _answer(self, question: object = None):
        try:
            if question is not None:
                self.connection.send(question)
            answer = self.connection.recv()
        except (EOFError, OSError):  # it is gone
            self.process.join()
            raise MeasurementFailed(
                f"a worker of the measurement ended with exit code {self.process.exitcode}"
            ) from None
        if isinstance(answer, Exception):
            self.close()
            raise answer
        return answer


def _work(
    connection, name: str, recipe: Recipe, threads: int, device: str, kernel_choice: str | None
) -> None:
    """What a worker does: describe itself, then answer each list of batches with what became of
    it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the parent, which ends us
    try:
        if kernel_choice:
            kernels.use(kernel_choice)
        side = ({OURS: Minimtp} | OTHERS)[name](recipe, threads, device)
    except (ImportError, UserError) as error:
        connection.send(error)
        return
    connection.send(side.about)
    while True:
        try:
            batches, uncounted = connection.recv()
        except EOFError:
            return
        connection.send(play(side, batches, uncounted))


def started(
    recipe: Recipe, threads: int, device: str, kernel_choice: str | None, stack: ExitStack
) -> tuple[dict[str, Worker], dict[str, str]]:
    """(the workers that could be started, why the others could not); `stack` ends them."""
    workers, missing = {}, {}
    for name in (OURS, "qat", "heads", *PEERS[device]):
        if name in PEERS[device] and find_spec("torch") is None:
            missing[name] = "is not installed; pip install torch measures it too"
            continue
        try:
            workers[name] = Worker(name, recipe, threads, device, kernel_choice)
            stack.callback(workers[name].close)
        except ImportError as error:
            missing[name] = f"cannot be used: {str(error).splitlines()[0]}"
    return workers, missing
