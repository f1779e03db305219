"""The content of a `tokenizer.json`: its form, and the settings that would change the text."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Annotated, Any, NamedTuple

from msgspec import Meta, Struct

from minimtp.errors import UserError, shown
from minimtp.records import check_value, parse_json
from minimtp.training.recipe import MAX_VOCABULARY
from minimtp.training.tokenizers.spellings import ByteLevel, Pieces

ADVICE = "give a byte-level BPE file of the tokenizers library"
MAX_UNUSED = 4096  # ids between the tokens that no token has, beside one for each token
UNICODE_FORMS = ("NFC", "NFD", "NFKC", "NFKD")

TokenId = Annotated[int, Meta(ge=0, lt=MAX_VOCABULARY)]


class AddedToken(Struct):
    id: TokenId
    content: Annotated[str, Meta(min_length=1, max_length=10_000)]
    special: bool = False


class Model(Struct):
    vocab: dict[str, TokenId]
    merges: list[str | list[str]]
    type: str = "BPE"  # older files do not say it
    dropout: float | None = None
    unk_token: str | None = None
    continuing_subword_prefix: str | None = None
    end_of_word_suffix: str | None = None
    byte_fallback: bool = False
    ignore_merges: bool = False


class Content(Struct):
    """The parts of the file that minimtp reads. The library checks the others."""

    model: Model
    added_tokens: list[AddedToken] | None = None
    pre_tokenizer: dict[str, Any] | None = None
    normalizer: dict[str, Any] | None = None


@dataclass(frozen=True)
class TokenizerSettings:
    """What a model says about its tokenizer, beside the tokenizer's own file.

    end_token: ends a document (None: found by its name). end_tokens: more tokens at which generated
    text ends. begin_tokens: come before every prompt and document. chat_template: Jinja.
    vocabulary_size: the rows of the model's token table, if they are more than the tokens.
    """

    end_token: TokenId | None = None
    end_tokens: tuple[TokenId, ...] = ()
    begin_tokens: tuple[TokenId, ...] = ()
    chat_template: str | None = None
    vocabulary_size: Annotated[int, Meta(ge=2, le=MAX_VOCABULARY)] | None = None

    def to_dict(self) -> dict[str, object]:
        """Return the settings that differ from the default, for a checkpoint."""
        return {key: value for key, value in asdict(self).items() if value not in (None, ())}


class Checked(NamedTuple):
    """A checked file. content: without the settings that change the text. library: what the library
    reads, in which the spelling is left to minimtp. notes: a sentence for each setting that was
    switched off.
    """

    content: dict[str, Any]
    library: dict[str, Any]
    spelling: ByteLevel
    notes: tuple[str, ...]


def checked_content(content: str, name: str) -> Checked:
    """Check the content of a file, and switch off the settings that change the text.

    Raises UserError, which begins with `name`, if the file has another form, or if a setting
    belongs to what the model has learned, so that it cannot be switched off.
    """
    value = parse_json(content, name, ADVICE)
    declared = check_value(value, Content, name, ADVICE)
    model = declared.model
    if model.type != "BPE":
        raise UserError(f"{name} is a {shown(model.type)} model, not byte-level BPE: {ADVICE}")
    _check_ids(declared, name)
    for setting in ("continuing_subword_prefix", "end_of_word_suffix"):
        if getattr(model, setting):
            raise UserError(f"{name} has {setting}, which is not byte-level BPE: {ADVICE}")
    notes = []
    if model.dropout:
        value["model"]["dropout"] = None
        notes.append(f"BPE dropout {model.dropout:g}, which makes tokens random")
    for setting in ("truncation", "padding"):
        if value.get(setting):
            value[setting] = None
            notes.append(f"{setting}, which changes the length of a text")
    spelling, library = _spelling(value, name), {}
    if isinstance(spelling, Pieces):
        library = {"normalizer": None, "pre_tokenizer": word_stage(value), "decoder": None}
    else:
        notes += _switched_off_stages(value, name)
    added = value.get("added_tokens") or []
    if any(token.get("lstrip") or token.get("rstrip") for token in added):
        notes.append("added tokens that absorb the spaces beside them")
    for token in added:
        token |= {"lstrip": False, "rstrip": False}
    special = {token["content"] for token in added if token.get("special")}
    merges = value["model"]["merges"]
    value["model"]["merges"] = [merge for merge in merges if _joined(merge) not in special]
    sentences = tuple(f"{name}: switched off {note}" for note in dict.fromkeys(notes))
    return Checked(value, value | library, spelling, sentences)


def _switched_off_stages(value: dict[str, Any], name: str) -> Iterator[str]:
    """Switch off what changes the text before it is merged. Yield what that was."""
    forms = [part.get("type") for part in _parts(value.get("normalizer"), "normalizers")]
    other = next((form for form in forms if form not in UNICODE_FORMS), None)
    if other is not None:
        raise UserError(
            f"{name} has the normalizer {shown(other)}, which rewrites the text: {ADVICE}"
        )
    if forms:
        yield f"the normalizer {', '.join(forms)}, which rewrites characters"
    value["normalizer"] = None
    for part in _parts(value.get("pre_tokenizer"), "pretokenizers"):
        if part.get("add_prefix_space"):
            part["add_prefix_space"] = False
            yield "add_prefix_space, which adds a space to a text"


def _spelling(value: dict[str, Any], name: str) -> ByteLevel:
    """Return how the names of tokens spell text. Raises UserError for a mixture of both ways."""
    if not value["model"].get("byte_fallback"):
        return ByteLevel()
    prefix = ""
    for part in _parts(value.get("normalizer"), "normalizers"):
        match part:
            case {"type": "Prepend", "prepend": "\u2581"}:
                prefix = " "
            case {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}:
                pass
            case _:
                raise UserError(
                    f"{name} has the normalizer {shown(part.get('type'))}, which is not supported "
                    f"with byte_fallback: {ADVICE}"
                )
    for part in _parts(value.get("pre_tokenizer"), "pretokenizers"):
        if part.get("type") != "Metaspace" or part.get("replacement", "\u2581") != "\u2581":
            raise UserError(
                f"{name} has the pre-tokenizer {shown(part.get('type'))}, which is not supported "
                f"with byte_fallback: {ADVICE}"
            )
        if part.get("prepend_scheme", "always") != "never":
            prefix = " "
    return Pieces(prefix)


def word_stage(value: dict[str, Any]) -> dict[str, Any] | None:
    """Return the stage that cuts a text before each space, if the file does that."""
    stages = list(_parts(value.get("pre_tokenizer"), "pretokenizers"))
    if not any(stage.get("split", True) for stage in stages):
        return None
    return {
        "type": "Split",
        "pattern": {"String": "\u2581"},
        "behavior": "MergedWithNext",
        "invert": False,
    }


def _joined(merge: str | list[str]) -> str:
    """Return the name of the token that a merge makes."""
    return merge.replace(" ", "", 1) if isinstance(merge, str) else "".join(merge)


def _check_ids(content: Content, name: str) -> None:
    """Raise UserError if ids are far beyond the number of tokens, or belong to two tokens."""
    ids = list(content.model.vocab.values())
    if not ids:
        raise UserError(f"{name} has no tokens: {ADVICE}")
    if len(set(ids)) < len(ids):
        raise UserError(f"{name} has two tokens with one id: {ADVICE}")
    added = content.added_tokens or []
    count = len(ids) + len(added)
    largest = max([*ids, *(token.id for token in added)])
    if largest > 2 * count + MAX_UNUSED:
        raise UserError(f"{name} has the id {largest}, but only {count} tokens: {ADVICE}")


def _parts(stage: dict[str, Any] | None, members: str) -> Iterator[dict[str, Any]]:
    """Yield the stage of a tokenizer, or each member of a sequence of stages."""
    if isinstance(stage, dict):
        inside = stage.get(members)
        if stage.get("type") != "Sequence":
            yield stage
        elif isinstance(inside, list):
            for member in inside:
                yield from _parts(member, members)
