"""compare.json, the result of a comparison: read what is there, or do the work and write it."""

import json
from collections.abc import Callable
from pathlib import Path

from minimtp.compare.result_cache import CACHE, Figures
from minimtp.errors import UserError
from minimtp.files import FileKind, OneWriter, check_file, delete, write_text
from minimtp.records import check_value, parse_json, read_file, without_nan
from minimtp.training.run.interrupt import Interrupted

FILE_NAME = "compare.json"
RESULT = FileKind("a comparison", begins=b'{"configurations":')
CACHE_NAME = "measured.json"  # exists until everything is measured
ADVICE = "delete it to measure again"


def finish(
    out: Path,
    read: Callable[[], Figures | None],
    work: Callable[[], Figures],
    draw: Callable[[Figures, Path], None],
) -> Figures:
    """Return the result in the folder `out`.

    read: returns the result that is there, or None. work: does what is missing, and returns the
    result. draw: draws its figure.

    Raises UserError if the folder cannot be written or belongs to another comparison, and
    KeyboardInterrupt if the user stops the work.
    """
    with OneWriter(out) as writer:
        result = read()
        if result is None:
            writer.begin()
            check_file(out / FILE_NAME, RESULT)
            try:
                result = work()
            except Interrupted as stop:
                message = (
                    f"stopped and saved in {stop.folder}; run the same command again to resume"
                )
                raise KeyboardInterrupt(message) from None
            write_text(out / FILE_NAME, json.dumps(without_nan(result), indent=2) + "\n", RESULT)
            delete(out / CACHE_NAME, CACHE)
            draw(result, out)
    return result


def read_result(out: Path, form: type, setting: Figures) -> Figures | None:
    """Return the content of compare.json, None if there is none.

    form: of the content (schema.py). setting: JSON values. Raises UserError if the file is damaged,
    has an older format, or another setting.
    """
    path = out / FILE_NAME
    if not path.is_file():
        return None
    result = parse_json(read_file(path, advice=ADVICE), path, ADVICE)
    check_value(result, form, path, ADVICE)
    require_same(path, result, setting)
    return result


def require_same(path: Path, stored: Figures, setting: Figures) -> None:
    """Raise UserError if the file at `path` stores another setting."""
    different = [name for name, value in setting.items() if stored.get(name) != value]
    if different:
        raise UserError(
            f"{path} belongs to a comparison with other settings ({', '.join(different)}): choose "
            "another --out, or delete the folder"
        )
