"""The draft logits that the library speculators computes for the heads that we export to it."""

import hashlib
import tempfile
from pathlib import Path

from minimtp.backend import numpy as np
from minimtp.formats.eagle3.folder import head_content
from minimtp.formats.export import export
from tests.formats.eagle3.cases import DEPTH, TOKENS, loaded, model_of

# The stored part of the logits (K, T, V'). The library follows text to the end, so the last
# positions have no token for the later steps.
PART = slice(None), slice(5, -2, 8), slice(None, None, 4)


def stored_logits(case: str) -> np.ndarray:
    """Return a part of the logits of a case, float32."""
    return logits(case)[PART]


def digest(case: str) -> str:
    """Return the SHA-256 of the names, types and bytes of the tensors that speculators reads."""
    tensors = head_content(model_of(case), "float32", "speculators").tensors
    text = hashlib.sha256()
    for name in sorted(tensors):
        text.update(f"{name} {tensors[name].dtype} {tensors[name].shape}".encode())
        text.update(tensors[name].tobytes())
    return text.hexdigest()


def logits(case: str) -> np.ndarray:
    """Return the logits (K, T, V') of all steps, of a head that speculators has loaded."""
    import torch
    from speculators.models.eagle3 import Eagle3DraftModel, Eagle3SpeculatorConfig

    model = model_of(case)
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder, "draft")
        export(loaded(model), Path(folder, "model"), draft=draft, draft_format="speculators")
        config = Eagle3SpeculatorConfig.from_pretrained(draft)
        config.transformer_layer_config._attn_implementation = "eager"
        theirs = Eagle3DraftModel.from_pretrained(draft, config=config).float().eval()
    found = []
    theirs.lm_head.register_forward_hook(lambda module, inputs, output: found.append(output[0]))
    text = TOKENS[: -DEPTH - 1]
    states = model.trunk_states(text[None]).data[..., model.config.hidden_size :]
    with torch.no_grad():
        theirs(
            hidden_states=torch.tensor(states),
            input_ids=torch.tensor(TOKENS[1 : len(text) + 1][None]),
            document_ids=torch.zeros((1, len(text)), dtype=torch.long),
            ttt_steps=DEPTH,
        )
    return np.stack([step.numpy() for step in found])
