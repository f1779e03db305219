"""How much a comparison on a pretrained model trains and measures, by the name of its preset."""

from dataclasses import dataclass, field

from minimtp.compare.pretrained.texts import TINY_SIZES, TextSizes


@dataclass(frozen=True)
class Sizes:
    """Lengths and amounts are in tokens, and text tokens per kind of text.

    sequence: of training heads and of measuring quality. qat_sequence, qat_batch: of training with
    rounding. Many small steps are better than few large ones: with all matrices in q4_0, 32,768
    tokens in 64 steps recovered 74 % of the divergence on code, 65,536 tokens in 32 steps 75 %.
    qat_tokens: to train on with rounding. head_tokens: to train heads on, in several epochs over
    the model's own text. draft_vocabulary: tokens that the heads can draft. evaluation_tokens: to
    measure the quality of each kind of text on. new_tokens: of each text whose decoding is timed,
    `repeats` times.
    """

    texts: TextSizes = field(default_factory=TextSizes)
    sequence: int = 512
    qat_sequence: int = 256
    qat_batch: int = 2
    qat_tokens: int = 147_456
    head_tokens: int = 1_600_000
    draft_vocabulary: int = 8_192
    evaluation_tokens: int = 8_192
    new_tokens: int = 128
    repeats: int = 2


SIZES = {
    "tiny": Sizes(
        texts=TINY_SIZES,
        sequence=32,
        qat_sequence=32,
        qat_tokens=256,
        head_tokens=512,
        draft_vocabulary=128,
        evaluation_tokens=256,
        new_tokens=16,
        repeats=1,
    ),
    "quick": Sizes(
        qat_tokens=16_384, head_tokens=200_000, evaluation_tokens=2_048, new_tokens=64, repeats=1
    ),
    "laptop": Sizes(),
}
