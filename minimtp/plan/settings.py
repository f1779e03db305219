"""The question: everything that a plan assumes, with the range of each number."""

from dataclasses import asdict, dataclass

from minimtp.errors import UserError, shown
from minimtp.plan.costs.memory import Drafter
from minimtp.plan.costs.sizes import INT4, Precision
from minimtp.plan.costs.speculation import Acceptance
from minimtp.plan.serving import Request

# vLLM #48892: DeepSeek-V3-type heads on GSM8K, greedy: 76, 62, 51, 42, ... % of the rounds accept a
# 1st, 2nd, 3rd, 4th, ... draft, so about 0.8 at each depth, given the depths before.
ACCEPTANCE = (0.8,)
SIMULATED = 2000
DEVICES = (1, 2, 4, 8)

RANGES = {  # of the fields of Settings: (least, most)
    "prompt_tokens": (1, 10_000_000),
    "new_tokens": (1, 10_000_000),
    "requests_per_hour": (1e-3, 1e9),
    "max_devices": (1, 8),
    "bits": (1, 32),
    "table_bits": (1, 32),
    "cache_bits": (1, 32),
    "draft_layers": (0, 1000),
    "draft_vocabulary": (1, 100_000_000),
    "max_drafts": (1, 64),
    "min_tokens_per_second": (0, 1e9),
    "memory_share": (0.01, 1),
    "utilisation": (0.01, 1),
    "parallel_efficiency": (0.01, 1),
    "prompt_rows": (1, 1_000_000),
    "length_spread": (0, 10),
    "seed": (0, 2**63 - 1),
}


@dataclass(frozen=True)
class Settings:
    """What is assumed about the requests, the models and the service.

    prompt_tokens, new_tokens: mean length of a request and of its answer. length_spread: their
        standard deviation over the mean.
    requests_per_hour: the load; None plans for full devices.
    min_batch, max_batch: requests at the same time on one replica. swept_to: of the speed-ups and
        break-even points.
    min_tokens_per_second: a request must not be slower.
    acceptance: by depth, the last for all deeper drafts. max_drafts: the longest draft.
    bits, table_bits: of the int4 configurations. cache_bits: of a number in the cache.
    draft_layers, draft_vocabulary: see `Drafter`.
    max_devices: of one replica, if the hardware can link as many. parallel_efficiency: see cost.py.
    memory_share: of a device's memory for weights and cache.
    utilisation: the load for which replicas are planned, as a share of what they can do.
    prompt_rows: rows of prompts that may join a pass.
    arrivals: requests to simulate, instead of random ones.
    """

    prompt_tokens: int = 800
    new_tokens: int = 300
    length_spread: float = 0.5
    requests_per_hour: float | None = None
    min_batch: int = 1
    max_batch: int = 256
    swept_to: int = 256
    min_tokens_per_second: float = 20.0
    acceptance: tuple[float, ...] = ACCEPTANCE
    max_drafts: int = 7
    bits: float = INT4.bits
    table_bits: float = INT4.table_bits
    cache_bits: float = 16.0
    draft_layers: int = 1
    draft_vocabulary: int | None = None
    max_devices: int = 8
    parallel_efficiency: float = 0.8
    memory_share: float = 0.9
    utilisation: float = 0.8
    prompt_rows: int = 2048
    seed: int = 0
    arrivals: tuple[Request, ...] = ()

    def __post_init__(self) -> None:
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise UserError(
                    f"--{name.replace('_', '-')} must be from {low:,} to {high:,}, "
                    f"not {shown(value)}"
                )
        if not 1 <= self.min_batch <= self.max_batch <= 100_000:
            sizes = dict.fromkeys((self.min_batch, self.max_batch))
            raise UserError(
                "--batch must be a number from 1 to 100,000 or a rising range like 1-256, not "
                f"{shown('-'.join(map(str, sizes)))}"
            )
        if not self.acceptance or not all(0 <= share <= 1 for share in self.acceptance):
            raise UserError(
                "--acceptance must be numbers from 0 to 1, one per depth, not "
                f"{shown(','.join(map(str, self.acceptance)))}"
            )

    @property
    def low_bit(self) -> Precision:
        """The number format of the int4 configurations."""
        return Precision(self.bits, self.table_bits)

    @property
    def drafter(self) -> Drafter:
        return Drafter(self.draft_layers, self.draft_vocabulary)

    @property
    def accepted(self) -> Acceptance:
        return Acceptance(self.acceptance, self.max_drafts)

    @property
    def context(self) -> float:
        """Mean tokens in the cache of a request while it decodes."""
        return self.prompt_tokens + self.new_tokens / 2

    @property
    def tokens(self) -> int:
        """Tokens of a whole request."""
        return self.prompt_tokens + self.new_tokens

    def replica_sizes(self, linked_devices: int) -> list[int]:
        """Return the numbers of devices that one replica may have: 1, 2, 4, ..."""
        most = min(self.max_devices, linked_devices)
        return [devices for devices in DEVICES if devices <= most]

    @property
    def batches(self) -> list[int]:
        """The numbers of requests at a time that may be chosen."""
        return _steps(self.min_batch, self.max_batch)

    @property
    def swept_batches(self) -> list[int]:
        """The numbers of requests at a time in the picture."""
        return _steps(1, max(self.swept_to, self.max_batch))

    def to_dict(self) -> dict[str, object]:
        """Return the settings as JSON values, without the arrivals."""
        return {k: v for k, v in asdict(self).items() if k != "arrivals"}


def _steps(low: int, high: int) -> list[int]:
    """Return about six numbers for each doubling, and the powers of two."""
    found, step = {low, high}, float(low)
    while step < high:
        found.add(round(step))
        step = max(step + 1, step * 1.125)
    found.update(2**n for n in range(high.bit_length()) if low <= 2**n)
    return sorted(found)
