"""Lesson 11 adds the comparison on a pretrained model, and files for other programs.

Its settings are those of the model, and of `minimtp compare --from`. The recipe is unchanged.
"""

from lessons.lesson10_together.recipe import recipe as previous

INTRODUCES = (
    "minimtp.model.divergence",
    "minimtp.decode.batched.passes",
    "minimtp.decode.batched.request",
    "minimtp.decode.batched.worker",
    "minimtp.decode.batched.texts",
    "minimtp.files.sealed_blocks",
    "minimtp.training.stored_states",
    "minimtp.training.data.spellings",
    "minimtp.training.data.tokenizer_content",
    "minimtp.training.data.file_tokenizer",
    "minimtp.model.chat",
    "minimtp.training.self_generated.mixture",
    "minimtp.training.self_generated.prompts",
    "minimtp.training.self_generated.requests",
    "minimtp.training.self_generated.filters",
    "minimtp.training.self_generated.generate",
    "minimtp.training.self_generated.report",
    "minimtp.formats.exported",
    "minimtp.formats.layout",
    "minimtp.formats.huggingface.config",
    "minimtp.formats.huggingface.layout",
    "minimtp.formats.huggingface.shards",
    "minimtp.formats.huggingface.tokenizer",
    "minimtp.formats.huggingface.reader",
    "minimtp.formats.gguf.pieces",
    "minimtp.formats.gguf.pre_tokenizers",
    "minimtp.formats.gguf.vocabulary",
    "minimtp.formats.huggingface.writer",
    "minimtp.formats.gguf.container",
    "minimtp.formats.gguf.layout",
    "minimtp.formats.gguf.metadata",
    "minimtp.formats.gguf.q5_k",
    "minimtp.formats.gguf.rope_scaling",
    "minimtp.formats.gguf.reader",
    "minimtp.formats.gguf.writer",
    "minimtp.formats.export",
    "minimtp.bench.baselines.llama_cpp.session",
    "minimtp.bench.baselines.llama_cpp.process",
    "minimtp.bench.baselines.llama_cpp.quality",
    "minimtp.compare.pretrained.texts",
    "minimtp.compare.pretrained.sizes",
    "minimtp.compare.pretrained.configurations",
    "minimtp.compare.pretrained.claims",
    "minimtp.compare.pretrained.quality",
    "minimtp.compare.pretrained.llama",
    "minimtp.compare.pretrained.measurement",
    "minimtp.compare.pretrained.plot",
    "minimtp.compare.pretrained.report",
    "minimtp.compare.pretrained.schema",
    "minimtp.compare.pretrained.steps",
    "minimtp.compare.pretrained.run",
)
MODEL = "smollm2"

recipe = previous
