"""The table of `minimtp bench train`, on the terminal and in data/results/README.md."""

from collections.abc import Mapping

from minimtp.bench.training.implementations import OTHERS
from minimtp.machine import other_work

SPEEDS = ("tokens_per_second", "slowest", "fastest")


def table(result: Mapping[str, object]) -> str:
    """Return one line per implementation and per ratio, then the conditions of the measurement."""
    rows = []
    for measured in result["implementations"].values():
        speeds = "".join(f"{measured[name]:>11,.0f}" for name in SPEEDS)
        speeds += f"{measured['gflops']:>12,.1f}{measured['share_of_peak']:>9.0%}"
        where = _threads(measured["threads"])
        if _on_gpu(result):
            where = f"{measured['tokens_per_second_by_host']:,.0f} tokens/s by the host's clock"
        rows.append((measured["title"], f"{speeds}   {where}, {measured['how']}"))
    rows += [(OTHERS[name].name, f" {reason}") for name, reason in result["missing"].items()]
    ratios = [(f"minimtp / {OTHERS[name].name}", r) for name, r in result["ratios"].items()]
    pair = f"{OTHERS['qat'].name} / {OTHERS['learned'].name}"
    for title, ratio in [*ratios, (pair, result["learned_steps"])]:
        spread = "".join(f"{ratio[key]:>11.2f}" for key in ("median", "lowest", "highest"))
        rows.append((title, spread))
    width = max(len(title) for title, _ in rows)
    head = f"{'tokens/s':>11}{'slowest':>11}{'fastest':>11}{'GFLOP/s':>12}{'of peak':>9}"
    lines = [" " * width + head, *(f"{title:<{width}}{row}" for title, row in rows)]
    return "\n".join(lines + _notes(result))


def _notes(result: Mapping[str, object]) -> list[str]:
    lines, losses = [], result["losses"]
    if losses["max_difference"] is not None:
        lines.append(
            f"The losses of the first {losses['steps']} steps, from the same weights and batches, "
            f"differ by at most {losses['max_difference']:.1g} of the loss (tolerance "
            f"{losses['tolerance']:g})."
        )
    peak, source = _peak(result)
    lines.append(f"The peak is {peak:,.0f} GFLOP/s, the speed of {source} of large matrices.")
    lines.append(
        f"GFLOP/s counts {result['operations_per_token']:,} operations per token: 6 for each "
        "weight of a matrix product, and the unmasked half of attention."
    )
    return lines


def readme(result: Mapping[str, object]) -> str:
    """Return the Markdown table and the conditions of the measurement."""
    share = "of peak" if _on_gpu(result) else "of the sgemm peak"
    lines = [
        f"|  | tokens/s | slowest | fastest | GFLOP/s | {share} | minimtp is faster by |",
        "| --- |" + " ---: |" * 6,
    ]
    for name, measured in result["implementations"].items():
        speeds = " | ".join(f"{measured[key]:,.0f}" for key in (*SPEEDS, "gflops"))
        ratio = _ratio(result["ratios"].get(name))
        lines.append(
            f"| {measured['title']} | {speeds} | {measured['share_of_peak']:.0%} | {ratio} |"
        )
    for name, reason in result["missing"].items():
        lines.append(f"| {OTHERS[name].name} | {reason} |  |  |  |  |  |")
    return "\n".join([*lines, "", _conditions(result)])


def _conditions(result: Mapping[str, object]) -> str:
    machine = result["machine"]
    where, clock = f"on {_threads(result['threads'])} of", ""
    if result["precision"] != "float32":
        where = f"in {result['precision']} {where}"
    if _on_gpu(result):
        where, clock = f"in {result['precision']} on", " by the device's clock"
    peak, source = _peak(result)
    difference = result["losses"]["max_difference"] or 0
    return (
        f"Training the standard model of preset `{result['preset']}`, {result['parameters']:,} "
        f"parameters, {where} {machine['processor']}{other_work(machine)}: {result['rounds']} "
        f"alternating rounds of {result['steps']} steps per implementation{clock}. The peak, "
        f"{peak:,.0f} GFLOP/s, is the speed of {source} of large matrices. Over "
        f"{result['losses']['steps']} steps, the losses differ by at most "
        f"{difference:.1g} of the loss."
    )


def _ratio(ratio: Mapping[str, float] | None) -> str:
    if ratio is None:
        return ""
    return f"{ratio['median']:.2f}x ({ratio['lowest']:.2f}-{ratio['highest']:.2f})"


def _on_gpu(result: Mapping[str, object]) -> bool:
    return result.get("device", "cpu") == "cuda"


def _peak(result: Mapping[str, object]) -> tuple[float, str]:
    """Return (GFLOP/s, the library whose matrix product reaches them)."""
    if _on_gpu(result):
        return result["matrix_gflops"], f"cuBLAS's product in {result['precision']}"
    return result["sgemm_gflops"], "NumPy's product"


def _threads(count: int) -> str:
    return f"{count} thread{'s' * (count > 1)}"
