"""Show how a text was generated, round by round, as one page for a browser.

The page (trace.html next to this file) contains everything it needs, so it opens from a file and
uses no network and no library. All its numbers were measured: the seconds of a round are those that
the generation's statistics gained in it.

**Text.** A token is bytes, and bytes need not be UTF-8. A character belongs to the token that
completes it, and an invalid byte belongs to its own token. Invalid bytes are stored as lone
surrogates (PEP 383), and the page shows them as hexadecimal numbers. The page treats generated text
as data and never as markup: the text lies in JSON with every "<" escaped, and it is shown with
`textContent` only.

**Comparison with plain decoding.** Given the measured speed of plain decoding, the page marks the
place that plain decoding would have reached in the same time.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from typing import NamedTuple

from minimtp.decode.generation import Generation
from minimtp.decode.round import Round
from minimtp.decode.statistics import Statistics
from minimtp.decode.stopping import DecodeBytes
from minimtp.files import FileKind

PLACEHOLDER = "__TRACE__"  # the template's marker for the data
BEGINNING = "<!doctype html>\n<!-- minimtp trace -->\n"
TRACE = FileKind("a trace", begins=BEGINNING.encode())


class TimedRound(NamedTuple):
    round: Round
    seconds_draft: float
    seconds_verify: float


class Trace:
    """A generation that records its rounds and their times while it is read.

    Read it like the generation itself: over its tokens, or over `rounds()`.
    """

    def __init__(self, generation: Generation) -> None:
        self.generation = generation
        self.taken: list[TimedRound] = []  # the rounds so far

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
        """Yield the generation's rounds, and record each of them first."""
        statistics = self.statistics
        drafting, verifying = statistics.seconds_draft, statistics.seconds_verify
        for round_ in self.generation.rounds():
            if statistics.steps == 0:  # prefill
                taken = TimedRound(round_, 0.0, statistics.seconds_prompt)
            else:
                seconds_draft = statistics.seconds_draft - drafting
                seconds_verify = statistics.seconds_verify - verifying
                taken = TimedRound(round_, seconds_draft, seconds_verify)
            self.taken.append(taken)
            drafting, verifying = statistics.seconds_draft, statistics.seconds_verify
            yield round_

    def to_dict(
        self,
        decode_bytes: DecodeBytes,
        title: str,
        settings: Mapping[str, object],
        plain_tokens_per_second: float | None,
    ) -> dict[str, object]:
        """Return the data of the page; `_round_data` describes the data of a round."""
        texts = owned_text([decode_bytes([token]) for token in self.tokens])
        prompt = texts[: self.statistics.prompt_tokens]
        return {
            "title": title,
            "settings": [[name, str(value)] for name, value in settings.items()],
            "reason": self.reason,
            "prompt": "".join(prompt),
            "rounds": [_round_data(taken, texts, decode_bytes) for taken in self.taken],
            "plainTokensPerSecond": plain_tokens_per_second,
        }


def _round_data(
    taken: TimedRound, texts: Sequence[str], decode_bytes: DecodeBytes
) -> dict[str, object]:
    """Return the data of one round.

    drafts: the text of each draft on its own. accepted: the number of accepted drafts. text: the
    text of each emitted token, as a part of the whole text. next: the text, on its own, of the
    token that follows the accepted drafts; None if an accepted stop token ended the text. tree:
    None for a chain. draft, verify: seconds.
    """
    round_, seconds_draft, seconds_verify = taken
    end = round_.position + len(round_.tokens)
    follows = None
    if len(round_.tokens) > round_.accepted:
        follows = own_text(decode_bytes(round_.tokens[-1:]))
    return {
        "drafts": [own_text(decode_bytes([draft])) for draft in round_.drafts],
        "accepted": round_.accepted,
        "text": texts[round_.position : end],
        "next": follows,
        "tree": _tree_data(round_, decode_bytes),
        "draft": seconds_draft,
        "verify": seconds_verify,
    }


def _tree_data(round_: Round, decode_bytes: DecodeBytes) -> list[dict[str, object]] | None:
    """Return the nodes of the round's tree in depth-first order, without the root; None for a
    chain.
    """
    tree = round_.tree
    if tree is None:
        return None
    row, accepted = 0, set()
    for token in round_.drafts[: round_.accepted]:
        row = next(child for child in tree.children[row] if tree.tokens[child] == token)
        accepted.add(row)
    return [
        {
            "draft": own_text(decode_bytes([tree.tokens[row]])),
            "depth": tree.depths[row],
            "accepted": row in accepted,
        }
        for row in range(1, len(tree.tokens))
    ]


def own_text(token: bytes) -> str:
    """Return the text of a token on its own; invalid bytes become the lone surrogates U+DC80 to
    U+DCFF.
    """
    return token.decode("utf-8", "surrogateescape")


def owned_text(tokens: Sequence[bytes]) -> list[str]:
    """Return for each token of a text the characters that it completes, and its invalid bytes."""
    parts = [""] * len(tokens)
    owner, owner_ends, position = -1, 0, 0
    for letter in own_text(b"".join(tokens)):
        position += len(letter.encode("utf-8", "surrogateescape"))
        while owner_ends < position:
            owner += 1
            owner_ends += len(tokens[owner])
        parts[owner] += letter
    return parts


def page(
    trace: Trace,
    decode_bytes: DecodeBytes,
    *,
    title: str,
    settings: Mapping[str, object],
    plain_tokens_per_second: float | None = None,
) -> str:
    """Return the HTML page of a finished trace.

    title: the name of the model. settings: names and values to show. plain_tokens_per_second: the
    speed of plain decoding on the same text, if it was measured.
    """
    data = trace.to_dict(decode_bytes, title, settings, plain_tokens_per_second)
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    return BEGINNING + _template().replace(PLACEHOLDER, text, 1)


def _template() -> str:
    return files("minimtp.decode.display").joinpath("trace.html").read_text(encoding="utf-8")
