"""A text's growth as one page for a browser: which tokens were drafted, which stood, what it cost, round by round.

The page (trace.html beside this file) holds everything it needs: no network, no library, it opens from a file. Its data is
this module's `Trace`, and nothing in it was not measured: a round's seconds are what the generation's statistics gained by it.

**Text.** A token is bytes, and bytes need not be UTF-8. A character belongs to the token that completes it, a byte that is
no UTF-8 to its own token; such bytes travel as lone surrogates (PEP 383), which the page shows as hexadecimal. What a model
writes is data to the page and never markup: it lies in JSON with every "<" escaped, and is shown with `textContent` only.

**Beside plain decoding.** After the same time plain decoding is somewhere else in the text. Given its measured speed, the page
marks where.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path

from minimtp.decode.decoder import DraftConfig
from minimtp.decode.generation import Generation
from minimtp.decode.round import Round
from minimtp.decode.sampling import SamplingParams
from minimtp.decode.statistics import Statistics
from minimtp.errors import UserError
from minimtp.files import kind_at
from minimtp.model.transformer import LanguageModel
from minimtp.quant.packed import bits_per_weight

PLACE = "__TRACE__"  # of the data in the template
BEGINNING = "<!doctype html>\n<!-- minimtp trace -->\n"
DecodeBytes = Callable[[Sequence[int]], bytes]


class Trace:
    """A generation that remembers its rounds and their seconds while somebody else reads it.

    Read it as the generation itself: over its tokens, or over `rounds()`.
    """

    def __init__(self, generation: Generation) -> None:
        self.generation = generation
        self.taken: list[
            tuple[Round, float, float]
        ] = []  # the round, its seconds in the drafter and in the target

    @property
    def tokens(self) -> list[int]:
        return self.generation.tokens

    @property
    def statistics(self) -> Statistics:
        return self.generation.statistics

    @property
    def reason(self) -> str | None:
        return self.generation.reason

    def __iter__(self) -> Iterator[int]:
        return (token for round_ in self.rounds() for token in round_.tokens)

    def rounds(self) -> Iterator[Round]:
        """The generation's rounds, each remembered before it is handed on."""
        statistics, drafting, verifying = self.statistics, 0.0, 0.0
        for round_ in self.generation.rounds():
            if statistics.steps == 0:  # the prompt's pass
                self.taken.append((round_, 0.0, statistics.seconds_prompt))
            else:
                self.taken.append(
                    (
                        round_,
                        statistics.seconds_draft - drafting,
                        statistics.seconds_verify - verifying,
                    )
                )
            drafting, verifying = statistics.seconds_draft, statistics.seconds_verify
            yield round_

    def to_dict(
        self,
        decode_bytes: DecodeBytes,
        title: str,
        settings: Mapping[str, object],
        plain_tokens_per_second: float | None,
    ) -> dict[str, object]:
        """What the page is given.

        prompt: its text. rounds: for each, `drafts` (each draft's own text), `accepted` (how many stand), `text` (of each
        token emitted, as it reads in the whole), `next` (the own text of the token that follows the drafts that stand, None
        where a drafted stop token ended the text), `tree` (None, or each of its drafts with its depth and whether it stands),
        `draft` and `verify` (seconds; of the prompt's round only `verify`).
        """
        start = self.statistics.prompt_tokens
        read = owned_text([decode_bytes([token]) for token in self.tokens])
        rounds = []
        for round_, drafting, verifying in self.taken:
            drafts = [own_text(decode_bytes([draft])) for draft in round_.drafts]
            emitted = len(round_.tokens)
            follows = (
                own_text(decode_bytes(round_.tokens[-1:])) if emitted > round_.accepted else None
            )
            rounds.append({
                "drafts": drafts, "accepted": round_.accepted, "text": read[round_.position : round_.position + emitted],
                "next": follows, "tree": _walk(round_, decode_bytes), "draft": drafting, "verify": verifying,
            })  # fmt: skip
        return {
            "title": title, "settings": [[name, str(value)] for name, value in settings.items()], "reason": self.reason,
            "prompt": "".join(read[:start]), "rounds": rounds, "plainTokensPerSecond": plain_tokens_per_second,
        }  # fmt: skip


def describe(
    model: LanguageModel,
    parameters: int,
    drafter: str,
    draft: DraftConfig,
    sampling: SamplingParams,
    seed: int,
    repetition_penalty: float,
    kernels: str,
) -> dict[str, object]:
    """Return the settings that the page shows, by name. Settings at their defaults are left out."""
    settings: dict[str, object] = {
        "parameters": f"{parameters:,}",
        "bits per weight": f"{bits_per_weight(model):.2f}",
        "drafter": drafter,
        "temperature": f"{sampling.temperature:g}",
    }
    optional = {
        "top-k": (sampling.top_k, 0),
        "top-p": (sampling.top_p, 1.0),
        "draft-length": (draft.length, "auto"),
        "repetition-penalty": (repetition_penalty, 1.0),
        "tree": (draft.tree, 0),
    }
    settings |= {name: value for name, (value, default) in optional.items() if value != default}
    if sampling.temperature:
        settings |= {"rule": draft.rule, "seed": seed}
    return settings | {"kernels": kernels}


def _walk(round_: Round, decode_bytes: DecodeBytes) -> list[dict[str, object]] | None:
    """The rows of a round's tree in its depth-first order, the root left out; None for a chain."""
    if round_.tree is None:
        return None
    tree, row, stands = round_.tree, 0, set()
    for token in round_.drafts[: round_.accepted]:
        row = next(child for child in tree.children[row] if tree.tokens[child] == token)
        stands.add(row)
    return [
        {
            "draft": own_text(decode_bytes([tree.tokens[row]])),
            "depth": tree.depths[row],
            "stands": row in stands,
        }
        for row in range(1, len(tree.tokens))
    ]


def own_text(token: bytes) -> str:
    """The text of a token on its own; bytes that are no UTF-8 become the lone surrogates U+DC80 to U+DCFF."""
    return token.decode("utf-8", "surrogateescape")


def owned_text(tokens: Sequence[bytes]) -> list[str]:
    """The text of each token of a text: characters that it completes, and those of its bytes that are no UTF-8."""
    parts = [""] * len(tokens)
    owner, owner_ends, position = -1, 0, 0
    for letter in own_text(b"".join(tokens)):
        position += len(letter.encode("utf-8", "surrogateescape"))
        while owner_ends < position:
            owner += 1
            owner_ends += len(tokens[owner])
        parts[owner] += letter
    return parts


def require_place(path: str | Path) -> Path:
    """The path, if a page may be written there: a new file in a folder that exists, or an earlier trace.

    Raises UserError for anything else, so that a slip of the fingers costs nobody a file.
    """
    path = Path(path)
    kind = kind_at(path)
    if kind_at(path.parent) != "folder":
        raise UserError(
            f"the folder {path.parent} does not exist: make it, or give the trace another place"
        )
    if kind == "folder":
        raise UserError(
            f"{path} is a folder: give the trace the name of a file, such as {path / 'trace.html'}"
        )
    if kind != "nothing" and not _is_trace(path):
        raise UserError(
            f"{path} is there already and no trace: give the trace another name, or remove the file"
        )
    return path


def _is_trace(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(len(BEGINNING)) == BEGINNING.encode()
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}): give the trace another name"
        ) from None


def page(
    trace: Trace,
    decode_bytes: DecodeBytes,
    *,
    title: str,
    settings: Mapping[str, object],
    plain_tokens_per_second: float | None = None,
) -> str:
    """The page of a trace that has been read to its end, as HTML.

    title: what was decoded with. settings: name and value, shown as they are. plain_tokens_per_second: plain decoding's speed
    of the same text, where it was measured.
    """
    data = json.dumps(
        trace.to_dict(decode_bytes, title, settings, plain_tokens_per_second), separators=(",", ":")
    )
    return BEGINNING + _template().replace(PLACE, data.replace("<", "\\u003c"), 1)


def _template() -> str:
    return files("minimtp.decode.display").joinpath("trace.html").read_text(encoding="utf-8")
