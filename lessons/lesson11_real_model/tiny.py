"""A tiny chat model, made in seconds: for a rehearsal of the lesson, and for tests.

It knows nothing. But it comes as a real one does: a folder of transformers with config.json,
model.safetensors, a tokenizer of its own, and a chat template.
"""

from pathlib import Path

from minimtp import extras
from minimtp.backend import numpy as np
from minimtp.formats.export import export
from minimtp.formats.load import is_huggingface, load
from minimtp.training.data import texts
from minimtp.training.data.corpus import TokenCorpus
from minimtp.training.presets import preset
from minimtp.training.run.folder import started
from minimtp.training.run.start import Start
from minimtp.training.run.train import train
from minimtp.training.self_generated.prompts import first_messages
from minimtp.training.tokenizers.content import TokenizerSettings
from minimtp.training.tokenizers.file_tokenizer import FileTokenizer

END, BEGIN_MESSAGE, END_MESSAGE = MARKS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
VOCABULARY, CONTEXT = 512, 256
CODE_BYTES, MESSAGES = 200_000, 400


def make_tiny_model(folder: Path, device: str) -> Path:
    """Return the folder of the tiny model, below `folder`. Make it if it is missing.

    Raises UserError if the extra `interop` is missing.
    """
    path, run = folder / "made" / "tiny", folder / "made" / "run"
    if is_huggingface(path):
        return path
    code = b"\n".join(text for _, text in texts.standard_library())[:CODE_BYTES].decode(
        "utf-8", "replace"
    )
    tokenizer = train_tokenizer(code)
    chat = "".join(
        f"{BEGIN_MESSAGE}user\n{text}{END_MESSAGE}\n{BEGIN_MESSAGE}assistant\n{text}{END_MESSAGE}\n"
        for text in first_messages(MESSAGES, seed=0)
    )
    tokens = np.concatenate([tokenizer.encode(code), tokenizer.encode(chat, special=True)])
    corpus = TokenCorpus("code and conversations", tokens, tokens[-CONTEXT * 4 :], tokenizer)
    recipe = preset(
        "tiny",
        vocabulary_size=tokenizer.vocabulary_size,
        context_length=CONTEXT,
        sequence_length=64,
        evaluation_tokens=0,
    )
    start = Start(resume=started(run))
    train(recipe, corpus, run, start, device=device, report=lambda line: None)
    export(load(run), path)
    return path


def train_tokenizer(text: str) -> FileTokenizer:
    """Return a byte-level BPE tokenizer for the text, with the marks of a chat."""
    library = extras.require("tokenizers", "making a tokenizer")
    tokenizer = library.Tokenizer(library.models.BPE())
    tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(MARKS),
        initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text], trainer)
    known = tokenizer.get_vocab()
    settings = TokenizerSettings(
        end_token=known[END], end_tokens=(known[END_MESSAGE],), chat_template=TEMPLATE
    )
    return FileTokenizer(tokenizer.to_str(), settings)
