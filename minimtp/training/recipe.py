"""A recipe: every setting of a training run that changes the trained model.

A recipe is a frozen dataclass that checks itself when it is created. A recipe that exists can be
run: every number is in its range, and no two settings contradict each other. Each field carries its
help text. The command line's options are made from the fields. The dictionary that `to_dict`
returns is printed before a run and stored in the checkpoint. A misspelt key is an error that names
the closest known key. No setting is ever silently ignored.

Settings that do not change the trained model are not part of the recipe: the path of the text, the
run folder, the device, the kernels and the number of threads.

One default depends on another setting: `draft_depth` is 7 with prediction heads and 0 without.

Units: lengths and budgets count tokens (bytes, with the built-in tokenizer). Fractions are of the
steps of the run.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from minimtp.arguments import refuse
from minimtp.training.recipe_checks import EAGLE3_DEFAULTS, check_together
from minimtp.training.settings import (
    FRACTION,
    MOMENTUM,
    Range,
    Value,
    check_known,
    checked,
    describe,
    setting,
)

MAX_VOCABULARY = 2**20  # the drafters that search a text keep a token as a character, below 1.1 M
MAX_DRAFT_DEPTH = 64  # tokens after the next one that heads may predict
# The choices of quant/ and engine/. They are repeated because importing these packages is slow. A
# test compares them.
ACTIVATIONS = ("int8", "int8-token", "none")
CACHES = ("float", "int8", "int4")
SCALES = ("grid", "learned", "learned-offset", "learned-bound", "learned-from-start")
PRECISIONS = ("float32", "tf32", "bfloat16", "float16")
MASKS = ("pass", "round-clip", "clip-round")
HEADS = ("none", "parallel", "sequential", "token_conditioned", "eagle3")
# Settings in which families of models differ. `describe` leaves them out of models without them.
VARIANTS = ("head_dim", "rope_scaling", "qkv_bias", "qk_norm")
HIDDEN_BY_DEFAULT = (
    *VARIANTS, *EAGLE3_DEFAULTS, "sequence_length", "draft_vocabulary_size", "head_start_scale",
    "head_layers", "head_intermediate_size",
)  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """The settings of one training run. Raises UserError for values that cannot be run."""

    # fmt: off
    vocabulary_size: int = setting("model", 257, Range(2, MAX_VOCABULARY),
        "number of tokens: 256 bytes and an end of document")
    context_length: int = setting("model", 256, Range(2, 2**20),
        "maximum number of tokens that the model attends to")
    num_layers: int = setting("model", 4, Range(1, 1024),
        "number of transformer blocks")
    hidden_size: int = setting("model", 128, Range(2, 2**16),
        "numbers that represent a token between the blocks")
    num_heads: int = setting("model", 4, Range(1, 1024),
        "number of query heads, which share hidden_size equally")
    num_kv_heads: int = setting("model", 4, Range(1, 1024),
        "number of key/value heads, each shared by equally many query heads")
    intermediate_size: int = setting("model", 352, Range(1, 2**18),
        "inner size of the SwiGLU feed-forward layers")
    tied_embeddings: bool = setting("model", True, None,
        "use the embedding matrix as the output matrix, too")
    rope_theta: float = setting("model", 1e4, Range(1.0, 1e9, open=True),
        "base of the frequencies of rotary positions (RoPE)")
    norm_eps: float = setting("model", 1e-5, Range(0.0, 0.1, open=True),
        "epsilon in RMSNorm")
    head_dim: int | None = setting("model", None, Range(2, 2**16),
        "numbers per attention head (default: hidden_size / num_heads)")
    rope_scaling: str = setting("model", "none", None,
        "change of RoPE for a longer context: linear:FACTOR or llama3:FACTOR:LOW:HIGH:CONTEXT")
    qkv_bias: bool = setting("model", False, None,
        "add a bias to queries, keys and values, as Qwen2 does")
    qk_norm: bool = setting("model", False, None,
        "normalize each query head and key head, as Qwen3 does")

    heads: str = setting("heads", "none", HEADS,
        "kind of prediction heads")
    draft_depth: int | None = setting("heads", None, Range(0, MAX_DRAFT_DEPTH),
        "number of tokens to predict after the next one (default: 7 with heads, else 0)")
    head_loss_weight: float = setting("heads", 0.3, Range(0.0, 100.0),
        "weight of all head losses together in the first step")
    final_head_loss_weight: float = setting("heads", 0.1, Range(0.0, 100.0),
        "the same in the last step, linear in between")
    head_loss_decay: float = setting("heads", 1.0, Range(0.0, 1.0, open=True),
        "weight of each head relative to the one before it")
    curriculum: str = setting("heads", "none", ("none", "forward", "reverse"),
        "forward: heads join the training one by one; reverse: they leave it")
    head_targets: str = setting("heads", "text", ("text", "trunk", "teacher"),
        "target of the heads: the text, or the predictions of the trunk or the teacher")
    detach_until: float = setting("heads", 0.0, FRACTION,
        "fraction of the steps in which head losses do not update the trunk")
    head_stride: int = setting("heads", 1, Range(1, 64),
        "train the heads only at every n-th position, at an n-th of the cost")
    freeze_trunk: bool = setting("heads", False, None,
        "train the heads only")
    draft_vocabulary_size: int | None = setting("heads", None, Range(1, MAX_VOCABULARY),
        "draft only this many tokens, the most frequent ones of the text (default: all)")
    head_start_scale: float = setting("heads", 1.0, Range(0.0, 10.0, open=True),
        "factor on the initial weights of the head (0.5 for a pretrained trunk)")
    head_layers: str = setting("heads", "auto", None,
        "trunk layers whose inputs the head reads, such as 2,15,27; auto: three for eagle3, none "
        "for token_conditioned, which always reads the final state")
    head_intermediate_size: int | None = setting("heads", None, Range(1, 2**20),
        "token_conditioned: size of a feed-forward part of the head (default: it has none)")
    head_num_kv_heads: int | None = setting("heads", None, Range(1, 1024),
        "key/value heads of an eagle3 head (default: num_heads)")
    norm_before_fc: bool = setting("heads", True, None,
        "eagle3: normalize the layers' inputs before they are joined")
    norm_before_residual: bool = setting("heads", False, None,
        "eagle3: add the attention to the normalized state")
    own_draft_output: bool = setting("heads", False, None,
        "eagle3: train an output matrix for the drafts, instead of using the trunk's rows")

    quantization: str = setting("quantize", "none", ("none", "qat"),
        "qat: train with the rounding of the deployed model")
    weight_grid: str = setting("quantize", "q4_0", None,
        "grid of the trunk's matrices: q4_0, q8_0, int3-ggml-signed-g32, or q4_0,qkv=q5_0, ...")
    embedding_grid: str = setting("quantize", "q8_0", None,
        "grid of the token table, and of a tied output")
    output_grid: str = setting("quantize", "same", None,
        "grid of an untied output; same: as embedding_grid")
    head_grid: str = setting("quantize", "q4_0", None,
        "grid of the prediction heads' matrices")
    weight_scales: str = setting("quantize", "grid", SCALES,
        "train the steps of weight groups: learned (LSQ), with offset (LSQ+) or bound (PACT), or "
        "from the steps of --quantized-start")
    activations: str = setting("quantize", "int8", ACTIVATIONS,
        "rounding of the inputs of matrices: int8 in groups of 32, int8 per token, or none")
    kv_cache: str = setting("quantize", "float", CACHES,
        "number format of the KV cache that attention reads")
    straight_through: str = setting("quantize", "pass", MASKS,
        "which clipped weights still get a gradient")
    quantize_from: float = setting("quantize", 0.0, FRACTION,
        "fraction of the steps before quantization begins")
    freeze_embeddings: bool = setting("quantize", False, None,
        "keep the token table, and a tied output, as they are")
    distill_weight: float = setting("quantize", 0.0, FRACTION,
        "fraction of the loss that follows the probabilities of the --teacher")

    tokens: int = setting("training", 2_000_000, Range(1, 10**15),
        "number of tokens to train on")
    batch_size: int = setting("training", 8, Range(1, 2**20),
        "sequences per step")
    sequence_length: int | None = setting("training", None, Range(1, 2**20),
        "tokens per sequence in training (default: context_length)")
    learning_rate: float = setting("training", 4e-3, Range(0.0, 10.0, open=True),
        "peak learning rate")
    step_learning_rate_factor: float = setting("training", 1.0, Range(0.0, 1000.0),
        "learning rate of trained steps of weight groups, relative to the weights'")
    warmup_fraction: float = setting("training", 0.02, FRACTION,
        "fraction of the steps that raise the learning rate from zero")
    decay_fraction: float = setting("training", 0.4, FRACTION,
        "fraction of the steps, at the end, that lower the learning rate linearly")
    final_learning_rate_factor: float = setting("training", 0.0, FRACTION,
        "learning rate at the end of the decay, relative to the peak")
    weight_decay: float = setting("training", 0.1, Range(0.0, 10.0),
        "decoupled weight decay of the matrices")
    beta1: float = setting("training", 0.9, MOMENTUM,
        "AdamW's decay of the first moment")
    beta2: float = setting("training", 0.95, MOMENTUM,
        "AdamW's decay of the second moment")
    ema_decay: float = setting("training", 0.0, MOMENTUM,
        "decay of the weights' moving average, which becomes the finished model (0: last weights)")
    max_gradient_norm: float = setting("training", 1.0, Range(0.0, 1e9),
        "norm to which larger gradients are clipped (0: no clipping)")
    precision: str = setting("training", "float32", PRECISIONS,
        "precision of matrix multiplications in training (tf32 and float16: GPU only)")
    store_states: bool = setting("training", False, None,
        "store the states of the teacher or of a frozen trunk; all epochs have the same windows")
    seed: int = setting("training", 0, Range(0, 2**63 - 1),
        "seed of the initial weights and of the order of the batches")
    checkpoint_every: int = setting("training", 1000, Range(0, 10**12),
        "steps between checkpoints (0: only at the end)")
    evaluation_tokens: int = setting("training", 131_072, Range(0, 10**12),
        "number of held-out tokens per evaluation (0: no evaluation)")
    # fmt: on

    def __post_init__(self) -> None:
        if self.draft_depth is None:
            object.__setattr__(self, "draft_depth", 0 if self.heads == "none" else 7)
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, checked(field, getattr(self, field.name)))
        check_together(self)

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.tokens // self.tokens_per_step

    @property
    def tokens_per_step(self) -> int:
        """Tokens that an optimizer step is trained on."""
        return self.batch_size * self.tokens_per_sequence

    @property
    def tokens_per_sequence(self) -> int:
        """Tokens of a training sequence that are trained on."""
        return self.sequence_length or self.context_length

    @property
    def first_quantized_step(self) -> int | None:
        """The first step, counted from 0, that trains with rounded weights. None without QAT."""
        return None if self.quantization == "none" else self.step_at(self.quantize_from)

    def step_at(self, fraction: float) -> int:
        """Return the step, counted from 0, that begins after this fraction of the steps.

        All fractions become steps here. The rest of the steps is rounded, not the steps before, so
        the fractions 1 - decay_fraction and decay_fraction meet in one step: the one in which the
        decay, the quantization or the attached heads begin.
        """
        return self.steps - round((1.0 - fraction) * self.steps)

    def trunk_parameters(self) -> int:
        """Return the number of trained numbers in the transformer, without prediction heads."""
        head_dim = self.head_dim or self.hidden_size // self.num_heads
        heads = self.num_heads + 2 * self.num_kv_heads
        attention = self.hidden_size * head_dim * (heads + self.num_heads)
        attention += self.qkv_bias * head_dim * heads + self.qk_norm * 2 * head_dim
        feed_forward = 3 * self.hidden_size * self.intermediate_size
        block = attention + feed_forward + 2 * self.hidden_size
        tables = self.vocabulary_size * self.hidden_size * (1 if self.tied_embeddings else 2)
        return self.num_layers * block + tables + self.hidden_size

    def to_dict(self) -> dict[str, Value]:
        """Return the values by field name, in the order of the fields, for `from_dict`."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> "Recipe":
        """Return the recipe with these settings and defaults for the others.

        Raises UserError for an unknown key.
        """
        if not isinstance(values, Mapping):
            refuse("a recipe's values", "settings by name", values)
        for key in values:
            check_known("recipe key", str(key), SETTINGS)
        return cls(**values)

    def differences(self, other: "Recipe") -> list[str]:
        """Return the names of the settings in which the two recipes differ."""
        return [name for name in SETTINGS if getattr(self, name) != getattr(other, name)]

    def describe(self) -> str:
        """Return the settings for people, one paragraph per group, at most 100 columns wide."""
        return describe(self, HIDDEN_BY_DEFAULT)


SETTINGS: dict[str, dataclasses.Field] = {field.name: field for field in dataclasses.fields(Recipe)}
Recipe.__doc__ = f"{Recipe.__doc__}\n\n" + "\n".join(
    f"{name}: {field.metadata['help']}" for name, field in SETTINGS.items()
)
