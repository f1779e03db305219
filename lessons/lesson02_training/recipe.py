"""Lesson 2 adds the corpus, parameters, an optimizer, a schedule, and several cores."""

from dataclasses import replace

from lessons.lesson01_autograd.recipe import recipe as previous

INTRODUCES = (
    "minimtp.kernels",
    "minimtp.kernels.plain.attention",
    "minimtp.kernels.plain.decoding.batched_step",
    "minimtp.kernels.plain.decoding.best_first_tree",
    "minimtp.kernels.plain.bfloat16",
    "minimtp.kernels.plain.decoding.block",
    "minimtp.kernels.plain.decoding.gated_head",
    "minimtp.kernels.plain.gates",
    "minimtp.kernels.plain.loss",
    "minimtp.kernels.plain.norms",
    "minimtp.kernels.plain.optimizer",
    "minimtp.kernels.plain.packed_linear",
    "minimtp.kernels.plain.quantize",
    "minimtp.kernels.plain.sampling",
    "minimtp.kernels.plain.decoding.verification",
    "minimtp.kernels.plain.decoding",
    "minimtp.kernels.plain.steps",
    "minimtp.kernels.plain",
    "minimtp.kernels.ggml.scale_search",
    "minimtp.kernels.ggml.importance_weighted",
    "minimtp.kernels.ggml.five_bits",
    "minimtp.kernels.ggml.blocks",
    "minimtp.engine.fused",
    "minimtp.engine.precision",
    "minimtp.engine.module",
    "minimtp.engine.flat",
    "minimtp.engine.optim",
    "minimtp.engine.replicas",
    "minimtp.model.matrix",
    "minimtp.model.layers",
    "minimtp.model.tokenizer",
    "minimtp.records",
    "minimtp.machine",
    "minimtp.training.data.encoding",
    "minimtp.training.data.walk",
    "minimtp.training.data.folders",
    "minimtp.training.data.texts",
    "minimtp.training.data.byte_tokenizer",
    "minimtp.training.data.tokenizer",
    "minimtp.training.data.document_tokens",
    "minimtp.training.data.split",
    "minimtp.training.self_generated.stored",
    "minimtp.training.data.corpus",
    "minimtp.training.schedule",
)

recipe = replace(previous, learning_rate=1e-2)
