"""How fast minimtp is beside others, measured so that the comparison can be trusted: `minimtp bench train`.

Training the preset's standard model, in minimtp and in PyTorch, eager and compiled (torch_peer.py), on the same processor and
threads; and in minimtp through the rounding to 4 bits, for what that costs.

**In turn.** A shared machine drifts, and several libraries in one process disturb each other's threads. So each side lives in a
process of its own, which sleeps until it is sent the batches of a round; a round is some training steps, and the sides
take turns, round by round, each beginning every other time. A speed is the median over the rounds, given with its range; the
ratio is the median of the ratios of rounds that lay side by side. Choosing and cutting the batches is not counted.
A busy machine is told of, for it hurts unequally: PyTorch's threads spin until all have arrived, so with two of them and one
core taken by other work it was 8 to 80 times slower than with one.

**Equal work.** All start from the same weights and see the same batches. The first 20 steps warm up and compile, are not
counted, and their losses, but for the side that rounds, must agree within 1e-4 of the loss. A loss is rounded to 1e-7 of itself
in float32, sums in another order differ by one or two of those, and every step of training multiplies the difference: 6e-7 was
seen with `quick`, 4e-5 with `laptop`. With `tiny` a clipping, a warm-up, a beta or a weight decay wrong by a tenth makes
more than is allowed, as the tests show.

**The peak** is what NumPy's product of matrices of 1024 x 1024 reaches on as many threads, once a round, between the others.

**Counted** as operations, 2 for a multiplication and an addition: 6 for each token and weight of a product (2 forward, 4
backward; norms and the table's look-up are none), and for attention 6 (T + 1) D a token and layer, three times the forward's
two products of which the mask leaves one half. Nothing is counted twice for being computed twice.
"""

import json
import signal
import statistics
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter

from tqdm import tqdm

import minimtp
from minimtp import kernels
from minimtp.backend import available_cores, choose_device
from minimtp.backend import numpy as np
from minimtp.bench import machine
from minimtp.errors import UserError
from minimtp.torch_peer import CompiledTorchPeer, TorchPeer
from minimtp.training import checkpoint, presets
from minimtp.training.corpus import open_corpus
from minimtp.training.recipe import Recipe
from minimtp.training.trainer import Trainer

CHECKED_STEPS = 20
TOLERANCE = 1e-4  # of the loss: float32 agrees to 1e-7 in the first step, and each step multiplies what is different


class Minimtp:
    """The recipe's model in training, as `minimtp train` does it."""

    def __init__(self, recipe: Recipe, threads: int) -> None:
        name, reason = kernels.describe()
        self.trainer = Trainer(recipe, None, choose_device("cpu"), threads)
        versions = {"numpy": np.__version__}
        if name == "cpu":
            versions["numba"] = sys.modules["numba"].__version__
        self.about = {
            "title": f"minimtp {minimtp.__version__}",
            "threads": self.trainer.shards,
            "how": f"kernels {name}: {reason}",
            "versions": versions,
        }

    def advance(self, tokens: np.ndarray) -> float:
        """One step on a batch (B, T + 1); the mean loss in nats, before the step."""
        return float(self.trainer.advance(tokens)[0][0])


class MinimtpThroughRounding(Minimtp):
    """The same model in quantization-aware training from the first step on."""

    name = "minimtp QAT"

    def __init__(self, recipe: Recipe, threads: int) -> None:
        super().__init__(replace(recipe, quantization="qat"), threads)
        self.about["title"] = self.name


OURS = "minimtp"
PEERS = {"torch": TorchPeer, "torch.compile": CompiledTorchPeer}
OTHERS = {"qat": MinimtpThroughRounding} | PEERS
SIDES = {OURS: Minimtp} | OTHERS


def train(
    preset: str = "quick",
    *,
    steps: int = 20,
    rounds: int = 5,
    threads: int | None = None,
    kernel_choice: str | None = None,
    out: str | Path | None = None,
    report: Callable[[str], None] = print,
) -> dict[str, object]:
    """Measure `rounds` rounds of `steps` training steps a side, and return (with `out`, also write) what was found.

    Raises UserError for what cannot be used, and RuntimeError when the losses of two sides differ.
    """
    threads = available_cores() if threads is None else threads
    for name, value, most in (("steps", steps, 10_000), ("rounds", rounds, 1_000), ("threads", threads, available_cores())):
        if not 1 <= value <= most:
            raise UserError(f"{name} must be at least 1 and at most {most}, not {value}")
    if out is not None and Path(out).is_dir():
        raise UserError(f"{out} is a folder: give --out the name of a file")
    recipe = presets.preset(preset)
    per_step, needed = recipe.batch * recipe.context, CHECKED_STEPS + rounds * steps
    recipe = replace(recipe, tokens=max(recipe.tokens, needed * per_step))  # the schedule does not end before we do
    load = machine.load()
    text = open_corpus()
    text.require(recipe.batch, recipe.context, 0)
    if out is not None:
        checkpoint.make_folder(Path(out).parent)

    def batches(first: int, count: int) -> list[np.ndarray]:
        numbers = range(first, first + count)
        return [text.batch(i, seed=recipe.seed, batch=recipe.batch, context=recipe.context) for i in numbers]

    with ExitStack() as stack:
        workers, missing = _started(recipe, threads, kernel_choice, stack)
        report(
            f"{preset}: {recipe.trunk_parameters():,} parameters, {recipe.batch} x {recipe.context} tokens a step, "
            f"{rounds} rounds of {steps} steps a side, in turn, {threads} thread{'s' * (threads > 1)}"
        )
        machine.warn_if_busy(load, report)
        losses, difference, seconds, peaks = _take_turns(workers, batches, steps, rounds, threads)
        abouts = {name: worker.about for name, worker in workers.items()}

    rates = {name: [steps * per_step / elapsed for elapsed in times] for name, times in seconds.items()}
    per_token = operations_per_token(recipe)
    peak = statistics.median(peaks)
    sides = {name: about | _spread(rates[name], per_token, peak) for name, about in abouts.items()}
    result = {
        "measurement": "train", "preset": preset, "recipe": recipe.to_dict(), "parameters": recipe.trunk_parameters(),
        "tokens_per_step": per_step, "steps": steps, "rounds": rounds, "threads": threads,
        "operations_per_token": per_token, "sgemm_gflops": peak, "sides": sides, "missing": missing,
        "ratios": {name: _ratio(rates[OURS], rates[name]) for name in OTHERS if name in rates},
        "losses": {"steps": CHECKED_STEPS, "tolerance": TOLERANCE, "largest_difference": difference, **losses},
        "machine": machine.describe(load),
        "versions": machine.versions() | {k: v for about in abouts.values() for k, v in about["versions"].items()},
        "corpus": text.to_dict(),
    }  # fmt: skip
    report(table(result))
    if out is not None:
        checkpoint.write_text(Path(out), json.dumps(result, indent=2) + "\n")
        report(f"saved {out}")
    return result


def _take_turns(
    workers: dict[str, "Worker"], batches: Callable[[int, int], list[np.ndarray]], steps: int, rounds: int, threads: int
) -> tuple[dict[str, list[float]], float | None, dict[str, list[float]], list[float]]:
    """(the first losses of each side, their largest difference, the seconds of each of its rounds, sgemm's GFLOP/s)."""
    losses, seconds, peaks = {}, {name: [] for name in workers}, []
    with tqdm(total=(rounds + 1) * len(workers), unit="round", disable=None, file=sys.stderr) as bar:
        for name, worker in workers.items():
            losses[name] = worker.run(batches(0, CHECKED_STEPS))[1]
            bar.update()
        difference = largest_difference(losses)
        for i in range(rounds):
            work = batches(CHECKED_STEPS + i * steps, steps)
            for name in list(workers)[:: -1 if i % 2 else 1]:
                seconds[name].append(workers[name].run(work)[0])
                bar.update()
            peaks.append(machine.sgemm_gflops(threads))
    return losses, difference, seconds, peaks


def operations_per_token(recipe: Recipe) -> int:
    """Floating-point operations of a training step, a token; see the top of this file for what is counted."""
    norms = (2 * recipe.layers + 1) * recipe.width
    lookup = 0 if recipe.tied_embeddings else recipe.vocabulary_size * recipe.width
    attention = recipe.layers * recipe.width * (recipe.context + 1)  # the mean over positions of 2 D products a token seen
    return 6 * (recipe.trunk_parameters() - norms - lookup) + 6 * attention


def largest_difference(losses: dict[str, Sequence[float]]) -> float | None:
    """Between minimtp's losses and the peers', as a share of the loss; None without a peer.

    Raises RuntimeError beyond the tolerance.
    """
    peers = np.asarray([losses[name] for name in PEERS if name in losses])
    if not len(peers):
        return None
    difference = float((np.abs(np.asarray(losses[OURS]) - peers) / np.abs(peers)).max())
    if not difference <= TOLERANCE:  # NaN is not
        raise RuntimeError(f"the sides' losses differ by {difference:.2g} of the loss, and {TOLERANCE:g} is allowed: they do "
                           f"not train the same model\n{losses}")  # fmt: skip
    return difference


def table(result: dict[str, object]) -> str:
    """What the command prints."""
    lines = [f"{'':<22}{'tokens/s':>10}{'slowest':>10}{'fastest':>10}{'GFLOP/s':>10}{'of peak':>9}"]
    for side in result["sides"].values():
        speeds = (side[name] for name in ("tokens_per_second", "slowest", "fastest"))
        threads = f"{side['threads']} thread{'s' * (side['threads'] > 1)}"
        lines.append(f"{side['title']:<22}" + "".join(f"{speed:>10,.0f}" for speed in speeds)
                     + f"{side['gflops']:>10.1f}{side['share_of_peak']:>9.0%}   {threads}, {side['how']}")  # fmt: skip
    lines += [f"{PEERS[name].name:<22}{reason}" for name, reason in result["missing"].items()]
    for name, ratio in result["ratios"].items():
        ratio = "".join(f"{ratio[key]:>10.2f}" for key in ("median", "lowest", "highest"))
        lines.append(f"{f'minimtp / {OTHERS[name].name}':<22}{ratio}")
    losses = result["losses"]
    if losses["largest_difference"] is not None:
        lines.append(f"losses of the first {losses['steps']} steps from the same weights and batches differ by at most "
                     f"{losses['largest_difference']:.1g} of the loss ({losses['tolerance']:g} allowed)")  # fmt: skip
    lines.append(f"the peak is {result['sgemm_gflops']:.0f} GFLOP/s, what NumPy's product of large matrices reaches")
    lines.append(f"GFLOP/s counts {result['operations_per_token']:,} operations a token: 6 for each weight of a product, and "
                 "the unmasked half of attention")  # fmt: skip
    return "\n".join(lines)


def readme(result: dict[str, object]) -> str:
    """What the README shows: the speeds as a Markdown table, and what they depend on."""
    lines = ["|  | tokens/s | slowest | fastest | GFLOP/s | of sgemm's peak | minimtp is |", "| --- |" + " ---: |" * 6]
    for name, side in result["sides"].items():
        ratio = result["ratios"].get(name)
        quicker = "" if ratio is None else f"{ratio['median']:.2f}x ({ratio['lowest']:.2f}-{ratio['highest']:.2f})"
        speeds = " | ".join(f"{side[key]:,.0f}" for key in ("tokens_per_second", "slowest", "fastest", "gflops"))
        lines.append(f"| {side['title']} | {speeds} | {side['share_of_peak']:.0%} | {quicker} |")
    lines += [f"| {PEERS[name].name} | {reason} |  |  |  |  |  |" for name, reason in result["missing"].items()]
    machine, threads = result["machine"], result["threads"]
    return "\n".join([
        *lines,
        "",
        f"Training `{result['preset']}`'s standard model, {result['parameters']:,} parameters, on {threads} "
        f"thread{'s' * (threads > 1)} of {machine['processor']}: {result['rounds']} rounds of {result['steps']} steps a side, "
        f"in turn. The peak, {result['sgemm_gflops']:.0f} GFLOP/s, is NumPy's product of large matrices. The sides' losses "
        f"agree within {result['losses']['largest_difference'] or 0:.1g} of the loss over {result['losses']['steps']} steps.",
    ])  # fmt: skip


class Worker:
    """One side in a process of its own, idle until `run`; `about` says what it is.

    Raises ImportError when what the side needs is not there, UserError for settings it refuses.
    """

    def __init__(self, *settings: object) -> None:
        context = get_context("spawn")  # nothing of this process's threads and settings goes along but the environment
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, *settings), daemon=True)
        self.process.start()
        theirs.close()
        self.about: dict[str, object] = self._answer()

    def run(self, batches: Sequence[np.ndarray]) -> tuple[float, list[float]]:
        """One round: (seconds, the losses of its steps)."""
        return self._answer(batches)

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
            raise RuntimeError(f"a worker of the measurement ended with exit code {self.process.exitcode}") from None
        if isinstance(answer, Exception):
            self.close()
            raise answer
        return answer


def _work(connection, name: str, recipe: Recipe, threads: int, kernel_choice: str | None) -> None:
    """What a worker does: describe itself, then answer each list of batches with the time and the losses of its steps."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the parent, which ends us
    try:
        if kernel_choice:
            kernels.use(kernel_choice)
        side = SIDES[name](recipe, threads)
    except (ImportError, UserError) as error:
        connection.send(error)
        return
    connection.send(side.about)
    while True:
        try:
            batches = connection.recv()
        except EOFError:
            return
        began = perf_counter()
        losses = [side.advance(tokens) for tokens in batches]
        connection.send((perf_counter() - began, losses))


def _started(
    recipe: Recipe, threads: int, kernel_choice: str | None, stack: ExitStack
) -> tuple[dict[str, Worker], dict[str, str]]:
    """(the workers that could be started, why the others could not); `stack` ends them."""
    workers, missing = {}, {}
    for name in SIDES:
        if name in PEERS and find_spec("torch") is None:
            missing[name] = "is not installed; pip install torch measures it too"
            continue
        try:
            workers[name] = Worker(name, recipe, threads, kernel_choice)
            stack.callback(workers[name].close)
        except ImportError as error:
            missing[name] = f"cannot be imported: {str(error).splitlines()[0]}"
    return workers, missing


def _ratio(ours: list[float], theirs: list[float]) -> dict[str, float]:
    """Of rounds that lay side by side."""
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return {"median": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios)}


def _spread(rates: list[float], operations: int, peak: float) -> dict[str, object]:
    median = statistics.median(rates)
    gflops = median * operations / 1e9
    return {
        "tokens_per_second": median, "slowest": min(rates), "fastest": max(rates), "gflops": gflops,
        "share_of_peak": gflops / peak, "tokens_per_second_by_round": rates,
    }  # fmt: skip
