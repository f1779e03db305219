"""From a trained model to a target, and to the drafter of the model's heads."""

from minimtp.decode.drafters.drafter import Drafter
from minimtp.decode.drafters.heads import head_drafter
from minimtp.decode.model_runner import ModelRunner
from minimtp.model.draft_head import DraftHead
from minimtp.model.transformer import LanguageModel
from minimtp.quant.qat.convert import packed_model


def with_head(model: LanguageModel, drafter: object) -> LanguageModel:
    """Return the model, with the drafter in place of its heads if that is a `DraftHead`."""
    return drafter.attached_to(model) if isinstance(drafter, DraftHead) else model


def deploy(
    model: LanguageModel, context_length: int | None = None, kv_cache: str | None = None
) -> tuple[ModelRunner, Drafter | None]:
    """Prepare a trained model for decoding: return the target and the drafter of the heads, if any.

    A model that was trained with fake quantization is packed first, on the grids it was trained on.
    kv_cache: see `ModelRunner`.
    """
    model = packed_model(model)
    runner = ModelRunner(model, context_length, kv_cache)
    return runner, head_drafter(model.heads, runner) if model.depth else None
