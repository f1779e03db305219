"""A matrix product of decoding in half precision, as PyTorch computes it on a GPU."""

from minimtp.bench.baselines.pytorch.device import captured, median_elapsed, torch_on


class TorchProduct:
    """float16 weights (N, K) times 1 to 16 rows, by PyTorch on the GPU.

    copies: number of copies of the weights. They are used alternately, so that the weights are
    never in the cache.
    Raises ImportError if PyTorch has no CUDA.
    """

    def __init__(self, outputs: int, inputs: int, copies: int) -> None:
        self.torch = torch = torch_on("cuda")
        half = dict(device="cuda", dtype=torch.float16)
        self.weights = [torch.randn(outputs, inputs, **half) for _ in range(copies)]
        self.x = torch.randn(16, inputs, **half)

    def seconds(self, rows: int, as_graph: bool, calls: int, times: int) -> float:
        """Return the device seconds of one product: the median of `times` runs of `calls` products,
        launched one by one or as a CUDA graph.
        """
        torch = self.torch

        def run() -> None:
            for i in range(calls):
                torch.nn.functional.linear(self.x[:rows], self.weights[i % len(self.weights)])

        with torch.inference_mode():
            run()
            launch = captured(torch, run) if as_graph else run
            return median_elapsed(torch, launch, times) / calls
