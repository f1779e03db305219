"""An EAGLE-3 head in llama.cpp, through the C functions of the package llama_cpp.

A script for the Python that has llama_cpp, which need not have minimtp:

    python llama_session.py REQUEST.json

The request names the files of a model and a head, the layers, the tokens (N,), the anchors and
the number of steps. The logits (K, anchors, V) are written to its `out` as a .npy file. Step k at
anchor p follows the text up to p by the states of the model, and the next k - 1 tokens by its own.
Keys and values are float32, and no kernel is fused, so nothing is rounded that minimtp does not
round.
"""

import ctypes
import json
import sys

import llama_cpp as api
import numpy as np

ENCODE, DECODE = 0, 1
GGML_TYPE_F32, FLASH_ATTENTION_DISABLED = 0, 0
LIBRARY = api.llama_cpp._lib
FLOATS = ctypes.POINTER(ctypes.c_float)


def declared(name, result, *arguments):
    """Return a C++ function of the library's header llama-ext.h."""
    function = getattr(LIBRARY, name)
    function.restype, function.argtypes = result, arguments
    return function


CONTEXT = ctypes.c_void_p
read_inputs_of = declared(
    "_Z30llama_set_embeddings_layer_inpP13llama_contextjb",
    None, CONTEXT, ctypes.c_uint32, ctypes.c_bool,
)  # fmt: skip
inputs_of = declared(
    "_Z30llama_get_embeddings_layer_inpP13llama_contextj", FLOATS, CONTEXT, ctypes.c_uint32
)
read_states = declared(
    "_Z26llama_set_embeddings_nextnP13llama_contextbb",
    None, CONTEXT, ctypes.c_bool, ctypes.c_bool,
)  # fmt: skip
states = declared("_Z26llama_get_embeddings_nextnP13llama_context", FLOATS, CONTEXT)
state_of_row = declared(
    "_Z30llama_get_embeddings_nextn_ithP13llama_contexti", FLOATS, CONTEXT, ctypes.c_int32
)


def load(path):
    settings = api.llama_model_default_params()
    settings.n_gpu_layers, settings.use_mmap = 0, False
    model = api.llama_model_load_from_file(str(path).encode(), settings)
    assert model, f"llama.cpp cannot load {path}"
    return model


def context_of(model, rows, other=None):
    settings = api.llama_context_default_params()
    settings.n_ctx = settings.n_batch = settings.n_ubatch = rows
    settings.n_threads = settings.n_threads_batch = 1
    settings.type_k = settings.type_v = GGML_TYPE_F32
    settings.flash_attn_type = FLASH_ATTENTION_DISABLED
    if other is not None:
        settings.ctx_other = other
    context = api.llama_init_from_model(model, settings)
    assert context, "llama.cpp cannot create a context"
    return context


def array(pointer, *shape):
    return np.ctypeslib.as_array(pointer, shape).copy()


def embedding(row):
    """A row (D,) for the library, which copies it."""
    return api.llama_embd(row.ctypes.data_as(FLOATS), 1, len(row))


def process(context, kind, rows):
    """rows: (token or None, row (D,) or None, position, whether its output is wanted)."""
    batch = api.llama_batch_ext_init(context)
    for token, row, position, wanted in rows:
        if token is None:
            index = api.llama_batch_ext_add_embd(batch, 0, embedding(row))
        else:
            index = api.llama_batch_ext_add_token(batch, 0, int(token))
            if row is not None:
                assert api.llama_batch_ext_set_embd_token(batch, index, embedding(row))
        assert index >= 0, index
        assert api.llama_batch_ext_set_pos(batch, index, (ctypes.c_int32 * 1)(position))
        assert api.llama_batch_ext_set_output_logits(batch, index, wanted)
    status = api.llama_process(context, kind, batch)
    assert status == 0, f"llama_process failed with status {status}"
    api.llama_batch_ext_free(batch)


def main(request):
    tokens, layers, steps = request["tokens"], request["layers"], request["steps"]
    api.llama_backend_init()
    model, draft = load(request["model"]), load(request["draft"])
    size, vocabulary = api.llama_model_n_embd(model), api.llama_model_get_vocab(model)
    vocabulary_size, length = api.llama_vocab_n_tokens(vocabulary), len(tokens)
    target = context_of(model, length)
    for layer in layers:
        read_inputs_of(target, layer, True)
    process(target, DECODE, [(token, None, i, True) for i, token in enumerate(tokens)])
    inputs = [array(inputs_of(target, layer), length, size) for layer in layers]
    features = np.ascontiguousarray(np.concatenate(inputs, axis=1), np.float32)
    head = context_of(draft, length, target)
    read_states(head, True, True)
    process(head, ENCODE, [(None, row, i, True) for i, row in enumerate(features)])
    fused = array(states(head), length, size)
    found = np.empty((steps, len(request["anchors"]), vocabulary_size), np.float32)
    for place, anchor in enumerate(request["anchors"]):
        api.llama_memory_clear(api.llama_get_memory(head), True)
        # The graph of a head has the logits of all rows or of none.
        text = [(tokens[i + 1], fused[i], i, False) for i in range(anchor)]
        if text:
            process(head, DECODE, text)
        state = fused[anchor]
        for step in range(steps):
            position = anchor + step
            process(head, DECODE, [(tokens[position + 1], state, position, True)])
            found[step, place] = array(api.llama_get_logits_ith(head, 0), vocabulary_size)
            state = array(state_of_row(head, 0), size)
    np.save(request["out"], found)


if __name__ == "__main__":
    with open(sys.argv[1]) as file:
        main(json.load(file))
