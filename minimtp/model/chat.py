"""From a conversation to the tokens of a prompt, by the chat template of the model.

A chat model was trained on conversations that are written in one particular way, with marks around
each message. The way is a *template* in the language Jinja, which comes with the model:

    [{"role": "user", "content": "What is 2 + 2?"}]

    <|im_start|>user
    What is 2 + 2?<|im_end|>
    <|im_start|>assistant

The marks are special tokens. Where a message contains the name of a mark, it stays text, so nobody
can end a message inside a message. The template sees the variables of `transformers`: messages,
add_generation_prompt, bos_token, eos_token, raise_exception and strftime_now.
"""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from minimtp import extras
from minimtp.backend import Array
from minimtp.backend import numpy as np
from minimtp.errors import UserError, shown
from minimtp.machine import child_environment
from minimtp.model.chat_template import resource
from minimtp.model.tokenizer import Tokenizer

SECONDS = 10  # of processor time, for all conversations of a call together
LONGEST = 3600  # seconds of a process whose processor time the system does not limit
Message = Mapping[str, Any]  # "role" and "content"


def chat_tokens(tokenizer: Tokenizer, conversations: Sequence[Sequence[Message]]) -> list[Array]:
    """Return the tokens of every conversation, (N,) int64 each, begin tokens included. They end
    with the mark after which the model writes its answer.

    conversations: lists of {"role": "system", "user" or "assistant", "content": text}, the oldest
    message first.

    Raises UserError if the model has no template, if the template fails, takes too long or refuses
    a conversation, or if the library Jinja2 is missing.
    """
    hidden = _stand_ins(conversations, tokenizer)
    texts = _texts(tokenizer, _replaced(conversations, hidden))
    return [_encoded(tokenizer, text, hidden) for text in texts]


def follow_up_tokens(
    tokenizer: Tokenizer, conversations: Sequence[Sequence[Message]]
) -> list[Array]:
    """Return what comes after the model's last answer in each conversation: the mark that ends the
    answer, the last message of the user, and the mark after which the model answers again. (N,)
    int64 each, empty where the template does not write the answer as it is.

    conversations: each ends with an answer, whose content does not matter, and a message.

    A conversation that goes on in this way has the tokens that the model generated. Those of
    `chat_tokens` can differ, because text that is encoded again can get other tokens.

    Raises UserError as `chat_tokens` does.
    """
    hidden = _stand_ins(conversations, tokenizer)
    answer = _unused_prefix(conversations) + "answer"
    replaced = _replaced(conversations, hidden)
    for messages in replaced:
        messages[-2]["content"] = answer
    found = []
    for text in _texts(tokenizer, replaced) if replaced else ():
        _, _, after = text.partition(answer)
        found.append(_encoded(tokenizer, after, hidden))
    return found


def require_template(tokenizer: Tokenizer) -> None:
    """Raise UserError if the model has no chat template."""
    if tokenizer.chat_template is None:
        raise UserError(
            "this model has no chat template: give a prompt instead, or a model trained to chat"
        )


def _encoded(tokenizer: Tokenizer, text: str, hidden: Mapping[str, str]) -> Array:
    """Return the tokens of what a template wrote. hidden: the marks that are text, by stand-in."""
    parts = re.split(f"({'|'.join(map(re.escape, hidden))})", text) if hidden else [text]
    tokens = [
        tokenizer.encode(hidden.get(part, part), special=part not in hidden)
        for part in parts
        if part
    ]
    return np.concatenate(tokens) if tokens else np.zeros(0, np.int64)


def _stand_ins(conversations: Sequence[Sequence[Message]], tokenizer: Tokenizer) -> dict[str, str]:
    """Return texts that stand for the marks which occur in contents: {stand-in: mark}."""
    contents = _contents(conversations)
    marks = [name for name in tokenizer.special_tokens if name]
    found = [mark for mark in marks if any(mark in content for content in contents)]
    if not found:
        return {}
    prefix, ordered = _unused_prefix(conversations), sorted(found, key=len, reverse=True)
    return {f"{prefix}{number}\ue001": mark for number, mark in enumerate(ordered)}


def _unused_prefix(conversations: Sequence[Sequence[Message]]) -> str:
    """Return a text that no content contains."""
    contents, prefix = _contents(conversations), "\ue000"  # no character: for private use
    while any(prefix in content for content in contents):
        prefix += "\ue000"
    return prefix


def _contents(conversations: Sequence[Sequence[Message]]) -> list[str]:
    return [_content(message) for messages in conversations for message in messages]


def _replaced(
    conversations: Sequence[Sequence[Message]], hidden: Mapping[str, str]
) -> list[list[dict[str, Any]]]:
    """Return the conversations with the stand-ins in place of the marks."""
    replaced = []
    for messages in conversations:
        replaced.append([])
        for message in messages:
            content = _content(message)
            for stand_in, mark in hidden.items():
                content = content.replace(mark, stand_in)
            replaced[-1].append({**message, "content": content})
    return replaced


def _content(message: Message) -> str:
    if not isinstance(message, Mapping) or not isinstance(message.get("content"), str):
        raise UserError(
            f"a message of a conversation is {shown(message)}, but must have a role and a content, "
            "both text"
        )
    return message["content"]


def _texts(tokenizer: Tokenizer, conversations: list) -> list[str]:
    """Return the conversations as the template writes them."""
    require_template(tokenizer)
    extras.require("jinja2", "a chat template")
    names = {token: name for name, token in tokenizer.special_tokens.items()}
    request = {
        "template": tokenizer.chat_template,
        "conversations": conversations,
        "variables": {
            "add_generation_prompt": True,
            "bos_token": names.get(next(iter(tokenizer.begin_tokens), None), ""),
            "eos_token": names.get(tokenizer.end_token, ""),
        },
        "seconds": SECONDS,
    }
    reply = _applied(json.dumps(request).encode())
    if "error" in reply:
        raise UserError(
            f"the model's chat template {shown(reply['error'], 150)}: change the conversation, or "
            "use another model"
        )
    return reply["texts"]


def _applied(request: bytes) -> dict[str, Any]:
    """Return the answer of `chat_template.py` to a request."""
    endless = {"error": f"did not come to an end in {SECONDS} seconds of processor time"}
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "minimtp.model.chat_template"],
            input=request,
            capture_output=True,
            env=child_environment(),
            timeout=SECONDS if resource is None else LONGEST,
        )
    except subprocess.TimeoutExpired:
        return endless
    if done.returncode == 0:
        return json.loads(done.stdout)
    if resource is not None and -done.returncode == signal.SIGXCPU:
        return endless
    if resource is not None and -done.returncode in (
        signal.SIGKILL,
        signal.SIGABRT,
        signal.SIGSEGV,
    ):
        return {"error": "needs too much memory"}
    raise RuntimeError(f"applying the chat template failed: {done.stderr.decode(errors='replace')}")
