"""The public interface: from a loaded model to a decoder, and from a prompt to text."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from secrets import randbits

from minimtp.arguments import (
    TEXT,
    THREADS,
    Kind,
    checked_arguments,
    instance,
    one_of,
    optional,
    several,
    whole,
)
from minimtp.backend import array_module
from minimtp.backend import numpy as np
from minimtp.decode.batch import Batch, start_batch
from minimtp.decode.drafters.config import DEFAULT_DRAFT, NO_DRAFT, DraftConfig
from minimtp.decode.drafters.deploy import deploy, with_head
from minimtp.decode.drafters.function import FunctionDrafter
from minimtp.decode.drafters.registry import AUTO, make_drafter
from minimtp.decode.generation import Generation
from minimtp.decode.logits_processors import PENALTY, RepetitionPenalty
from minimtp.decode.model_runner import ModelRunner
from minimtp.decode.options import (
    NEW_TOKENS,
    SAMPLING,
    SEED,
    GenerationOptions,
    require_tree,
    start_generation,
    start_text,
)
from minimtp.decode.policy.cost import Costs
from minimtp.decode.policy.cost_identity import cost_identity
from minimtp.decode.policy.plan import DraftPolicy
from minimtp.decode.policy.registry import make_policy
from minimtp.decode.policy.threads import fastest_threads
from minimtp.decode.sampling.params import GREEDY, SamplingParams
from minimtp.decode.states import DecodingStates
from minimtp.kernels import plain
from minimtp.model.config import KV_CACHES
from minimtp.model.loaded import LOADED, LoadedModel
from minimtp.model.tokenizer import prompt_tokens

Prompt = str | bytes | Sequence[int]


def _draft(name: str, value: object) -> DraftConfig:
    if value is None:
        return NO_DRAFT
    return instance(DraftConfig, expected="a DraftConfig, or None to draft nothing")(name, value)


def _prompt(name: str, value: object) -> str | bytes | Iterable[int]:
    """Text, or token ids, which `start_text` checks."""
    is_text = isinstance(value, str | bytes | bytearray | memoryview)
    return TEXT(name, value) if is_text else value


def _stop(name: str, value: object) -> list[str | bytes]:
    return [] if value is None else _stops(name, value)


_stops = several(TEXT, str, bytes, bytearray, memoryview, expected="text, or a list of texts")
_prompts = several(_prompt, expected="a list of texts")
KV_CACHE = one_of(*KV_CACHES)
TEXT_OPTIONS: dict[str, Kind] = {
    "max_new_tokens": NEW_TOKENS,
    "sampling": SAMPLING,
    "seed": optional(SEED),
    "stop": _stop,
    "repetition_penalty": PENALTY,
}


@checked_arguments(loaded=LOADED, prompt=_prompt, draft=_draft, **TEXT_OPTIONS)
def generate(
    loaded: LoadedModel,
    prompt: Prompt,
    *,
    max_new_tokens: int = 128,
    sampling: SamplingParams = GREEDY,
    seed: int | None = None,
    draft: DraftConfig | None = DEFAULT_DRAFT,
    stop: str | bytes | Sequence[str | bytes] | None = (),
    repetition_penalty: float = 1.0,
) -> Generation:
    """Continue `prompt` with a loaded model (`minimtp.load`).

    Returns a `Generation`, an iterator over the new tokens: `loaded.tokenizer.decode(list(tokens))`
    turns them into text. draft: None drafts nothing. The other options are those of
    `Decoder.generate`. For more than one text, keep a `Decoder`: it prepares the model once.

    Raises UserError if an option or the prompt cannot be used.
    """
    return Decoder(loaded, draft).generate(
        prompt,
        max_new_tokens=max_new_tokens,
        sampling=sampling,
        seed=seed,
        stop=stop,
        repetition_penalty=repetition_penalty,
    )


class Decoder:
    """A loaded model that is ready to generate.

    The weights are laid out for the kernels once. Texts may be generated one after the other, in
    turns, or in several threads: each has a cache of its own while it is generated (states.py), and
    is the same as alone. All share the measured costs of forward passes.

    context_length: the maximum length of prompt and new text (default: the model's). A copy, or a
    decoder that was pickled, is made anew from the loaded model. threads: of the processor that
    compute a forward pass (default: as many as are fastest, which is measured). kv_cache: the
    numbers in which keys and values are stored. "float16" and "int8", only on the CPU, round them,
    which changes the model a little; long texts then take half or about a quarter of the memory,
    and less time. On the CPU, a model that was trained with an int8 cache always has one. Raises
    UserError if `draft`, `context_length` or `kv_cache` does not fit the model.
    """

    @checked_arguments(
        loaded=LOADED, draft=_draft, context_length=optional(whole(1)), threads=optional(THREADS),
        kv_cache=KV_CACHE,
    )  # fmt: skip
    def __init__(
        self,
        loaded: LoadedModel,
        draft: DraftConfig | None = DEFAULT_DRAFT,
        context_length: int | None = None,
        threads: int | None = None,
        kv_cache: str = "float32",
    ) -> None:
        self.loaded, self.draft, self._threads = loaded, draft, threads
        self._kv_cache = kv_cache
        if context_length is not None:
            context_length = loaded.limited_context(context_length)
        drafter = draft.drafter
        cache = None if kv_cache == "float32" else kv_cache
        self.target, heads = deploy(with_head(loaded.model, drafter), context_length, cache)
        self.target.use_threads(threads or fastest_threads(self.target))
        require_tree(draft.tree, self.target)
        self.drafter = make_drafter(drafter, loaded, heads, draft.memory, trees=draft.tree > 0)
        self._warm: set[tuple[object, ...]] = set()  # kinds of options whose kernels are loaded
        self._costs: Costs | None = None
        if self.drafter is not None:
            self.drafter.min_confidence = draft.min_confidence
            if draft.length == "auto":
                deepest = max(self.drafter.max_depth, draft.tree)
                self._costs = Costs(self.target, deepest, cost_identity(loaded, self.target))
        on_gpu = array_module(self.target.final_norm) is not np
        self._states = DecodingStates(self.target, self.drafter, self._new_policy, on_gpu)

    def __reduce__(self) -> tuple[type, tuple[LoadedModel, DraftConfig, int, int | None, str]]:
        length = self.target.context_length
        return Decoder, (self.loaded, self.draft, length, self._threads, self._kv_cache)

    @checked_arguments(prompt=_prompt, **TEXT_OPTIONS)
    def generate(
        self,
        prompt: Prompt,
        *,
        max_new_tokens: int = 128,
        sampling: SamplingParams = GREEDY,
        seed: int | None = None,
        stop: str | bytes | Sequence[str | bytes] | None = (),
        repetition_penalty: float = 1.0,
    ) -> Generation:
        """Continue `prompt`: text, bytes, or token ids, to which nothing is added.

        Returns a `Generation`: an iterator over the new token ids, as they are generated. An end
        token, if the text ends with one, is the last. `tokens` has all ids, with the prompt,
        `reason` says why the text ended, `statistics` has counts and times, and `rounds()` also
        shows the drafts.

        max_new_tokens: the text ends after as many, or where the model's context ends.
        sampling: temperature, top-k and top-p. The default is greedy: always the most likely token.
        (`SamplingParams()` samples at temperature 1.)
        seed: the same seed gives the same text. None (the default): above temperature 0, another
        text each time.
        stop: a string or several that end the text, in addition to the tokenizer's end tokens. The
        token that completes one is the last. None: no strings.
        repetition_penalty: above 1, tokens that the text already contains become less likely.

        Raises UserError if an option or the prompt cannot be used.
        """
        options = self._options(max_new_tokens, sampling, seed, stop, repetition_penalty)
        return start_text(self._states, self._tokens(prompt), options)

    @checked_arguments(prompts=_prompts, **TEXT_OPTIONS)
    def generate_batch(
        self,
        prompts: Iterable[Prompt],
        *,
        max_new_tokens: int = 128,
        sampling: SamplingParams = GREEDY,
        seed: int | None = None,
        stop: str | bytes | Sequence[str | bytes] | None = (),
        repetition_penalty: float = 1.0,
    ) -> Batch:
        """Continue each prompt as if it were alone (batch.py), with the options of `generate`.

        Returns a `Batch`: an iterator over (row, token), row r being the text of prompt r. The
        tokens of the rows are interleaved, and at most 16 rows run at the same time. `rows` are
        their `Generation`s. Row r gets the seed `row_seed(seed, r)`, which for row 0 is `seed`.

        Raises UserError if an option or a prompt cannot be used, or if there is no prompt.
        """
        options = self._options(max_new_tokens, sampling, seed, stop, repetition_penalty)
        return start_batch(self._states, [self._tokens(prompt) for prompt in prompts], options)

    def rule_for(self, seed: int | None) -> str:
        """Return the verification rule of a text with this seed (None: without one).

        The rule "auto" stands for shared noise if there is a seed, because only then does the text
        depend on the seed alone. Otherwise it stands for the block rule, which accepts most drafts,
        where that is compiled (for chains, on the CPU, with Numba), and else for shared noise.
        """
        if self.draft.rule != AUTO:
            return self.draft.rule
        compiled = array_module(self.target.final_norm) is np and self.target.kernel is not plain
        return "block" if seed is None and compiled and not self.draft.tree else "shared-noise"

    def _tokens(self, prompt: Prompt) -> Iterable[int]:
        is_text = isinstance(prompt, str | bytes)
        return prompt_tokens(self.loaded.tokenizer, prompt) if is_text else prompt

    def _new_policy(self, target: ModelRunner) -> DraftPolicy | None:
        """Return a policy for texts of `target`, a clone. All policies share the measured costs."""
        if self._costs is None:
            return None
        return make_policy(self._costs.of(target), self.drafter, self.draft.tree)

    def _options(
        self,
        max_new_tokens: int,
        sampling: SamplingParams,
        seed: int | None,
        stop: Sequence[str | bytes],
        repetition_penalty: float,
    ) -> GenerationOptions:
        """Return the options of a text, after loading the kernels that they need.

        The times of a text do not include loading kernels.
        """
        tokenizer, draft = self.loaded.tokenizer, self.draft
        penalized, rule = repetition_penalty != 1.0, self.rule_for(seed)
        options = GenerationOptions(
            max_new_tokens=max_new_tokens,
            sampling=sampling,
            seed=randbits(63) if seed is None else seed,
            rule=rule,
            draft_depth=None if draft.length == "auto" else draft.length,
            tree=draft.tree,
            stop_tokens=tokenizer.end_tokens,
            stop_strings=stop,
            decode_bytes=tokenizer.decode_bytes,
            spell=tokenizer.spell,
            logits_processors=[RepetitionPenalty(repetition_penalty)] if penalized else [],
        )
        kind = rule, sampling.greedy, sampling.top_k > 0, sampling.top_p < 1, penalized
        if kind not in self._warm:
            self._warm_up(options)
            self._warm.add(kind)
        return options

    def _warm_up(self, options: GenerationOptions) -> None:
        """Generate a few tokens and discard them: enough for one draft, without stop conditions.

        A user's function is not called for them, because it may remember what it was called with.
        """
        options = replace(options, max_new_tokens=3, stop_tokens=(), stop_strings=())
        state = self._states.take()
        drafter = state.drafter
        if isinstance(drafter, FunctionDrafter):
            drafter, options = None, replace(options, draft_depth=None)
        prompt = [self.loaded.tokenizer.end_token]
        with self._states.lock:
            for _ in start_generation(state.target, drafter, prompt, options):
                pass
        self._states.give_back(state)
