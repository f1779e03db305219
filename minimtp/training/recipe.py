"""A recipe: everything about a training run that changes what the trained model is.

One frozen dataclass holds the settings. It checks itself when it is made, so a recipe that exists is a recipe that can
be run: every number lies in its range and no two settings contradict each other. Its fields carry their own help text;
the command line's options are made from them, and the same dictionary that `to_dict` gives is printed before a run and
stored in the checkpoint. A misspelt key is an error that names the closest key, never a setting that is silently
ignored.

What is *not* here does not change the meaning of the result: where the text lies, where the run is written, the
device, the kernels, the number of threads. Those are arguments beside the recipe.

One default depends on another setting: `draft_depth` is 7 with prediction heads and 0 without.

Units: lengths and budgets count tokens (bytes, with the built-in tokenizer); shares are fractions of the run's steps.
"""

import dataclasses
import difflib
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from minimtp.errors import UserError

GROUPS = {
    "model": "the transformer",
    "heads": "multi-token prediction heads",
    "quantize": "quantization-aware training",
    "training": "budget, optimizer and schedule",
}


MARGIN = 12  # columns before the settings in `describe`


class Range(NamedTuple):
    """The numbers from low to high; low itself only if it is not `open`."""

    low: float
    high: float
    open: bool = False

    def __contains__(self, value: object) -> bool:
        return (
            value > self.low if self.open else value >= self.low
        ) and value <= self.high  # false for nan

    def __str__(self) -> str:
        return f"{'more than' if self.open else 'at least'} {_short(self.low)} and at most {_short(self.high)}"


SHARE = Range(0.0, 1.0)
MEMORY = Range(0.0, 0.9999999)
ACTIVATIONS = ("int8", "int8-token", "none")  # as in minimtp.quant, which takes longer to load
CACHES = ("float", "int8", "int4")
SCALES = ("grid", "learned", "learned-offset", "learned-bound")
PRECISIONS = ("float32", "tf32", "bfloat16", "float16")  # as in minimtp.engine.precision
MASKS = ("pass", "round-clip", "clip-round")


def _setting(
    group: str, default: object, text: str, allowed: Range | tuple[str, ...] | None = None
) -> object:
    """A dataclass field that knows its group, its help text and what is allowed: a range, words, or (None) any bool."""
    return field(default=default, metadata={"group": group, "help": text, "allowed": allowed})


@dataclass(frozen=True)
class Recipe:
    """The settings of one training run; see each field's help. Raises UserError for values that cannot be run."""

    # fmt: off
    vocabulary_size: int = _setting("model", 257, "different tokens: 256 bytes and an end of document", Range(2, 2**24))
    context_length: int = _setting("model", 256, "tokens the model sees at once, in training and in decoding", Range(2, 2**20))
    num_layers: int = _setting("model", 4, "transformer blocks", Range(1, 1024))
    hidden_size: int = _setting("model", 128, "numbers that represent one token between the blocks", Range(2, 2**16))
    num_heads: int = _setting("model", 4, "query heads; they share the width equally", Range(1, 1024))
    num_kv_heads: int = _setting("model", 4, "key/value heads; each serves as many query heads", Range(1, 1024))
    intermediate_size: int = _setting("model", 352, "inner width of the SwiGLU feed-forward", Range(1, 2**18))
    tied_embeddings: bool = _setting("model", True, "use the embedding matrix as the output matrix too")
    rope_theta: float = _setting("model", 1e4, "base of the rotary position frequencies", Range(1.0, 1e9, open=True))
    norm_eps: float = _setting("model", 1e-5, "added to the mean square in RMSNorm", Range(0.0, 0.1, open=True))

    heads: str = _setting("heads", "none", "kind of prediction heads", ("none", "parallel", "sequential", "token_conditioned"))
    draft_depth: int | None = _setting("heads", None, "tokens predicted after the next; 7 with heads, 0 without", Range(0, 64))
    head_loss_weight: float = _setting("heads", 0.3, "weight of all head losses together, at the start", Range(0.0, 100.0))
    final_head_loss_weight: float = _setting("heads", 0.1, "the same at the end (linear in between)", Range(0.0, 100.0))
    head_loss_decay: float = _setting("heads", 1.0, "weight of a head relative to the one before", Range(0.0, 1.0, open=True))
    curriculum: str = _setting("heads", "none", "forward: heads join one by one; reverse: go", ("none", "forward", "reverse"))
    head_targets: str = _setting("heads", "text", "what heads learn: the text, or a law", ("text", "trunk", "teacher"))
    detach_until: float = _setting("heads", 0.0, "share of the steps before the trunk feels the heads' losses", SHARE)
    head_stride: int = _setting("heads", 1, "train the heads at every n-th position, at an n-th of the cost", Range(1, 64))
    freeze_trunk: bool = _setting("heads", False, "train the heads only")

    quantization: str = _setting("quantize", "none", "qat: train through the rounding of the deployed model", ("none", "qat"))
    weight_grid: str = _setting("quantize", "q4_0", "grid of the trunk's matrices: q4_0, q8_0, int3-ggml-signed-g32, ...")
    embedding_grid: str = _setting("quantize", "q8_0", "grid of the token table, and of the output where they are tied")
    output_grid: str = _setting("quantize", "same", "grid of an untied output; same: as the token table")
    head_grid: str = _setting("quantize", "q4_0", "grid of the prediction heads' matrices")
    weight_scales: str = _setting("quantize", "grid", "learned: train groups' steps (LSQ), offset (LSQ+), bound (PACT)", SCALES)
    activations: str = _setting("quantize", "int8", "rounding of products' inputs, per group or token", ACTIVATIONS)
    kv_cache: str = _setting("quantize", "float", "rounding of the keys and values that attention reads", CACHES)
    straight_through: str = _setting("quantize", "pass", "which clipped weights still get a gradient", MASKS)
    quantize_from: float = _setting("quantize", 0.0, "share of the steps before rounding begins", SHARE)
    distill_weight: float = _setting("quantize", 0.0, "share of the loss that follows the --teacher's probabilities", SHARE)

    tokens: int = _setting("training", 2_000_000, "tokens to train on", Range(1, 10**15))
    batch_size: int = _setting("training", 8, "sequences per step", Range(1, 2**20))
    learning_rate: float = _setting("training", 4e-3, "highest learning rate", Range(0.0, 10.0, open=True))
    warmup_fraction: float = _setting("training", 0.02, "share of the steps that raise the rate from zero", SHARE)
    decay_fraction: float = _setting("training", 0.4, "share of the steps, at the end, that lower the rate linearly", SHARE)
    final_learning_rate_factor: float = _setting("training", 0.0, "where the decay ends, as a factor of the highest rate", SHARE)
    weight_decay: float = _setting("training", 0.1, "decoupled weight decay of the matrices", Range(0.0, 10.0))
    beta1: float = _setting("training", 0.9, "AdamW's memory of the gradient", MEMORY)
    beta2: float = _setting("training", 0.95, "AdamW's memory of the squared gradient", MEMORY)
    ema_decay: float = _setting("training", 0.0, "memory of the average that the finished model is (0: the last weights)", MEMORY)
    max_gradient_norm: float = _setting("training", 1.0, "largest gradient norm (0: no clipping)", Range(0.0, 1e9))
    precision: str = _setting("training", "float32", "bits of products' factors in training, on a GPU", PRECISIONS)
    seed: int = _setting("training", 0, "seed of the first weights and of the order of the batches", Range(0, 2**63 - 1))
    checkpoint_every: int = _setting("training", 1000, "steps between checkpoints (0: only at the end)", Range(0, 10**12))
    evaluation_tokens: int = _setting("training", 131_072, "held-out tokens that an evaluation reads (0: none)", Range(0, 10**12))
    # fmt: on

    def __post_init__(self) -> None:
        if self.draft_depth is None:
            object.__setattr__(self, "draft_depth", 0 if self.heads == "none" else 7)
        for setting in dataclasses.fields(self):
            object.__setattr__(self, setting.name, _checked(setting, getattr(self, setting.name)))
        self._check_the_model()
        self._check_the_rest()

    def _check_the_model(self) -> None:
        head_dim = self.hidden_size // self.num_heads
        if self.hidden_size % self.num_heads:
            raise UserError(
                f"width {self.hidden_size} cannot be shared by {self.num_heads} attention heads: choose a multiple"
            )
        if self.num_heads % self.num_kv_heads:
            raise UserError(
                f"{self.num_heads} attention heads cannot share {self.num_kv_heads} key/value heads equally: "
                "choose a divisor"
            )
        if head_dim % 2:
            raise UserError(
                f"each attention head gets {head_dim} numbers, but rotary positions turn pairs: choose an even width per head"
            )
        if self.quantization == "qat":
            self._check_the_grids()

    def _check_the_grids(self) -> None:
        from minimtp.quant.grids import grid_named

        if self.activations == "int8":
            for name in ("hidden_size", "intermediate_size"):
                if getattr(self, name) % 32:
                    raise UserError(
                        f"{name} {getattr(self, name)} cannot be quantized in groups of 32: choose a multiple"
                    )
        grids = {
            setting: getattr(self, setting)
            for setting in ("weight_grid", "embedding_grid", "output_grid", "head_grid")
        }
        if self.tied_embeddings and self.output_grid not in ("same", self.embedding_grid):
            raise UserError(
                f"output_grid {self.output_grid} is not embedding_grid {self.embedding_grid}, but with tied_embeddings they "
                "are one matrix: leave output_grid out"
            )
        for setting, name in grids.items():
            if name == "same" and setting == "output_grid":
                continue
            grid = grid_named(name)
            for size in ("hidden_size", "intermediate_size"):
                grid.check_columns(
                    (1, getattr(self, size)), f"a matrix of {size} {getattr(self, size)} columns"
                )

    def _check_the_rest(self) -> None:
        if self.heads == "none" and self.draft_depth > 0:
            raise UserError(
                f"draft_depth {self.draft_depth} needs prediction heads: choose heads, or leave draft_depth out"
            )
        if self.heads != "none" and self.draft_depth == 0:
            raise UserError(
                f"heads {self.heads} with draft_depth 0 predict nothing: choose at least 1, or heads none"
            )
        if self.heads == "none" and self.curriculum != "none":
            raise UserError(
                f"the {self.curriculum} curriculum needs prediction heads: choose heads, or curriculum none"
            )
        if self.heads == "none" and self.head_targets == "teacher":
            raise UserError(
                "head_targets teacher needs prediction heads: choose heads, or leave head_targets out"
            )
        if self.head_stride > 1 and self.heads != "token_conditioned":
            raise UserError(
                f"head_stride {self.head_stride} is possible with token_conditioned heads only: others look back"
            )
        if self.head_stride > self.context_length:
            raise UserError(
                f"head_stride {self.head_stride} leaves out whole windows of {self.context_length}: choose a smaller one"
            )
        if self.heads == "none" and self.freeze_trunk:
            raise UserError(
                "freeze_trunk without prediction heads leaves nothing to train: choose heads, or do not freeze"
            )
        if self.distill_weight > 0 and self.freeze_trunk:
            raise UserError(
                "distill_weight teaches the trunk, which freeze_trunk keeps as it is: choose one of them"
            )
        if self.warmup_fraction + self.decay_fraction > 1.0:
            raise UserError(
                f"warmup_fraction {self.warmup_fraction:g} and decay_fraction {self.decay_fraction:g} are shares of the same steps: together they must not exceed 1"
            )
        if self.steps < 1:
            raise UserError(
                f"tokens {self.tokens} do not fill one step of {self.batch_size} x {self.context_length}: raise tokens, "
                "or lower batch or context"
            )
        if self.first_quantized_step == self.steps:
            raise UserError(
                f"quantize_from {self.quantize_from:g} never begins to quantize within {self.steps} steps: choose a smaller "
                "share, or quantization none"
            )

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.tokens // (self.batch_size * self.context_length)

    @property
    def first_quantized_step(self) -> int | None:
        """The first step (counted from 0) whose products see rounded weights; None without quantization."""
        return None if self.quantization == "none" else self.step_at(self.quantize_from)

    def step_at(self, share: float) -> int:
        """The step (counted from 0) that begins when the share of all steps is done.

        The one place where shares become steps. What remains is rounded, so that the shares 1 - decay and decay meet in
        one step: that in which the decay, the rounding or the attached heads begin.
        """
        return self.steps - round((1.0 - share) * self.steps)

    def trunk_parameters(self) -> int:
        """Trained numbers in the transformer, without prediction heads."""
        head_dim = self.hidden_size // self.num_heads
        attention = self.hidden_size * head_dim * (2 * self.num_heads + 2 * self.num_kv_heads)
        block = attention + 3 * self.hidden_size * self.intermediate_size + 2 * self.hidden_size
        tables = self.vocabulary_size * self.hidden_size * (1 if self.tied_embeddings else 2)
        return self.num_layers * block + tables + self.hidden_size

    def to_dict(self) -> dict[str, object]:
        """Plain values by field name, in the fields' order; `from_dict` reads them back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> "Recipe":
        """The recipe with these settings; what is left out keeps its default. Raises UserError for unknown keys."""
        for key in values:
            check_known("recipe key", str(key), SETTINGS)
        return cls(**values)

    def differences(self, other: "Recipe") -> list[str]:
        """Names of the settings in which the two recipes differ."""
        return [name for name in SETTINGS if getattr(self, name) != getattr(other, name)]

    def describe(self) -> str:
        """Return the settings for people, one paragraph per group, at most 100 columns wide."""
        paragraphs = []
        for group in GROUPS:
            settings = [s for s in SETTINGS.values() if s.metadata["group"] == group]
            # A no-break space keeps name and value in one line.
            values = [f"{s.name}\u00a0{_short(getattr(self, s.name))}" for s in settings]
            lines = textwrap.wrap(", ".join(values), 100 - MARGIN)
            text = textwrap.indent("\n".join(lines), " " * MARGIN)
            paragraphs.append(f"  {group}".ljust(MARGIN) + text.lstrip())
        return "\n".join(paragraphs).replace("\u00a0", " ")


SETTINGS: dict[str, dataclasses.Field] = {
    setting.name: setting for setting in dataclasses.fields(Recipe)
}


def check_known(kind: str, name: str, known: Iterable[str]) -> None:
    """Raise a UserError that suggests the closest spelling when `name` is not among the `known` ones."""
    known = list(known)
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"
        raise UserError(f"unknown {kind} {name!r}: {hint}")


def kind_of(setting: dataclasses.Field) -> type:
    """int, float, bool or str: what a setting's value is."""
    return int if setting.name == "draft_depth" else setting.type


def _checked(setting: dataclasses.Field, value: object) -> object:
    """The value in its field's own type and among those allowed. Raises a UserError that says what is allowed."""
    kind, allowed, name = kind_of(setting), setting.metadata["allowed"], setting.name
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        expected = {int: "a whole number", float: "a number", bool: "true or false", str: "a word"}[
            kind
        ]
        raise UserError(f"{name} must be {expected}, not {value!r}")
    if allowed is not None and value not in allowed:
        choice = str(allowed) if isinstance(allowed, Range) else f"one of {', '.join(allowed)}"
        raise UserError(f"{name} must be {choice}, not {_short(value)}")
    return value


def _short(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
