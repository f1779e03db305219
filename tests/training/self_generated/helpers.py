"""A tokenizer with the marks of a chat, small random models, and short texts."""

from pathlib import Path

from minimtp.backend import numpy as np
from minimtp.training.build import build_model
from minimtp.training.recipe import Recipe
from minimtp.training.run.folder import LoadedRun
from minimtp.training.self_generated.generate import write_self_generated
from minimtp.training.self_generated.mixture import parse_mixture
from minimtp.training.self_generated.requests import Lengths, Requests
from minimtp.training.tokenizers.byte_tokenizer import ByteTokenizer

TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
USER, ASSISTANT, END = 257, 258, 259
SHORT = Lengths((4, 12), (20, 250), 16, 16, 32, 300)
MIXTURE = parse_mixture("chat=44,code=25,edit=19,prose=12")


class ChatBytes(ByteTokenizer):
    """Bytes, and three marks of a chat."""

    vocabulary_size = 260
    special_tokens = {"<|user|>": USER, "<|assistant|>": ASSISTANT, "<|end|>": END}
    end_tokens = (256, END)
    chat_template = TEMPLATE

    def encode(self, text, special=False):
        found = []
        while text:
            mark = next((m for m in self.special_tokens if special and text.startswith(m)), None)
            found += [self.special_tokens[mark]] if mark else text[0].encode()
            text = text[len(mark) if mark else 1 :]
        return np.array(found, np.int64)

    def decode_bytes(self, tokens):
        return bytes(int(token) for token in tokens if token < 256)

    def spell(self, tokens):
        names = {token: name for name, token in self.special_tokens.items()}
        return b"".join(names[t].encode() if t in names else bytes([t] * (t < 256)) for t in tokens)

    def byte_counts(self):
        return np.array([1] * 256 + [0] * 4)


def model_with(tokenizer, seed=0, context=2048):
    """Return a small random model, as if it had been loaded."""
    recipe = Recipe(
        context_length=context, hidden_size=16, num_layers=1, num_heads=2, num_kv_heads=1,
        intermediate_size=32, vocabulary_size=tokenizer.vocabulary_size, tokens=4096,
        batch_size=2,
    )  # fmt: skip
    model = build_model(recipe, np.random.default_rng(seed))
    model.embedding.weight.data *= 5  # or every next token is equally likely
    return LoadedRun(Path("model"), model, tokenizer, recipe)


def generated(model, out, tokens=900, *, seed=0, mixture=MIXTURE, lengths=SHORT, **options):
    """Let a model generate short texts. options: of `Requests`, and threads and report."""
    settings = {name: options.pop(name) for name in ("threads", "report") if name in options}
    requests = Requests(model.tokenizer, model.config.context_length, seed, lengths, **options)
    return write_self_generated(model, requests, mixture, out, tokens, **settings).texts


def contents(folder):
    """Return the files of a folder."""
    return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}
