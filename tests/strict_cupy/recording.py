"""What the stand-in counts, and whether it records: the state that its parts share."""

from types import SimpleNamespace

traffic = SimpleNamespace(reads=0, uploads=0, launches=0)
capture: "list | None" = None  # the operations of the stream that is being captured


class Refused(TypeError):
    """Raised for operations that CuPy rejects, too."""


class CaptureError(RuntimeError):
    """Raised for operations that are impossible while a stream is captured."""
