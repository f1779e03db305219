"""From a trained model to a decoder, and from a prompt to text."""

from minimtp.decode.drafters import Drafter
from minimtp.decode.generate import Generation
from minimtp.decode.generate import generate as generate_tokens
from minimtp.decode.head_drafters import head_drafter
from minimtp.decode.runtime import Runtime
from minimtp.decode.sampling import Law
from minimtp.engine.module import Module
from minimtp.errors import UserError
from minimtp.quant.qat import FakeQuantizedMatrix, convert

DRAFTS = ("heads", "none")


def deploy(model: Module, context_length: int | None = None) -> tuple[Runtime, Drafter | None]:
    """The decoder of a trained model: its trunk ready to decode, and the drafter of its heads (None without heads).

    A model that trained through rounding is packed first, on the grids it was trained on.
    """
    if any(isinstance(module, FakeQuantizedMatrix) for _, module in model.named_modules()):
        model = convert(model)
    runtime = Runtime(model.trunk, context_length)
    return runtime, head_drafter(model.heads, runtime) if model.depth else None


def generate(
    run: object,
    prompt: str | bytes,
    *,
    max_new: int = 128,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
    draft: str = "heads",
    draft_depth: int | None = None,
    draft_confidence: float = 0.2,
    rule: str = "shared-noise",
) -> Generation:
    """Continue `prompt` with the model of a loaded run: an iterator of tokens, which `run.tokenizer.decode` turns into text.

    run: what `minimtp.load` returns. draft: "heads" drafts with the run's prediction heads if it has any, "none" decodes
    plainly; the law of the text is the same. draft_depth: at most so many tokens a draft (None: as many as the heads can);
    draft_confidence: token-conditioned heads stop drafting where they give the whole draft less than this probability.
    rule: how sampled drafts are verified (verify.py): "shared-noise", where the same seed gives the same text with any drafts
    or none, "token", "block" or "match".
    The text ends at the tokenizer's end token.

    Raises UserError for options or a prompt that cannot be used.
    """
    if draft not in DRAFTS:
        raise UserError(f"unknown draft {draft!r}: use heads or none")
    if not 0.0 <= draft_confidence <= 1.0:
        raise UserError(f"draft_confidence is a probability from 0 to 1, not {draft_confidence}")
    runtime, drafter = deploy(run.model)
    if drafter:
        drafter.least_confidence = draft_confidence
    drafter, law = drafter if draft == "heads" else None, Law(temperature, top_k, top_p)
    for _ in generate_tokens(runtime, drafter, [run.tokenizer.end_token], max_new=3, law=law, rule=rule):
        pass  # kernels are compiled or loaded now, so that the text's own seconds are those of decoding
    return generate_tokens(
        runtime,
        drafter,
        run.tokenizer.encode(prompt),
        max_new=max_new,
        law=law,
        seed=seed,
        draft_depth=draft_depth,
        stop_tokens=[run.tokenizer.end_token],
        rule=rule,
    )
