"""From a trained model to a decoder, and from a prompt to text."""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import minimtp
from minimtp import kernels
from minimtp.backend import array_module
from minimtp.backend import numpy as np
from minimtp.decode.batch import Batch, generate_batch
from minimtp.decode.drafters.drafter import Drafter, FunctionDrafter
from minimtp.decode.drafters.heads import head_drafter
from minimtp.decode.drafters.registry import make_drafter
from minimtp.decode.generation import Generation
from minimtp.decode.logits_processors import RepetitionPenalty
from minimtp.decode.options import require_tree, start_generation
from minimtp.decode.policy.adaptive import AdaptivePolicy
from minimtp.decode.policy.cost import Costs
from minimtp.decode.runtime import ModelRunner
from minimtp.decode.sampling import SamplingParams
from minimtp.engine.module import Module
from minimtp.errors import UserError
from minimtp.machine import processor
from minimtp.quant.packed import bits_per_weight
from minimtp.quant.qat.modules import FakeQuantizedMatrix, convert

CONFIDENCE = (
    0.05  # the least of a draft that is worth verifying; how many of those, the lengths decide
)


def deploy(model: Module, context_length: int | None = None) -> tuple[ModelRunner, Drafter | None]:
    """The decoder of a trained model: its trunk ready to decode, and the drafter of its heads (None without heads).

    A model that trained through rounding is packed first, on the grids it was trained on.
    """
    if any(isinstance(module, FakeQuantizedMatrix) for _, module in model.named_modules()):
        model = convert(model)
    runtime = ModelRunner(model.trunk, context_length, model)
    return runtime, head_drafter(model.heads, runtime) if model.depth else None


class Decoder:
    """A loaded run, ready to write: its weights are laid out once, and draft lengths are learned from text to text.

    run: what `minimtp.load` returns. draft: what drafts, whose choice changes the speed and never the law of the text:

        a name      of decode/drafters/registry.py: "heads", "ngram" or "none"
        a run       another loaded run of the same tokenizer, usually a smaller one (decode/drafters/model.py)
        a function  of (tokens so far, how many, rule) -> (drafts, None or the scores they were drawn from)

    draft_length: "auto", as many tokens as pay (adaptive.py), or a whole number; draft_confidence: token-conditioned heads and
    draft models stop where they give the whole draft less than this probability. tree: draft up to so many tokens a round as a
    tree (decode/drafters/tree_growth.py), at most draft_length behind one another; with auto, where that is faster than a chain. 0: chains.
    Raises UserError for a combination that cannot be used.
    """

    def __init__(
        self,
        run: object,
        draft: object = "heads",
        draft_length: int | str = "auto",
        draft_confidence: float = CONFIDENCE,
        tree: int = 0,
    ) -> None:
        if not 0.0 <= draft_confidence <= 1.0:
            raise UserError(
                f"draft_confidence is a probability from 0 to 1, not {draft_confidence}"
            )
        self.run = run
        self.target, heads = deploy(run.model)
        require_tree(tree, self.target)
        self.drafter = make_drafter(draft, run, heads)
        if self.drafter is not None:
            self.drafter.min_confidence = draft_confidence
        self._draft_depth = None if draft_length == "auto" else draft_length
        if isinstance(draft_length, str) and draft_length != "auto":
            raise UserError(f"draft_length is auto or a whole number, not {draft_length!r}")
        self._tree = tree
        self._warm: set[tuple] = set()  # kinds of settings whose kernels are loaded
        self._costs = self._policy = None
        if draft_length == "auto" and self.drafter is not None:
            self._costs = Costs(
                self.target, max(self.drafter.max_depth, tree), _identity(run, self.target)
            )
            self._policy = self._new_policy(self.target)

    def generate(self, prompt: str | bytes, *, seed: int = 0, **options: object) -> Generation:
        """Continue the prompt; the options are those of `minimtp.generate`. One text at a time: the next begins anew."""
        return start_generation(
            self.target, self.drafter, self.run.tokenizer.encode(prompt), seed=seed, policy=self._policy,
            **self._settings(**options),
        )  # fmt: skip

    def generate_batch(
        self, prompts: Iterable[str | bytes], *, seed: int = 0, **options: object
    ) -> Batch:
        """Continue each of the prompts as if it were alone (batch.py); the options are those of `minimtp.generate`."""
        return generate_batch(
            self.target, self.drafter, [self.run.tokenizer.encode(prompt) for prompt in prompts], seed=seed,
            make_policy=self._new_policy, **self._settings(**options),
        )  # fmt: skip

    def _new_policy(self, target: ModelRunner) -> AdaptivePolicy | None:
        """For texts of this target, a twin of the decoder's; what passes cost is known to all of them."""
        return (
            AdaptivePolicy(self._costs.of(target), self.drafter.max_depth, self._tree)
            if self._costs
            else None
        )

    def _settings(
        self,
        *,
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        rule: str = "shared-noise",
        stop: Sequence[str | bytes] = (),
        repetition_penalty: float = 1.0,
    ) -> dict[str, object]:
        """The decoding loop's options, and kernels that are compiled or loaded: a text's own seconds are those of decoding."""
        tokenizer, law = self.run.tokenizer, SamplingParams(temperature, top_k, top_p)
        settings = dict(
            max_new_tokens=max_new_tokens, sampling=law, rule=rule, draft_depth=self._draft_depth, tree=self._tree,
            stop_tokens=[tokenizer.end_token], stop_strings=[stop] if isinstance(stop, str | bytes) else stop,
            decode_bytes=tokenizer.decode_bytes,
            logits_processors=[] if repetition_penalty == 1.0 else [RepetitionPenalty(repetition_penalty)],
        )  # fmt: skip
        kind = law.greedy, top_k > 0, top_p < 1, rule, repetition_penalty != 1.0
        if kind not in self._warm:
            self._warm_up(**settings)
            self._warm.add(kind)
        return settings

    def _warm_up(self, **settings: object) -> None:
        """Write a few tokens that nobody sees. A function is not asked about them: it is the user's, and may remember."""
        drafter = self.drafter
        if isinstance(drafter, FunctionDrafter):
            drafter, settings["draft_depth"] = None, None
        settings |= {
            "max_new_tokens": 3,
            "stop_tokens": (),
            "stop_strings": (),
        }  # enough for a draft, and no end before it
        for _ in start_generation(self.target, drafter, [self.run.tokenizer.end_token], **settings):
            pass


def generate(
    run: object,
    prompt: str | bytes,
    *,
    max_new_tokens: int = 128,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
    draft: object = "heads",
    draft_length: int | str = "auto",
    draft_confidence: float = CONFIDENCE,
    tree: int = 0,
    rule: str = "shared-noise",
    stop: Sequence[str | bytes] = (),
    repetition_penalty: float = 1.0,
) -> Generation:
    """Continue `prompt` with the model of a loaded run: an iterator of tokens, which `run.tokenizer.decode` turns into text.

    run, draft, draft_length, draft_confidence, tree: see `Decoder`, which is worth keeping for more than one text.
    rule: how sampled drafts are verified (verify.py): "shared-noise", where the same seed gives the same text with any drafts
    or none, "token", "block" or "match".
    stop: texts at which to end, besides the tokenizer's end token; the token that completes one is the last.
    repetition_penalty: above 1 makes what was already said less likely (decode/logits_processors.py).

    Raises UserError for options or a prompt that cannot be used.
    """
    return Decoder(run, draft, draft_length, draft_confidence, tree).generate(
        prompt, max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed, rule=rule, stop=stop,
        repetition_penalty=repetition_penalty,
    )  # fmt: skip


def _identity(run: object, target: ModelRunner) -> dict[str, object]:
    """All that the seconds of a pass depend on, as far as it can be named."""
    device = "cpu" if array_module(target.final_norm) is np else "cuda"
    sources = [
        *sorted(Path(kernels.__file__).parent.rglob("*.py")),
        Path(__file__).with_name("runtime.py"),
    ]
    code = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:16]
    return {
        "minimtp": minimtp.__version__, "code": code, "numpy": np.__version__, "processor": processor(device),
        "kernels": kernels.describe(device)[0] if target.rows_at_once else "plain, a token at a time",
        "model": vars(target.config), "context_length": target.context_length,
        "bits a weight": round(bits_per_weight(run.model), 3), "dtype": str(target.final_norm.dtype),
    }  # fmt: skip
