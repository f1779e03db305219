"""The text that a run was trained on, which its checkpoint records: where it is now."""

import os
from collections.abc import Mapping
from pathlib import Path

from minimtp.errors import UserError
from minimtp.quoting import shown_path
from minimtp.training.data.corpus import Corpus, open_corpus
from minimtp.training.tokenizers.tokenizer import Tokenizer


def recorded_corpus(
    record: Mapping[str, object],
    folder: str | Path,
    tokenizer: Tokenizer | None = None,
    encoding: str | None = None,
    *,
    out: str | Path | None = None,
    option: str = "--corpus",
) -> Corpus:
    """Return the corpus that the run in `folder` was trained on.

    record: what its checkpoint stores. The other arguments are the same as for `open_corpus`.

    If the run was moved, a text inside the run folder moved with it. So did a text that is no
    longer at its old place but at the same place relative to the run. If it is another text or
    damaged there, and its old place still holds one, that one is used.

    Raises UserError as `open_corpus` does.
    """
    before = [str(source) for source in record.get("sources", ())]
    sources = _present_sources(record, folder)
    encoding, damage = encoding or record.get("encoding"), None
    for places in [sources] if sources == before else [sources, before]:
        if any(os.path.isabs(place) and not os.path.exists(place) for place in places):
            continue
        try:
            corpus = open_corpus(places, tokenizer, encoding, out=out or folder, option=option)
        except UserError as error:
            damage = damage or error
            continue
        if places == before or corpus.fingerprint == record.get("fingerprint"):
            return corpus
    own = Path(folder).resolve()
    if damage is not None and (sources == before or Path(sources[0]).is_relative_to(own)):
        raise damage
    missing = next((s for s in before if os.path.isabs(s) and not os.path.exists(s)), before[0])
    raise UserError(
        f"the text of {shown_path(folder)} is no longer at {shown_path(missing)}: "
        f"give it with {option}"
    )


def record_in(
    out: str | Path, record: Mapping[str, object], folder: str | Path
) -> dict[str, object]:
    """Return the record of the run in `folder` for a run in `out` with the same text."""
    if not record:
        return {}
    sources = _present_sources(record, folder)
    return {**record, "sources": sources, "folder": str(Path(out).resolve())}


def _present_sources(record: Mapping[str, object], folder: str | Path) -> list[str]:
    """Return the sources of the run that is in `folder` now."""
    sources = [str(source) for source in record.get("sources", ())]
    before = record.get("folder")
    return sources if before is None else [_moved(s, str(before), folder) for s in sources]


def _moved(source: str, before: str, folder: str | Path) -> str:
    """Return the present place of a text of a run whose folder was `before`."""
    if not os.path.isabs(source):  # the name of a text
        return source
    relative = os.path.relpath(source, before)
    present = Path(os.path.normpath(Path(folder).resolve() / relative))
    inside = not relative.startswith(os.pardir)
    if (inside or not os.path.exists(source)) and os.path.exists(present):
        return str(present)
    return source
