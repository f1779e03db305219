"""Random models with heads, and the drafts of the training code."""

import itertools

from minimtp.backend import numpy as np
from minimtp.engine.module import map_parameters
from minimtp.engine.tensor import no_grad
from minimtp.model.config import ModelConfig
from minimtp.model.heads import MultiTokenModel
from minimtp.model.transformer import Transformer
from tests.helpers.heads import heads_of

SHAPE = ModelConfig(
    vocabulary_size=40,
    context_length=24,
    num_layers=1,
    hidden_size=32,
    num_heads=2,
    num_kv_heads=1,
    intermediate_size=64,
)
DEPTH = 4


def model_with(kind, dtype=np.float64, seed=0):
    """Return a trunk with heads. All parameters are random, because zeros would hide mistakes."""
    rng = np.random.default_rng(seed)
    model = MultiTokenModel(Transformer(SHAPE, rng), heads_of(kind, DEPTH, SHAPE, rng))

    def random(array):
        if array.ndim == 1:
            return rng.uniform(0.5, 1.5, array.shape).astype(dtype)
        return (2 * array.shape[1] ** -0.5 * rng.standard_normal(array.shape)).astype(dtype)

    map_parameters(model, random)
    return model


def trained_draft(model, tokens, depth):
    """Return the greedy drafts of the training code after `tokens`, and their logits."""
    rows = len(tokens) - 1
    tokens = [*tokens, *[0] * depth]
    drafts, logits = [], []
    with no_grad():
        hidden = model.trunk_states(np.array([tokens[:rows]]))
        for k in range(depth):  # each draft is one more known token for the deeper heads
            following = np.array([[tokens[row + 1 : row + 1 + depth] for row in range(rows)]])
            states = model.heads.states(hidden, following, model.trunk)
            state = next(itertools.islice(states, k, None))
            logits.append(model.draft_logits(state).data[0, -1])
            drafts.append(int(logits[-1].argmax()))
            tokens[rows + 1 + k] = drafts[-1]
    return drafts, np.array(logits)
