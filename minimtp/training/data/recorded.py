"""The text that a run was trained on, which its checkpoint records: where it is now."""

import os
from collections.abc import Mapping
from pathlib import Path

from minimtp.errors import UserError
from minimtp.quoting import shown_path
from minimtp.training.data.corpus import Corpus, open_corpus
from minimtp.training.data.tokenizer import Tokenizer


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
    longer at its old place but at the same place relative to the run.

    Raises UserError as `open_corpus` does.
    """
    before = [str(source) for source in record.get("sources", ())]
    sources = _present_sources(record, folder)
    missing = [source for source in sources if os.path.isabs(source) and not os.path.exists(source)]
    if not missing:
        encoding = encoding or record.get("encoding")
        try:
            corpus = open_corpus(sources, tokenizer, encoding, out=out or folder, option=option)
        except UserError:
            if sources == before:
                raise
        else:
            if sources == before or corpus.fingerprint == record.get("fingerprint"):
                return corpus
        missing = before  # another text lies at the same place relative to the run
    raise UserError(
        f"the text of {shown_path(folder)} is no longer at {shown_path(missing[0])}: "
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
