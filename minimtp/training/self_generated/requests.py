"""The texts to generate, by kind and number.

A request is a function of the seed, the kind and its number alone. So an interrupted command can go
on with any number, and no text depends on how the work is divided.

Code, functions to edit and prose come from the standard library and its documentation
(training/data/texts.py). Their held-out files, and held-out subjects of messages, are never used
for training text: `held_out` requests use only those.

Half of a text's value is its variety, so most texts are sampled, at various temperatures.
"""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from minimtp.backend import numpy as np
from minimtp.decode.batched.request import TextRequest
from minimtp.decode.sampling.params import GREEDY, SamplingParams
from minimtp.errors import UserError
from minimtp.model.chat import chat_tokens, follow_up_tokens
from minimtp.model.tokenizer import Tokenizer, prompt_tokens
from minimtp.training.data import texts as named_texts
from minimtp.training.data.corpus import Corpus
from minimtp.training.data.split import fingerprint, split
from minimtp.training.self_generated.prompts import (
    beginnings,
    edit_message,
    first_messages,
    functions_in,
    second_messages,
)

NAMES = {"code": "stdlib", "prose": "pydoc"}  # of the texts that every Python has
GREEDY_SHARE = 0.4
TEMPERATURES = 0.5, 1.0  # of the others, uniformly
SECOND_SHARE = 0.75  # of the conversations have a second message, if the first answer ends
PREFIX_CHARACTERS = 2048  # of text, from which a prompt takes its first tokens
PROMPT_SHARE = 8  # a prompt is one eighth of a continuation of the user's own text
TRIES = 200  # to find a function of the right size
AT_ONCE = 128  # conversations that the chat template writes in one call
Tokens = np.ndarray  # (N,) int64
Conversation = list[dict[str, str]]


@dataclass(frozen=True)
class Lengths:
    """Lengths in tokens.

    prompt: of code and prose, from .. to. function: of a function to edit. answer, continuation:
    the maximum of what the model adds. own_text: of a continuation of the user's own text, with its
    prompt; many short texts are more varied than a few long ones. part: new tokens of a part.
    """

    prompt: tuple[int, int] = (32, 96)
    function: tuple[int, int] = (80, 250)
    answer: int = 256
    continuation: int = 192
    own_text: int = 512
    part: int = 2**16


def _cache() -> Any:
    """Return a field that begins as an empty dictionary and takes no part in comparisons."""
    return field(default_factory=dict, init=False, repr=False, compare=False)


@dataclass(frozen=True)
class Requests:
    """The requests of a seed.

    context_length: of the model. own_text: the text whose training part texts of the kind "text"
    continue. sampling: None for a share of greedy texts, and various temperatures for the others.
    """

    tokenizer: Tokenizer
    context_length: int
    seed: int
    lengths: Lengths = Lengths()
    own_text: Corpus | None = None
    held_out: bool = False
    sampling: SamplingParams | None = None
    # Filled when they are needed: texts by name, their side, functions by file, messages.
    _texts: dict[str, list[tuple[str, bytes]]] = _cache()
    _split: dict[str, list[bytes]] = _cache()
    _functions: dict[bytes, list[str]] = _cache()
    _pools: dict[int, list[str]] = _cache()

    def of(self, kind: str, first: int, count: int) -> list[TextRequest]:
        """Return the requests from number `first` on.

        Raises UserError if the chat template cannot be used or the text is too short.
        """
        numbers = range(first, first + count)
        if kind == "chat":
            return self._chat(numbers)
        if kind == "edit":
            prompts = self.edit_prompts(numbers)
            return self._requests(kind, numbers, prompts, self.lengths.answer)
        if kind == "text":
            length = min(self.context_length, self.lengths.own_text)
            prompts = [self._own_text_prompt(number, length) for number in numbers]
            return self._requests(kind, numbers, prompts, length + 1 - len(prompts[0]))
        prompts = [self.beginning(kind, number) for number in numbers]
        return self._requests(kind, numbers, prompts, self.lengths.continuation)

    def max_new_tokens(self, kind: str) -> int:
        """Return how many tokens the model can add to a text of the kind, at most."""
        if kind == "text":
            return min(self.context_length, self.lengths.own_text)
        if kind == "chat":
            return 2 * self.lengths.answer
        return self.lengths.answer if kind == "edit" else self.lengths.continuation

    def prompts(self, kind: str, count: int) -> list[Tokens]:
        """Return `count` prompts of a kind: code, prose, chat or edit."""
        numbers = range(count)
        if kind == "chat":
            return self._shortened(_as_conversations(self._messages(numbers)))
        if kind == "edit":
            return self.edit_prompts(numbers)
        return [self.beginning(kind, number) for number in numbers]

    def sources_digest(self, kinds: Sequence[str]) -> str:
        """Return a hash of the texts that the prompts of the kinds are taken from."""
        names = {NAMES.get(kind, "stdlib") for kind in kinds if kind in ("code", "edit", "prose")}
        found = {name: fingerprint(self._documents(name)) for name in sorted(names)}
        if "text" in kinds:
            found["text"] = self._text.fingerprint
        return hashlib.sha256(repr(sorted(found.items())).encode()).hexdigest()

    def edit_prompts(self, numbers: range) -> list[Tokens]:
        """Return requests to change functions."""
        messages = []
        for number in numbers:
            rng = self._rng("edit", number)
            messages.append(edit_message(self._function(rng), rng))
        return self._shortened(_as_conversations(messages))

    def beginning(self, kind: str, number: int) -> Tokens:
        """Return the first tokens of a function, a class or a comment, or of a paragraph."""
        rng, sources = self._rng(kind, number), self._sources(NAMES[kind])
        text = rng.choices(sources, list(map(len, sources)))[0].decode("utf-8", "replace")
        position = rng.choice(beginnings(text, kind) or [0])
        length = min(rng.randint(*self.lengths.prompt), self._max_prompt)
        text = text[position : position + PREFIX_CHARACTERS]
        return prompt_tokens(self.tokenizer, text)[:length]

    def _chat(self, numbers: range) -> list[TextRequest]:
        """Return the requests of conversations, most of them with a second message."""
        messages = self._messages(numbers)
        prompts = self._shortened(_as_conversations(messages))
        conversations, with_second = [], []
        for place, number in enumerate(numbers):
            rng = self._rng("second", number)
            if rng.random() < SECOND_SHARE and self.tokenizer.chat_template is not None:
                second = second_messages(1, rng.getrandbits(32))[0]
                conversations.append(
                    [
                        {"role": "user", "content": messages[place]},
                        {"role": "assistant", "content": ""},
                        {"role": "user", "content": second},
                    ]
                )
                with_second.append(place)
        found: list[Tokens] = []
        for start in range(0, len(conversations), AT_ONCE):
            found += follow_up_tokens(self.tokenizer, conversations[start : start + AT_ONCE])
        follow_ups = dict(zip(with_second, found, strict=True))
        requests = self._requests("chat", numbers, prompts, self.lengths.answer)
        return [
            TextRequest(
                request.prompt, request.max_new_tokens, request.sampling, request.seed,
                follow_ups[place].tolist(), request.ends_in_loops,
            ) if place in follow_ups else request
            for place, request in enumerate(requests)
        ]  # fmt: skip

    def _requests(
        self, kind: str, numbers: range, prompts: Sequence[Tokens], max_new_tokens: int
    ) -> list[TextRequest]:
        found = []
        for number, prompt in zip(numbers, prompts, strict=True):
            rng = self._rng(f"{kind} sampling", number)
            sampling = self.sampling or _sampling(rng, kind == "chat" and number >= self._pool_size)
            found.append(
                TextRequest(
                    prompt.tolist(),
                    max_new_tokens,
                    sampling,
                    rng.getrandbits(62),
                    ends_in_loops=True,
                )
            )
        return found

    def _messages(self, numbers: range) -> list[str]:
        """Return first messages: all of them in random order, then all of them in another one."""
        found = []
        for number in numbers:
            cycle, place = divmod(number, self._pool_size)
            if cycle not in self._pools:
                self._pools[cycle] = first_messages(10**6, self.seed + cycle, self.held_out)
            found.append(self._pools[cycle][place])
        return found

    def _function(self, rng: random.Random) -> str:
        """Return a function of the right size, or the last one that was looked at."""
        sources, (low, high) = self._sources("stdlib"), self.lengths.function
        weights, function = list(map(len, sources)), ""
        for _ in range(TRIES):
            source = rng.choices(sources, weights)[0]
            if source not in self._functions:
                self._functions[source] = functions_in(source)
            if self._functions[source]:
                function = rng.choice(self._functions[source])
                if low <= len(self.tokenizer.encode(function)) <= high:
                    break
        return function

    def _own_text_prompt(self, number: int, length: int) -> Tokens:
        source, prompt_length = self._text.train, max(1, length // PROMPT_SHARE)
        if len(source) <= prompt_length:
            raise UserError(
                f"{self._text.name} is too short: a prompt needs {prompt_length + 1} tokens, but "
                f"there are {len(source)} to train on: {self._text.more}"
            )
        start = self._rng("text", number).randrange(len(source) - prompt_length)
        return source[start : start + prompt_length].astype(np.int64)

    def _shortened(self, conversations: Sequence[Conversation]) -> list[Tokens]:
        found: list[Tokens] = []
        for start in range(0, len(conversations), AT_ONCE):
            found += conversation_tokens(self.tokenizer, conversations[start : start + AT_ONCE])
        return [tokens[-self._max_prompt :] for tokens in found]

    def _rng(self, kind: str, number: int) -> random.Random:
        return random.Random(f"{self.seed} {self.held_out} {kind} {number}")

    def _documents(self, name: str) -> list[tuple[str, bytes]]:
        if name not in self._texts:
            self._texts[name] = named_texts.NAMED_SOURCES[name]()
        return self._texts[name]

    def _sources(self, name: str) -> list[bytes]:
        """Return the training documents of a named text, or the held-out ones."""
        if name not in self._split:
            self._split[name] = split(self._documents(name))[1 + self.held_out]
        return self._split[name]

    @property
    def _text(self) -> Corpus:
        if self.own_text is None:
            raise UserError("the kind text in --mix continues your own text: give it with --corpus")
        return self.own_text

    @property
    def _max_prompt(self) -> int:
        """The tokens of a prompt. Only models with a very short context need the limit."""
        return max(1, self.context_length // 2)

    @cached_property
    def _pool_size(self) -> int:
        return len(first_messages(10**6, self.seed, self.held_out))


def conversation_tokens(
    tokenizer: Tokenizer, conversations: Sequence[Conversation]
) -> list[Tokens]:
    """Return the tokens of conversations, up to where the model's answer begins, (N,) int64 each.

    Without a chat template, a conversation is a text of paragraphs that begin with User: and
    Assistant:.

    Raises UserError if the template cannot be used.
    """
    if tokenizer.chat_template is not None:
        return chat_tokens(tokenizer, conversations) if conversations else []
    found = []
    for messages in conversations:
        paragraphs = [f"{m['role'].title()}: {m['content']}\n\n" for m in messages]
        found.append(prompt_tokens(tokenizer, "".join(paragraphs) + "Assistant:"))
    return found


def _as_conversations(messages: Sequence[str]) -> list[Conversation]:
    return [[{"role": "user", "content": message}] for message in messages]


def _sampling(rng: random.Random, asked_before: bool) -> SamplingParams:
    """asked_before: a greedy answer to the same message exists already, perhaps."""
    greedy, temperature = rng.random() < GREEDY_SHARE, round(rng.uniform(*TEMPERATURES), 2)
    return GREEDY if greedy and not asked_before else SamplingParams(temperature)
