"""Requests from a file: a line per request with its arrival in seconds, prompt and new tokens,
separated by commas or spaces. Empty lines and lines that begin with # are skipped.
"""

from minimtp.errors import UserError, shown
from minimtp.plan.serving import Request
from minimtp.quoting import shown_path
from minimtp.records import read_file

MAX_BYTES = 64 * 2**20
MAX_TOKENS = 10**7
MAX_SECONDS = 1e9
ADVICE = "write a line per request: seconds, prompt tokens, new tokens"


def read_arrivals(path: str) -> tuple[Request, ...]:
    """Return the requests, sorted by arrival. Raises UserError for a file of another form."""
    content = read_file(path, advice=ADVICE, max_bytes=MAX_BYTES)
    requests = []
    for line_number, line in enumerate(content.decode("utf-8-sig", "replace").splitlines(), 1):
        cells = line.replace(",", " ").split()
        if not cells or cells[0].startswith("#"):
            continue
        request = _request(cells)
        if request is None:
            raise UserError(f"{shown_path(path)}: line {line_number} is {shown(line)!r}: {ADVICE}")
        requests.append(request)
    if not requests:
        raise UserError(f"{shown_path(path)} holds no requests: {ADVICE}")
    return tuple(sorted(requests))


def _request(cells: list[str]) -> Request | None:
    try:
        seconds, prompt, new = cells
        request = Request(float(seconds), int(prompt), int(new))
    except ValueError:
        return None
    fits = 1 <= request.prompt <= MAX_TOKENS and 1 <= request.new <= MAX_TOKENS
    return request if fits and 0 <= request.arrival <= MAX_SECONDS else None
