"""The configurations that a plan compares: 16-bit and 4-bit weights, with and without drafts."""

from collections.abc import Callable
from dataclasses import dataclass

from minimtp.plan.costs.cost import PassCost, Roofline
from minimtp.plan.costs.memory import cache_bytes_per_token, weight_bytes
from minimtp.plan.costs.sizes import HALF, Hardware, ModelSize
from minimtp.plan.costs.speculation import Acceptance
from minimtp.plan.settings import Settings

STANDARD, MTP, INT4, BOTH = "standard", "MTP", "QAT int4", "MTP + QAT int4"


@dataclass(frozen=True)
class Candidate:
    """A configuration: its bytes, and the cost of its passes on a number of devices.

    base: the name of the same configuration without drafts; None if it does not draft.
    """

    name: str
    weights: float
    cache_per_token: float
    cost: Callable[[int], PassCost]
    acceptance: Acceptance | None = None
    base: str | None = None


def candidates(model: ModelSize, hardware: Hardware, settings: Settings) -> list[Candidate]:
    """Return the four configurations of a model, with the costs of the roofline."""
    found = []
    for precision, plain, drafting in ((HALF, STANDARD, MTP), (settings.low_bit, INT4, BOTH)):
        for drafter in (None, settings.drafter):

            def cost(devices: int, precision=precision) -> Roofline:
                return Roofline(
                    model,
                    precision,
                    hardware,
                    settings.drafter,
                    devices,
                    settings.parallel_efficiency,
                    settings.cache_bits,
                )

            found.append(
                Candidate(
                    drafting if drafter else plain,
                    weight_bytes(model, precision, drafter),
                    cache_bytes_per_token(model, settings.cache_bits, drafter),
                    cost,
                    settings.accepted if drafter else None,
                    plain if drafter else None,
                )
            )
    return found
