"""The costs of a measured run, in place of the roofline.

A comparison (compare.json) holds, for each configuration,

    seconds_per_pass   c(T), seconds of a pass over T = 1 .. 16 rows after a prompt, timed alone
    drafted            N_j, the share of rounds that draft a j-th token
    acceptance         the share of these j-th drafts that is accepted
    drafting_trials    drafts and seconds of drafting per round, on other texts, for several lengths

A round that drafts up to K tokens then takes on average

    c(R) + l + s R + a + b (R - 1)        seconds, with R = 1 + N_1 + ... + N_K rows

a and b come from a robust line through the trials (Theil 1950, Sen 1968). The others come from
plain decoding: the loop of a round l is its time per greedy token minus c(1), and the sampling of a
row s is what a token takes longer at temperature 1. c is linear between the measured T, and beyond
16 rows. B requests at a time feed B times as many rows, and draft one after another.

A run folder is measured in the same way when it is given.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct, field

from minimtp.decode.cache import FIRST_ROOM_ON_GPU, room_for
from minimtp.errors import UserError, shown
from minimtp.machine import total_memory
from minimtp.plan.candidates import BOTH, INT4, MTP, STANDARD, Candidate
from minimtp.plan.costs.sizes import GIGA, Hardware
from minimtp.plan.costs.speculation import Acceptance
from minimtp.quoting import shown_path
from minimtp.records import read_json

FILE_NAME = "compare.json"
ADVICE = "run minimtp compare again"
UNKNOWN_MEMORY = 8 * GIGA  # bytes, if the system does not say how much there is
Share = Annotated[float, Meta(ge=0, le=1)]
Seconds = Annotated[float, Meta(ge=0, le=1e6)]
PassSeconds = Annotated[float, Meta(ge=1e-9, le=1e6)]
Rate = Annotated[float, Meta(ge=1e-6, le=1e12)]
TokensPerStep = Annotated[float, Meta(ge=0.1, le=1e4)]
Rows = Annotated[str, Meta(pattern="^[1-9][0-9]{0,3}$")]
Count = Annotated[int, Meta(ge=1, le=10**7)]
Bytes = Annotated[int, Meta(ge=1, le=2**60)]
Drafts = Annotated[float, Meta(ge=0, le=1e4)]


class MeasuredConfiguration(Struct, kw_only=True):
    """A configuration in compare.json. Names that end with _t1 are for temperature 1."""

    name: str
    weight_bytes: Bytes
    tokens_per_second: Rate
    tokens_per_step: TokensPerStep
    acceptance: list[Share | None]
    tokens_per_second_t1: Rate
    tokens_per_step_t1: TokensPerStep
    acceptance_t1: list[Share | None]
    tokens_per_second_without_drafts: Rate | None = None
    tokens_per_second_without_drafts_t1: Rate | None = None
    cache_bytes: Bytes | None = None
    seconds_per_pass: dict[Rows, PassSeconds] | None = None
    drafted: list[Share] | None = None
    drafted_t1: list[Share] | None = None
    drafting_trials: list[tuple[Drafts, Seconds]] | None = None
    drafting_trials_t1: list[tuple[Drafts, Seconds]] | None = None

    def at(self, name: str, temperature: int) -> object:
        return getattr(self, name + ("_t1" if temperature else ""))


class MeasuredSizes(Struct):
    prompt: Count
    max_new_tokens: Count


class MeasuredMachine(Struct):
    processor: str


class Recipe(Struct):
    """The sizes of the model in compare.json."""

    vocabulary_size: Count
    context_length: Count
    num_layers: Count
    hidden_size: Count
    num_heads: Count
    num_kv_heads: Count
    intermediate_size: Count


class MeasuredDevice(Struct):
    name: str = "cpu"


class Comparison(Struct):
    """What a plan reads of compare.json."""

    configurations: list[MeasuredConfiguration]
    sizes: MeasuredSizes
    machine: MeasuredMachine
    recipe: Recipe
    preset: str
    device: MeasuredDevice = field(default_factory=MeasuredDevice)

    @property
    def by_name(self) -> dict[str, MeasuredConfiguration]:
        return {configuration.name: configuration for configuration in self.configurations}


def read_comparison(path: str | Path) -> Comparison:
    """Read compare.json, given as the file or its folder. Raises UserError."""
    path = Path(path)
    file = path / FILE_NAME if path.is_dir() else path
    if "model" in read_json(file, dict, advice=ADVICE):
        raise UserError(
            f"{shown_path(file)} compares configurations of a pretrained model, which have no plan "
            "together: give the folder of one of them"
        )
    found = read_json(file, Comparison, advice=ADVICE)
    missing = {"standard", "mtp", "mtp_qat_int4"} - found.by_name.keys()
    if missing:
        raise UserError(f"{shown_path(file)} has no configuration {min(missing)}: {ADVICE}")
    for configuration in found.configurations:
        for temperature in (0, 1):
            drafted = configuration.at("drafted", temperature)
            accepted = configuration.at("acceptance", temperature)
            if drafted is not None and len(drafted) != len(accepted):
                raise UserError(
                    f"{shown_path(file)}: {shown(configuration.name)} has {len(drafted)} shares of "
                    f"drafts, but {len(accepted)} of acceptance: {ADVICE}"
                )
    return found


class PassTimes:
    """c(T): seconds by rows, linear between the measured rows and beyond the last two."""

    def __init__(self, seconds: Mapping[int, float]) -> None:
        self.rows = sorted(seconds)
        highest, self.seconds = 0.0, []
        for rows in self.rows:  # a longer pass never takes less time
            highest = max(highest, seconds[rows])
            self.seconds.append(highest)

    def __call__(self, rows: float) -> float:
        if rows <= self.rows[0] or len(self.rows) == 1:
            return self.seconds[0]
        index = next((i for i, r in enumerate(self.rows) if r >= rows), len(self.rows) - 1)
        low, high = self.rows[index - 1], self.rows[index]
        slope = (self.seconds[index] - self.seconds[index - 1]) / (high - low)
        return self.seconds[index - 1] + slope * (rows - low)


@dataclass(frozen=True)
class MeasuredCost:
    """A `PassCost` from measurements. drafted: N_1, N_2, ...; see above."""

    passes: PassTimes
    loop_seconds: float = 0.0  # l
    row_seconds: float = 0.0  # s
    round_seconds: float = 0.0  # a
    draft_seconds_each: float = 0.0  # b
    drafted: tuple[float, ...] = ()

    def pass_seconds(
        self,
        batch: int,
        rows: int,
        context: float,
        prompt_rows: int = 0,
        prompt_context: float | None = None,
    ) -> float:
        decoded = batch * (1 + sum(self.drafted[: rows - 1])) if batch else 0
        seconds = self.passes(decoded + prompt_rows) + self.row_seconds * decoded
        return seconds + batch * self.loop_seconds

    def draft_seconds(self, batch: int, drafts: int, context: float) -> float:
        if not drafts:
            return 0.0
        each = self.draft_seconds_each * sum(self.drafted[:drafts])
        return batch * (self.round_seconds + each)


def line_through(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return (a, b) of the line a + b x: b is the median of the slopes between two points, a the
    median of what is left. Neither is negative.
    """
    if not points:
        return 0.0, 0.0
    slopes = [(y2 - y1) / (x2 - x1) for (x1, y1), (x2, y2) in combinations(points, 2) if x1 != x2]
    slope = max(0.0, statistics.median(slopes)) if slopes else 0.0
    return max(0.0, statistics.median(y - slope * x for x, y in points)), slope


def has_costs(configuration: MeasuredConfiguration) -> bool:
    """Return whether the file holds what `measured_cost` needs: earlier versions wrote less."""
    c = configuration
    has_drafts = c.drafted is not None and c.drafted_t1 is not None
    return has_drafts and "1" in (c.seconds_per_pass or {}) and c.cache_bytes is not None


def passes_of(configuration: MeasuredConfiguration) -> PassTimes:
    return PassTimes({int(rows): s for rows, s in configuration.seconds_per_pass.items()})


def plain_speed(configuration: MeasuredConfiguration, temperature: int) -> float | None:
    """Return the tokens/s without drafts; None if they were not measured."""
    name = "tokens_per_second"
    if configuration.name != "standard":
        name += "_without_drafts"
    return configuration.at(name, temperature)


def loop_and_row_seconds(
    configurations: Sequence[MeasuredConfiguration], temperature: int
) -> tuple[float, float]:
    """Return (l, s): the least of these configurations, because noise only adds time."""
    loops, rows = [], []
    for configuration in configurations:
        greedy, plain = (plain_speed(configuration, t) for t in (0, temperature))
        if greedy and plain and has_costs(configuration):
            loops.append(max(0.0, 1 / greedy - passes_of(configuration)(1)))
            rows.append(max(0.0, 1 / plain - 1 / greedy))
    return min(loops, default=0.0), min(rows, default=0.0)


def measured_cost(
    configuration: MeasuredConfiguration, loop: float, row: float, temperature: int
) -> MeasuredCost:
    """Return the cost of a configuration. loop, row: l and s."""
    start, each = line_through(configuration.at("drafting_trials", temperature) or [])
    drafted = tuple(configuration.at("drafted", temperature) or ())
    return MeasuredCost(passes_of(configuration), loop, row, start, each, drafted)


def acceptance_of(drafted: Sequence[float], accepted: Sequence[float | None]) -> Acceptance | None:
    """Return the acceptance by depth of rounds, given that all drafts before were accepted.

    drafted: N_j. accepted: the share of these that is accepted. A draft that was not made counts as
    rejected, so a drafter that stops early has a lower acceptance and shorter passes.
    """
    reached, by_depth = 1.0, []
    for share, among in zip(drafted, accepted, strict=True):
        both = share * (among or 0.0)
        if both <= 0:
            break
        by_depth.append(min(1.0, both / reached))
        reached = both
    return Acceptance(tuple(by_depth), len(by_depth)) if by_depth else None


def from_comparison(path: str | Path) -> tuple[list[Candidate], Hardware, str, dict[str, int]]:
    """Return (configurations, machine, title, settings) of compare.json at temperature 0."""
    found = read_comparison(path)
    standard, mtp, both = (found.by_name[name] for name in ("standard", "mtp", "mtp_qat_int4"))
    if not all(map(has_costs, (standard, mtp, both))):
        raise UserError(
            f"{shown_path(path)} does not hold the cost of passes (seconds_per_pass, drafted), "
            f"because an earlier version wrote it: delete it and {ADVICE}"
        )
    sizes = found.sizes
    context = found.recipe.context_length
    room = room_for(sizes.prompt + sizes.max_new_tokens, context)
    if found.device.name == "cuda":
        room = min(context, max(FIRST_ROOM_ON_GPU, room))
    loop, _ = loop_and_row_seconds(found.configurations, 0)

    def candidate(name: str, c: MeasuredConfiguration, base: str | None = None) -> Candidate:
        cost = measured_cost(c, loop, 0.0, 0)
        accepted = acceptance_of(c.drafted or [], c.acceptance) if base else None
        cache = c.cache_bytes / room
        return Candidate(name, c.weight_bytes, cache, lambda devices: cost, accepted, base)

    candidates = [
        candidate(STANDARD, standard),
        candidate(MTP, mtp, STANDARD),
        candidate(INT4, both),
        candidate(BOTH, both, INT4),
    ]
    title = f"the measured comparison {found.preset} on {found.machine.processor}"
    return candidates, this_machine(found.machine.processor), title, _lengths(found.sizes)


def _lengths(sizes: MeasuredSizes) -> dict[str, int]:
    return {"prompt_tokens": sizes.prompt, "new_tokens": sizes.max_new_tokens}


def this_machine(processor: str) -> Hardware:
    """Return a machine with the memory of this one. Its other numbers are not used: the cost of
    passes is measured.
    """
    memory = (total_memory() or UNKNOWN_MEMORY) / GIGA
    return Hardware(memory, 1.0, 1.0, title=processor, dollars_per_hour=0.02, source="measured")
