"""The errors a user is meant to read: the command line prints their message without a traceback."""


class UserError(Exception):
    """Something the user gave cannot be used; the message is one sentence that says what to do instead. Exit code 2."""


class MeasurementFailed(Exception):
    """What was measured cannot be believed, or a process of the measurement ended; the message says why. Exit code 1."""
