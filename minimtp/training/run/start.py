"""Where a run starts: with new weights, from its own checkpoint, or from the weights of another
run.

`Start` is the user's request. `begin` reads the checkpoints and the text, checks that they fit the
recipe, and returns the `Beginning` that training continues from.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from minimtp.arguments import FLAG, PATH, check_fields, optional, whole
from minimtp.backend import to_numpy
from minimtp.engine.module import named_arrays
from minimtp.errors import UserError, naming
from minimtp.files import OneWriter, check_folder
from minimtp.machine import available_cores
from minimtp.model.loaded import TOKENIZER
from minimtp.model.tokenizer import same_tokens
from minimtp.quoting import shown_path
from minimtp.training.build import transplant
from minimtp.training.data.corpus import Corpus, open_corpus
from minimtp.training.data.recorded import recorded_corpus
from minimtp.training.recipe import Recipe
from minimtp.training.run import checkpoint
from minimtp.training.run.checkpoint import Checkpoint
from minimtp.training.run.distributed import SingleProcess
from minimtp.training.run.folder import LoadedRun, load_run, started
from minimtp.training.run.quantized_start import check_steps, read_quantized_start
from minimtp.training.tokenizers.tokenizer import Tokenizer, tokenizer_from_dict

SELF_GENERATED = "self-generated"  # the folder of the text that a model generated for the run


@dataclass(frozen=True)
class Start:
    """Where a run starts. The default is new weights.

    resume: continue the run in the output folder.
    start_from: the model whose weights are loaded: a run folder, or any model that `minimtp.load`
        has loaded with dequantize=True. Modules that it does not have start with new weights.
    continue_schedule: with a run folder in `start_from`, also load the optimizer's moments, and
        continue at that run's step, and so at its position in the text and in the schedule.
    teacher: the model whose probabilities the recipe follows: a run folder, or a loaded model. A
        resumed run knows its teacher if it is a run folder.
    quantized_start: a packed model made from `start_from` (minimtp quantize), whose codes and steps
        training starts from: a run folder, or a loaded model. For recipes with weight_scales
        learned-from-start. See quant/qat/start_steps.py.
    self_generated: train on this many tokens that the model in `start_from` generates first
        (self_generated/), as continuations of the corpus, instead of on the corpus.
    tokenizer: the tokenizer of a new run. None means the tokenizer of `start_from`, or bytes
    without `start_from`.
    """

    resume: bool = False
    start_from: str | Path | LoadedRun | None = None
    continue_schedule: bool = False
    teacher: str | Path | LoadedRun | None = None
    quantized_start: str | Path | LoadedRun | None = None
    self_generated: int | None = None
    tokenizer: Tokenizer | None = None

    def __post_init__(self) -> None:
        check_fields(
            self,
            resume=FLAG,
            start_from=optional(_model),
            continue_schedule=FLAG,
            teacher=optional(_model),
            quantized_start=optional(_model),
            self_generated=optional(whole(1)),
            tokenizer=optional(TOKENIZER),
        )


def _model(name: str, value: object) -> Path | LoadedRun:
    """The kind of an argument that is a run folder or a loaded model (arguments.py)."""
    return value if isinstance(value, LoadedRun) else PATH(name, value)


@dataclass(frozen=True)
class Beginning:
    """The checked beginning of a run.

    resumed: the checkpoint in the output folder if the run is resumed, else None.
    source: the checkpoint of the run to start from if there is one and the run is not resumed.
    quantized_start: the packed model whose codes and steps training starts from, or None.
    """

    recipe: Recipe
    corpus: Corpus
    resumed: Checkpoint | None
    source: Checkpoint | None
    quantized_start: LoadedRun | None = None


def begin(
    start: Start,
    recipe: Recipe | None,
    corpus: Corpus | Sequence[str | Path],
    writer: OneWriter,
    group: SingleProcess,
    device: str,
    encoding: str | None = None,
) -> Beginning:
    """Read all that the run starts from. Generates the text of a run on self-generated text.

    encoding: of the files in `corpus` that are not UTF-8.

    Raises UserError if the folder, the recipe, the text and the weights do not fit together.
    """
    out = writer.folder
    check_folder(out)
    resumed = _resumed(out, recipe, start.resume)
    if not resumed:
        checkpoint.check_place(out)
    recipe = recipe or (resumed.recipe if resumed else Recipe())
    source = None
    if start.start_from is not None and not resumed:
        source = _source(start.start_from, start.continue_schedule)
    if start.self_generated is not None and start.start_from is None:
        raise UserError(
            "self_generated text is generated by another model: name that model with --from"
        )
    if not isinstance(corpus, Corpus):
        folder, origin = (out, resumed) if resumed else (path_of(start.start_from), source)
        corpus = _open_corpus(corpus, encoding, start.tokenizer, out, folder, origin)
    if start.self_generated is not None and not resumed:
        corpus = _generate_corpus(start, corpus, writer, recipe.seed, group, device)
    _check_corpus(corpus, recipe, resumed)
    if source and not same_tokens(tokenizer_from_dict(source.tokenizer), corpus.tokenizer):
        raise UserError(
            f"the weights of {path_of(start.start_from)} belong to another tokenizer: "
            "leave out --tokenizer to use that model's tokenizer"
        )
    quantized = None
    if not resumed:
        quantized = _quantized_start(start, source, recipe)
    return Beginning(recipe, corpus, resumed, source, quantized)


def path_of(model: Path | LoadedRun | None) -> Path | None:
    """Return the path of a model that was given as a path or loaded."""
    return model.path if isinstance(model, LoadedRun) else model


def _source(model: Path | LoadedRun, continue_schedule: bool) -> Checkpoint:
    """Return the checkpoint of a run folder, or a loaded model in the form of one."""
    if not isinstance(model, LoadedRun):
        return checkpoint.read(model, optimizer=continue_schedule)
    if continue_schedule:
        raise UserError(
            f"{model.path} has no schedule to continue: leave out --continue-schedule, or start "
            "from a folder of minimtp train"
        )
    return Checkpoint(
        model.recipe,
        {name: to_numpy(array) for name, array in named_arrays(model.model).items()},
        tokenizer=model.tokenizer.to_dict(),
        packed=None if model.packed is None else {},
    )


def _quantized_start(start: Start, source: Checkpoint | None, recipe: Recipe) -> LoadedRun | None:
    """Return the packed model that the run starts from, or None.

    Raises UserError unless it fits the recipe and the source.
    """
    check_steps(recipe, source, start.quantized_start is not None)
    if start.quantized_start is None:
        return None
    if start.continue_schedule:
        raise UserError(
            "quantized_start begins a schedule of its own: leave out --continue-schedule"
        )
    return read_quantized_start(start.quantized_start, source, recipe)


def branch(folder: str | Path, source: Checkpoint, recipe: Recipe, keep_step: bool) -> Checkpoint:
    """Return the part of `source`, the run in `folder`, that a run of `recipe` can load.

    keep_step: continue at the step of `source`, instead of at step 0.
    """
    if source.packed is not None:
        raise UserError(
            f"{folder} holds a quantized model, which cannot be trained: "
            "start from the run that it was made from"
        )
    optimizer = {}
    for kind in ("first", "second", "average"):
        arrays = {
            name.removeprefix(f"{kind}."): array
            for name, array in source.optimizer.items()
            if name.startswith(f"{kind}.")
        }
        arrays = transplant(arrays, source.recipe, recipe)
        optimizer |= {f"{kind}.{name}": array for name, array in arrays.items()}
    parameters = transplant(source.parameters, source.recipe, recipe)
    step = source.step if keep_step else 0
    return Checkpoint(recipe, parameters, optimizer, step, source=source.source)


def open_folder(writer: OneWriter) -> None:
    """Create and lock the run folder, unless that is done.

    Raises UserError if another process has started a run there after `begin` looked.
    """
    if writer.begin() and started(writer.folder):
        raise UserError(
            f"another command has started a run in {shown_path(writer.folder)} meanwhile: "
            "choose another --out"
        )


def _resumed(out: Path, recipe: Recipe | None, resume: bool) -> Checkpoint | None:
    """Return the checkpoint to resume from, or None if the run starts at step 0.

    Raises UserError if the content of `out` and the request do not fit together.
    """
    if not started(out):
        if resume:
            raise UserError(f"there is no run to resume in {out}: leave out --resume to start one")
        return None
    if not checkpoint.exists(out):
        if resume and recipe is None:
            raise UserError(
                f"{out} holds a run without a checkpoint: "
                "repeat its whole command with --resume to start it over"
            )
        if resume:
            return None  # it was stopped before its first checkpoint, so it starts over
        raise UserError(
            f"{out} holds a run without a checkpoint: "
            "add --resume to start it over, or choose another --out"
        )
    stored = checkpoint.read(out)
    checkpoint.require_weights(stored, out / checkpoint.FILE_NAME)
    if not resume:
        if stored.step >= stored.recipe.steps:
            raise UserError(f"{out} already holds a finished run: choose another --out")
        raise UserError(
            f"{out} already holds a run at step {stored.step} of {stored.recipe.steps}: "
            "add --resume to continue it, or choose another --out"
        )
    if stored.packed is not None:
        raise UserError(
            f"{out} holds a quantized model, which cannot be trained: choose another --out"
        )
    different = stored.recipe.differences(recipe) if recipe else []
    if different:
        name = different[0]
        raise UserError(
            f"the run in {out} has {name} {getattr(stored.recipe, name)}, "
            f"not {getattr(recipe, name)}: "
            "resume it without changing its recipe, or choose another --out"
        )
    return stored


def _open_corpus(
    sources: Sequence[str | Path],
    encoding: str | None,
    tokenizer: Tokenizer | None,
    out: Path,
    folder: str | Path | None,
    origin: Checkpoint | None,
) -> Corpus:
    """Open the requested corpus.

    origin: the checkpoint of the run in `folder`, whose text and tokenizer are the defaults.
    """
    if origin:
        with naming(origin.source):
            tokenizer = tokenizer or tokenizer_from_dict(origin.tokenizer)
        if not sources:
            return recorded_corpus(origin.corpus, folder, tokenizer, encoding, out=out)
        if folder is out:
            encoding = encoding or origin.corpus.get("encoding")
    return open_corpus(sources, tokenizer, encoding, out=out)


def _generate_corpus(
    start: Start, corpus: Corpus, writer: OneWriter, seed: int, group: SingleProcess, device: str
) -> Corpus:
    """Generate text with the run in `start.start_from`, and open it as a corpus."""
    if group.size > 1:
        raise UserError(
            "self_generated text is generated by one process: "
            "run the command without mpirun and with --stop-at-step 1, "
            "then resume with mpirun and --resume"
        )
    # The imports are here because this is the only part of training that needs the decoder.
    from minimtp.training.self_generated.generate import write_self_generated
    from minimtp.training.self_generated.mixture import OWN_TEXT, normalized
    from minimtp.training.self_generated.requests import Requests

    run = start.start_from
    if not isinstance(run, LoadedRun):
        run = load_run(run, device)
    open_folder(writer)
    folder, context = writer.folder / SELF_GENERATED, run.config.context_length
    requests = Requests(run.tokenizer, context, seed, own_text=corpus)
    tokens, mixture = start.self_generated, normalized(OWN_TEXT)
    write_self_generated(run, requests, mixture, folder, tokens, threads=available_cores())
    generated = open_corpus([folder], corpus.tokenizer)
    generated.more = "raise --self-generated"
    return generated


def _check_corpus(corpus: Corpus, recipe: Recipe, resumed: Checkpoint | None) -> None:
    """Raise UserError unless the corpus fits the recipe and is the one that the run began with."""
    if recipe.vocabulary_size != corpus.tokenizer.vocabulary_size:
        raise UserError(
            f"vocabulary_size is {recipe.vocabulary_size}, but the tokenizer has "
            f"{corpus.tokenizer.vocabulary_size} tokens: set vocabulary_size to that"
        )
    corpus.require(recipe.batch_size, recipe.tokens_per_sequence, recipe.draft_depth)
    if resumed and resumed.corpus.get("fingerprint") != corpus.fingerprint:
        raise UserError(
            f"the run began on the text with fingerprint "
            f"{str(resumed.corpus.get('fingerprint'))[:16]}, but {corpus.name} has "
            f"{corpus.fingerprint[:16]}: resume with the same text"
        )
