"""A stand-in for the package llama_cpp: a model of 5 tokens whose logits are easy to foresee.

The logits after a position are 1 at (the sum of all tokens up to there) modulo 5 and 0 elsewhere.
It imports nothing but the standard library, so a process without minimtp can load it.
"""

import ctypes
import os
import sys
from types import SimpleNamespace

__version__ = "table"
TOKENS, CONTEXT, CRASH = 5, 700, 999
llama_log_callback = staticmethod(lambda function: function)


def llama_log_set(callback, data):
    print("a library may print to the standard output")


def llama_backend_init():
    sys.stdout.flush()


def llama_model_default_params():
    return SimpleNamespace()


def llama_model_load_from_file(path, settings):
    return "model" if os.path.exists(path) else None


def llama_model_n_ctx_train(model):
    return CONTEXT


def llama_model_get_vocab(model):
    return "vocabulary"


def llama_vocab_n_tokens(vocabulary):
    return TOKENS


def llama_context_default_params():
    return SimpleNamespace()


def llama_init_from_model(model, settings):
    return SimpleNamespace(cache=[], logits={}, settings=settings)


def llama_get_memory(context):
    return context


def llama_memory_seq_rm(context, sequence, first, last):
    del context.cache[first:]


def llama_batch_init(rows, width, sequences):
    def array():
        return [0] * rows

    return SimpleNamespace(
        token=array(), pos=array(), logits=array(), n_seq_id=array(), seq_id=[[0]] * rows
    )


def llama_decode(context, batch):
    if CRASH in batch.token[: batch.n_tokens]:
        os.abort()
    context.logits = {}
    for row in range(batch.n_tokens):
        if batch.pos[row] != len(context.cache):
            return 1
        context.cache.append(batch.token[row])
        if batch.logits[row]:
            chosen = sum(context.cache) % TOKENS
            values = [float(token == chosen) for token in range(TOKENS)]
            context.logits[row] = (ctypes.c_float * TOKENS)(*values)
    return 0


def llama_get_logits_ith(context, row):
    return ctypes.cast(context.logits[row], ctypes.POINTER(ctypes.c_float))


def llama_tokenize(vocabulary, text, length, found, room, add_special, parse_special):
    found[0], found[1] = length % TOKENS, parse_special
    return 2


def llama_token_to_piece(vocabulary, token, written, room, lstrip, special):
    written.value = b"\xff%d" % token
    return 2


def llama_batch_free(batch):
    pass


llama_free = llama_model_free = llama_batch_free
