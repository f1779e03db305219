"""What `minimtp bench train` prints, and what the README shows of it."""

from collections.abc import Mapping

from minimtp.bench.training.implementations import OTHERS
from minimtp.machine import other_work


def table(result: Mapping[str, object]) -> str:
    """What the command prints."""
    on_a_gpu, rows = _on_a_gpu(result), []
    for side in result["sides"].values():
        speeds = (side[name] for name in ("tokens_per_second", "slowest", "fastest"))
        where = _threads(side["threads"])
        if on_a_gpu:
            where = f"{side['tokens_per_second_by_host']:,.0f} tokens/s by the host's clock"
        rows.append((side["title"], "".join(f"{speed:>11,.0f}" for speed in speeds)
                     + f"{side['gflops']:>12,.1f}{side['share_of_peak']:>9.0%}   {where}, {side['how']}"))  # fmt: skip
    rows += [(OTHERS[name].name, f" {reason}") for name, reason in result["missing"].items()]
    for name, ratio in result["ratios"].items():
        ratio = "".join(f"{ratio[key]:>11.2f}" for key in ("median", "lowest", "highest"))
        rows.append((f"minimtp / {OTHERS[name].name}", ratio))
    width = max(len(title) for title, _ in rows)
    lines = [
        f"{'':<{width}}{'tokens/s':>11}{'slowest':>11}{'fastest':>11}{'GFLOP/s':>12}{'of peak':>9}"
    ]
    lines += [f"{title:<{width}}{row}" for title, row in rows]
    losses = result["losses"]
    if losses["largest_difference"] is not None:
        lines.append(f"losses of the first {losses['steps']} steps from the same weights and batches differ by at most "
                     f"{losses['largest_difference']:.1g} of the loss ({losses['tolerance']:g} allowed)")  # fmt: skip
    peak, whose = _peak(result)
    lines.append(f"the peak is {peak:,.0f} GFLOP/s, what {whose} of large matrices reaches")
    lines.append(f"GFLOP/s counts {result['operations_per_token']:,} operations a token: 6 for each weight of a product, and "
                 "the unmasked half of attention")  # fmt: skip
    return "\n".join(lines)


def readme(result: Mapping[str, object]) -> str:
    """What the README shows: the speeds as a Markdown table, and what they depend on."""
    on_a_gpu, machine, (peak, whose) = _on_a_gpu(result), result["machine"], _peak(result)
    share = "of the peak" if on_a_gpu else "of sgemm's peak"
    lines = [
        f"|  | tokens/s | slowest | fastest | GFLOP/s | {share} | minimtp's speed over it |",
        "| --- |" + " ---: |" * 6,
    ]
    for name, side in result["sides"].items():
        ratio = result["ratios"].get(name)
        quicker = (
            ""
            if ratio is None
            else f"{ratio['median']:.2f}x ({ratio['lowest']:.2f}-{ratio['highest']:.2f})"
        )
        speeds = " | ".join(
            f"{side[key]:,.0f}" for key in ("tokens_per_second", "slowest", "fastest", "gflops")
        )
        lines.append(f"| {side['title']} | {speeds} | {side['share_of_peak']:.0%} | {quicker} |")
    lines += [
        f"| {OTHERS[name].name} | {reason} |  |  |  |  |  |"
        for name, reason in result["missing"].items()
    ]
    where = f"in {result['precision']} on" if on_a_gpu else f"on {_threads(result['threads'])} of"
    clock = ", on the device's clock" if on_a_gpu else ""
    return "\n".join([
        *lines,
        "",
        f"Training `{result['preset']}`'s standard model, {result['parameters']:,} parameters, {where} {machine['processor']}"
        f"{other_work(machine)}: {result['rounds']} rounds of {result['steps']} steps a side, in turn{clock}. The peak, "
        f"{peak:,.0f} GFLOP/s, is {whose} of large matrices. The sides' losses agree within "
        f"{result['losses']['largest_difference'] or 0:.1g} of the "
        f"loss over {result['losses']['steps']} steps.",
    ])  # fmt: skip


def _on_a_gpu(result: Mapping[str, object]) -> bool:
    return result.get("device", "cpu") == "cuda"


def _peak(result: Mapping[str, object]) -> tuple[float, str]:
    """(GFLOP/s, whose product reaches them)."""
    if _on_a_gpu(result):
        return result["matrix_gflops"], f"cuBLAS's product in {result['precision']}"
    return result["sgemm_gflops"], "NumPy's product"


def _threads(count: int) -> str:
    return f"{count} thread{'s' * (count > 1)}"
